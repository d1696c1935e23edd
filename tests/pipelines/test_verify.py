"""The verify command: whatever is done to whichever file is found, and nothing is touched."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from pipelines.lock import LOCK_FILE
from pipelines.tile import STATUS_COLUMNS
from pipelines.verify import STATES, verify_stage
from wsi_hr.errors import StoreError

SLIDE = "slide_003"


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << place % 8
    path.write_bytes(content)


HARMS = {
    "delete": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncate": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flip the first byte": lambda path: flip(path, 0),
    "flip a byte in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "flip the last byte": lambda path: flip(path, path.stat().st_size - 1),
    "append": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "make a folder of it": lambda path: (path.unlink(), path.mkdir()),
}


def test_a_sound_folder_is_sound_and_left_as_it_is(cli, own_store, tree):
    before = tree(own_store)
    ended = cli("verify", own_store)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "8 stores: 8 sound\n"
    assert tree(own_store) == before
    assert not (own_store / LOCK_FILE).exists()
    assert cli("verify", own_store / f"{SLIDE}.zarr").out == "1 stores: 1 sound\n"


def test_stores_of_several_scales_are_sound(cli, two_scales):
    assert cli("verify", two_scales).out == "2 stores: 2 sound\n"


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param("delete", marks=pytest.mark.fault("E1")),
        pytest.param("empty", marks=pytest.mark.fault("E2")),
        pytest.param("truncate", marks=pytest.mark.fault("E3")),
        pytest.param("flip the first byte", marks=pytest.mark.fault("E4")),
        pytest.param("flip a byte in the middle", marks=pytest.mark.fault("E4")),
        pytest.param("flip the last byte", marks=pytest.mark.fault("E4")),
        "append",
        "make a folder of it",
    ],
)
def test_harm_to_any_file_of_a_store_is_found(store, tmp_path, harm):
    """FAULTS row E, every file there is, one at a time; the store beside it stays sound."""
    names = [
        path.relative_to(store / f"{SLIDE}.zarr") for path in files_of(store / f"{SLIDE}.zarr")
    ]
    assert len(names) > 15
    assert {"manifest.json", "zarr.json"} <= {name.name for name in names}
    work = tmp_path / "store"
    work.mkdir()
    shutil.copytree(store / "slide_008.zarr", work / "slide_008.zarr")
    missed = []
    for name in names:
        damaged = shutil.copytree(store / f"{SLIDE}.zarr", work / f"{SLIDE}.zarr")
        HARMS[harm](damaged / name)
        whole, harmed = verify_stage([work / "slide_008.zarr", damaged]).stores
        assert (whole.state, whole.problems) == ("sound", ())
        if harmed.state == "sound" or not harmed.problems:
            missed.append(str(name))
        told = harmed.problems[0]
        assert harmed.state in STATES
        assert str(damaged) in told
        if name.name != "manifest.json":
            assert name.name in told
        shutil.rmtree(damaged)
    assert missed == []


def test_every_store_is_in_one_state_and_every_problem_one_sentence(cli, own_store):
    flip(next((own_store / "slide_008.zarr").rglob("c.0*")), 1000)
    (own_store / "slide_001.zarr/manifest.json").unlink()
    shutil.rmtree(own_store / "slide_002.zarr")
    (own_store / "slide_002.zarr").mkdir()
    (own_store / "slide_002.zarr/zarr.json").write_text("{}")
    (own_store / "slide_003.zarr").rename(own_store / "slide_333.zarr")
    (own_store / "slide_004.zarr/notes.txt").write_text("mine")
    shutil.copytree(own_store / "slide_005.zarr", own_store / "slide_005.zarr.tmp")
    (own_store / "slide_006.zarr.old").mkdir()
    report = verify_stage([own_store])
    assert {check.path.name: check.state for check in report.stores} == {
        "slide_008.zarr": "damaged",
        "slide_001.zarr": "unfinished",
        "slide_002.zarr": "foreign",
        "slide_004.zarr": "damaged",
        "slide_005.zarr": "sound",
        "slide_006.zarr": "sound",
        "slide_007.zarr": "sound",
        "slide_333.zarr": "damaged",
    }
    ended = cli("verify", own_store)
    assert ended.code == 1
    *sentences, summary = ended.out.splitlines()
    assert sentences == report.sentences
    assert summary == (
        "8 stores: 3 sound, 3 damaged, 1 unfinished, 1 foreign; 3 problems beside the stores"
    )
    for part in (
        "its bytes have changed",
        "not finished, or its manifest.json is gone",
        "a zarr of another program",
        "notes.txt: not part of the store; delete this file",
        "is the store of slide 'slide_003'; rename it to slide_003.zarr",
        "slide_003.zarr: missing, though status.csv says done",
        "slide_005.zarr.tmp: left by an interrupted run",
        "slide_006.zarr.old: left by an interrupted run",
    ):
        assert sum(part in sentence for sentence in sentences) == 1, part
    assert (own_store / "slide_005.zarr.tmp").is_dir()
    assert (own_store / "slide_006.zarr.old").is_dir()


@pytest.mark.parametrize("name", ["tile.json", "status.csv"])
@pytest.mark.parametrize("harm", ["delete", "empty", "truncate hard"])
def test_harm_to_the_folders_own_files_is_told(own_store, name, harm):
    path = own_store / name
    if harm == "truncate hard":
        path.write_bytes(path.read_bytes()[:20])
    else:
        HARMS[harm](path)
    report = verify_stage([own_store])
    (sentence,) = report.problems
    assert sentence.startswith(f"{path}: ")
    assert {check.state for check in report.stores} == {"sound"}


def test_settings_the_stores_were_not_cut_with_are_told(own_store):
    settings = json.loads((own_store / "tile.json").read_text())
    (own_store / "tile.json").write_text(json.dumps({**settings, "deadline_s": 7.0}))
    assert verify_stage([own_store]).problems == ()
    (own_store / "tile.json").write_text(json.dumps({**settings, "min_tissue": 0.9}))
    problems = verify_stage([own_store]).problems
    assert len(problems) == 8
    assert "slide_001.zarr: was cut with another tile.min_tissue than tile.json" in problems[0]
    (own_store / "tile.json").write_text(json.dumps({**settings, "mpp": "half"}))
    assert "tile.json: damaged" in verify_stage([own_store]).problems[0]


def test_rows_that_are_not_done_need_no_store(own_store):
    with (own_store / "status.csv").open("a", newline="") as handle:
        row = dict.fromkeys(STATUS_COLUMNS, "") | {"slide_id": "blank", "status": "no_tissue"}
        csv.DictWriter(handle, STATUS_COLUMNS).writerow(row)
    assert verify_stage([own_store]).sentences == []


def test_a_folder_whose_stores_are_all_gone_is_no_sound_one(cli, own_store):
    for path in own_store.glob("*.zarr"):
        shutil.rmtree(path)
    ended = cli("verify", own_store)
    assert ended.code == 1
    assert ended.out.count("missing, though status.csv says done") == 8


def test_the_slides_as_they_are_now(cli, own_store, cohort, tmp_path):
    """A byte in the middle of a slide: too deep for what tile looks at when it decides to keep."""
    slides = shutil.copytree(cohort / "slides", tmp_path / "slides")
    assert cli("verify", own_store, "--slides", slides).out == "8 stores: 8 sound\n"
    flip(slides / "slide_001.svs", (slides / "slide_001.svs").stat().st_size // 2)
    with (slides / "slide_002.svs").open("ab") as handle:
        handle.write(b"\0")
    (slides / "slide_004.svs").unlink()
    (slides / "slide_005.svs").unlink()
    (slides / "slide_005.svs").symlink_to(slides / "nowhere.svs")
    report = verify_stage([own_store], [slides])
    states = {check.path.stem: check.state for check in report.stores if check.state != "sound"}
    assert states == {
        "slide_001": "outdated",
        "slide_002": "outdated",
        "slide_004": "unmatched",
        "slide_005": "unmatched",
    }
    ended = cli("verify", own_store, "--slides", slides)
    assert ended.code == 1
    assert ended.out.count("is not the file it was made from any more") == 2
    assert "slide_004.zarr: no slide of this name among those given" in ended.out


def test_where_there_is_no_store_nothing_can_be_verified(cli, tmp_path, own_store):
    (tmp_path / "empty").mkdir()
    for args, sentence in (
        ((tmp_path / "none",), "no such folder"),
        ((tmp_path / "empty",), "no patch store there"),
        ((tmp_path / "none.zarr",), "no such patch store"),
        ((own_store, "--slides", tmp_path / "empty"), "no slides found"),
    ):
        ended = cli("verify", *args)
        assert (ended.code, ended.out) == (2, "")
        assert sentence in ended.err
        assert ended.err.count("\n") == 1
    with pytest.raises(StoreError):
        verify_stage([own_store, tmp_path / "none"])
