"""Section E of docs/faults.md: every file of a store harmed in turn, by command."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import pytest
import zarr

from benchmarks.command_runs import tree
from wsi_hr.store.chunks import seal
from wsi_hr.store.manifest import commit_folder

from .oracle import Ended, fault, timed, wrong_ending, wrong_table, wrong_tree

SLIDES = tuple(f"slide_00{number}" for number in range(1, 9))
SETTINGS = ("--encoder", "test_resnet", "--epochs", 1, "--device", "cpu")
Harm = Callable[[Path], object]


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def names(store) -> list[str]:
    """Every file of a store, relative to it."""
    folder = store / f"{SLIDES[0]}.zarr"
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert len(found) > 15
    return found


@pytest.fixture
def train(cli, cohort, tmp_path) -> Callable[..., Ended]:
    labels = ("--labels", cohort / "labels.csv", "--set", "train.threads=1")
    return lambda store: timed(cli, "train", store, *labels, "-o", tmp_path / "run", *SETTINGS)


@pytest.fixture
def predict(cli, run, tmp_path) -> Callable[..., Ended]:
    out = ("-o", tmp_path / "out", "--device", "cpu")
    return lambda store: timed(cli, "predict", run, store, *out)


def harmed(own_store: Path, harm: Harm, names: list[str], sound: Path) -> dict[str, str]:
    """Harm a file of each store but the last; the harmed file by slide."""
    chosen = dict(zip(SLIDES[:-1], names, strict=False))
    for slide, name in chosen.items():
        shutil.rmtree(own_store / f"{slide}.zarr")
        shutil.copytree(sound / f"{slide}.zarr", own_store / f"{slide}.zarr")
        harm(own_store / f"{slide}.zarr" / name)
    for slide in SLIDES[len(chosen) : -1]:
        shutil.rmtree(own_store / f"{slide}.zarr")
        shutil.copytree(sound / f"{slide}.zarr", own_store / f"{slide}.zarr")
    return chosen


def portions(names: list[str]) -> list[list[str]]:
    each = len(SLIDES) - 1
    return [names[first : first + each] for first in range(0, len(names), each)]


@pytest.mark.parametrize("harm", [fault("E5", delete), fault("E6", empty), fault("E7", cut)])
def test_train_refuses_whatever_lacks_bytes_by_name(
    train, own_store, store, names, tmp_path, harm: Harm
):
    for portion in portions(names):
        chosen = harmed(own_store, harm, portion, store)
        ended = train(own_store)
        assert wrong_ending(ended, 2) == []
        assert f"{len(chosen)} of 8 labelled slides cannot be trained on" in ended.err
        told = [slide for slide in SLIDES if re.search(rf"\b{slide}\b", ended.err)]
        assert told == list(chosen)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("harm", [fault("E9", delete), fault("E10", empty), fault("E11", cut)])
def test_predict_fails_whatever_lacks_bytes_by_name(
    predict, own_store, store, predicted, names, tmp_path, harm: Harm
):
    for portion in portions(names):
        chosen = harmed(own_store, harm, portion, store)
        ended = predict(own_store)
        assert wrong_ending(ended, 1) == []
        assert wrong_table(tmp_path / "out/predictions.csv", SLIDES) == []
        states = states_in(tmp_path / "out/predictions.csv")
        assert [slide for slide, state in states.items() if state == "failed"] == list(chosen)
        sound = [slide for slide in SLIDES if slide not in chosen]
        assert wrong_tree(tmp_path / "out", predicted, *sound) == []
        assert not any(list((tmp_path / "out").rglob(f"{slide}.*")) for slide in chosen)


def states_in(table: Path) -> dict[str, str]:
    with table.open(newline="", encoding="utf-8") as handle:
        return {row["slide_id"]: row["status"] for row in csv.DictReader(handle)}


@pytest.mark.fault("E8")
def test_train_refuses_a_flipped_bit_or_does_not_read_it(
    train, own_store, store, names, cohort, tmp_path
):
    assert train(store).code == 0
    (tmp_path / "run").rename(tmp_path / "wanted")
    for portion in portions(names):
        chosen = harmed(own_store, flip, portion, store)
        while (ended := train(own_store)).code != 0:
            assert wrong_ending(ended, 2) == []
            told = [slide for slide in chosen if re.search(rf"\b{slide}\b", ended.err)]
            assert told, "by name"
            for slide in told:
                flip(own_store / f"{slide}.zarr" / chosen.pop(slide))
        assert wrong_tree(tmp_path / "run", tmp_path / "wanted") == []
        assert not any("patches/c" in name or "coords" in name for name in chosen.values())
        shutil.rmtree(tmp_path / "run")


@pytest.mark.fault("E12")
def test_predict_fails_a_flipped_bit_or_does_not_read_it(
    predict, own_store, store, predicted, names, tmp_path
):
    for portion in portions(names):
        chosen = harmed(own_store, flip, portion, store)
        ended = predict(own_store)
        states = states_in(tmp_path / "out/predictions.csv")
        failed = [slide for slide, state in states.items() if state == "failed"]
        assert wrong_ending(ended, int(bool(failed))) == []
        assert wrong_table(tmp_path / "out/predictions.csv", SLIDES) == []
        assert set(failed) <= set(chosen)
        sound = [slide for slide in SLIDES if slide not in failed]
        assert wrong_tree(tmp_path / "out", predicted, *sound) == []
        unread = {name for slide, name in chosen.items() if slide not in failed}
        assert not any("patches/c" in name or "thumbnail" in name for name in unread)
        shutil.rmtree(tmp_path / "out")


@pytest.mark.fault("E13")
def test_a_zarr_of_another_program_is_refused_and_left_as_it_is(
    train, predict, cli, cohort, own_store, predicted, tmp_path
):
    foreign, slide = own_store / f"{SLIDES[4]}.zarr", SLIDES[4]
    shutil.rmtree(foreign)
    zarr.create_array(foreign, shape=(3,), dtype="u1")
    before = tree(foreign)
    ended = train(own_store)
    assert wrong_ending(ended, 2) == []
    assert f"{slide}.zarr: a zarr of another program" in ended.err
    assert wrong_ending(predict(own_store), 1) == []
    assert wrong_table(tmp_path / "out/predictions.csv", SLIDES) == []
    others = [one for one in SLIDES if one != slide]
    assert wrong_tree(tmp_path / "out", predicted, *others) == []
    ended = timed(cli, "tile", cohort / "slides", "-o", own_store, "--recipe", "demo")
    assert wrong_ending(ended, 1) == []
    assert wrong_table(own_store / "status.csv", SLIDES) == []
    assert wrong_ending(timed(cli, "verify", own_store), 1) == ["does not say what failed"]
    assert tree(foreign) == before


def resealed(store: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """A file of a store exchanged by somebody who knows how to write its manifest."""
    (store / name).write_bytes(change((store / name).read_bytes()))
    (store / "manifest.json").unlink()
    other = store.with_name("other.zarr")
    commit_folder(store, other, {})
    other.rename(store)


def huge_frame(shard: bytes) -> bytes:
    """The first patch announces 65000 x 65000 px."""
    end = shard.index(b"\xff\xd9") + 2
    frame = shard.index(b"\xff\xc0") + 5
    body = shard[:frame] + (65_000).to_bytes(2, "big") * 2 + shard[frame + 4 : end]
    return seal(body) + shard[end + 4 :]


def many_zeros(chunk: bytes) -> bytes:
    """A few hundred bytes that become 16 MiB."""
    return seal(bytes(imagecodecs.zstd_encode(bytes(1 << 24))))


@pytest.mark.fault("E14")
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scale_2.0/patches/c.0.0.0.0", huge_frame),
        ("scale_2.0/coords/c.0.0", many_zeros),
        ("thumbnail/c.0.0.0", many_zeros),
    ],
    ids=["patches", "coords", "thumbnail"],
)
def test_a_chunk_that_becomes_too_large_fails_its_slide_alone(
    train, predict, own_store, predicted, tmp_path, name, change
):
    slide = SLIDES[0]
    resealed(own_store / f"{slide}.zarr", name, change)
    ended = predict(own_store)
    assert wrong_ending(ended, 1) == []
    assert wrong_table(tmp_path / "out/predictions.csv", SLIDES) == []
    states = states_in(tmp_path / "out/predictions.csv")
    assert [one for one, state in states.items() if state == "failed"] == [slide]
    assert wrong_tree(tmp_path / "out", predicted, *SLIDES[1:]) == []
    ended = train(own_store)
    if name.startswith("thumbnail"):  # which training does not look at
        assert wrong_ending(ended, 0) == []
    else:
        assert wrong_ending(ended, 2) == []
        assert slide in ended.err
