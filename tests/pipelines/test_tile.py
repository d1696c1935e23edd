"""The tile stage: every slide ends once, nothing is done twice, a kill costs nothing but time."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from rich.console import Console

from pipelines import tile
from pipelines.cluster import Where
from pipelines.lock import LOCK_FILE
from pipelines.tile import STATUS_COLUMNS, shared_out, tile_stage, where_to_work
from pipelines.tile_jobs import TileJob, run_jobs
from wsi_hr.cohort.manifest import SlideRecord
from wsi_hr.config import TileConfig
from wsi_hr.errors import ConfigError, SlideError, StoreError
from wsi_hr.geometry import Point, Size
from wsi_hr.runtime import sha256_file
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.testing.svs import TILE_PX, write_svs

CONFIG = TileConfig(patch_size=128)  # pyright: ignore[reportCallIssue]


NO_STORE = frozenset({"status.csv", "run.json", "tile.json"})


def write_slide(path: Path, seed: int, *, tissue: bool = True, tiles: int = 3) -> Path:
    """Pink noise, or bare glass."""
    rng = np.random.default_rng(seed)
    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)

    def tile_at(corner: Point):
        if not tissue:
            return None
        coarse = rng.integers(0, 60, (TILE_PX // 8, TILE_PX // 8, 1))
        return (np.array([215, 120, 170]) - np.kron(coarse, np.ones((8, 8, 3)))).astype(np.uint8)

    path.parent.mkdir(parents=True, exist_ok=True)
    size = Size(tiles * TILE_PX, 2 * TILE_PX)
    write_svs(path, size=size, mpp=0.5, tile_at=tile_at, glass=glass)
    return path


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Five good slides, two of them with one stem; one blank, several broken."""
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "a.svs", 0)
    write_slide(folder / "b =1,\n.svs", 1)
    write_slide(folder / "one/same.svs", 2)
    write_slide(folder / "two/same.svs", 3)
    write_slide(folder / "two/blank.svs", 4, tissue=False)
    shutil.copy(folder / "a.svs", folder / "two/copy.svs")
    (folder / "link.svs").symlink_to(folder / "a.svs")
    (folder / "broken").mkdir()
    (folder / "broken/empty.svs").touch()
    (folder / "broken/page.tif").write_text("<html>not found</html>")
    whole = (folder / "a.svs").read_bytes()
    (folder / "broken/half.svs").write_bytes(whole[: len(whole) // 2])
    (folder / "broken/notes.txt").write_text("no slide")
    (folder / "broken/gone.svs").symlink_to(folder / "nowhere.svs")
    return folder


@pytest.fixture(scope="module")
def stored(slides, tmp_path_factory) -> tuple[Path, list[dict[str, str]]]:
    store = tmp_path_factory.mktemp("stage") / "store"
    return store, tile_stage([slides], store, CONFIG, workers=2)


def read_status(store: Path) -> list[dict[str, str]]:
    with (store / "status.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def tree(store: Path) -> dict[str, str]:
    """All files of the stores and their bytes; what a run says of itself left out."""
    return {
        str(file.relative_to(store)): sha256_file(file)
        for file in store.rglob("*")
        if file.is_file() and file.name not in NO_STORE
    }


def mtimes(store: Path) -> dict[str, int]:
    return {str(f): f.stat().st_mtime_ns for f in store.glob("*.zarr/**/*") if f.is_file()}


def without_seconds(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: row[key] for key in STATUS_COLUMNS if key != "seconds"} for row in rows]


def test_every_slide_ends_exactly_once(stored):
    store, rows = stored
    states = {row["slide_id"]: row["status"] for row in rows}
    assert len(rows) == len(states)
    assert states == {
        "a": "done",
        "b =1,_": "done",
        "empty": "failed",
        "gone": "failed",
        "half": "failed",
        "page": "failed",
        "link": "skipped",
        "one_same": "done",
        "two_same": "done",
        "blank": "no_tissue",
        "copy": "done",
    }
    for row in rows:
        assert list(row) == list(STATUS_COLUMNS)
        a_copy = row["status"] == "done" and row["reason"].startswith("identical content as ")
        assert a_copy or bool(row["reason"]) == (row["status"] != "done")
        assert "Traceback" not in row["reason"]
        assert (store / f"{row['slide_id']}.zarr").exists() == (row["status"] == "done")
        if row["status"] == "done":
            assert (row["num_patches"], row["mpp"]) == ("24", "0.5")
            assert row["mpp_source"] == "openslide.mpp-x"
    assert read_status(store) == rows
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert not list(store.glob("*.tmp"))
    assert not (store / LOCK_FILE).exists()


def test_the_run_is_recorded_beside_the_stores(stored):
    store, rows = stored
    record = json.loads((store / "run.json").read_text())
    assert record["states"] == {row["slide_id"]: row["status"] for row in rows}
    assert json.loads((store / "tile.json").read_text()) == CONFIG.model_dump(mode="json")


def test_running_again_is_free(slides, stored):
    store, rows = stored
    before, files = mtimes(store), tree(store)
    again = tile_stage([slides], store, CONFIG, workers=1)
    assert without_seconds(again) == without_seconds(rows)
    assert [r["seconds"] for r in again if r["status"] == "done"] == [
        r["seconds"] for r in rows if r["status"] == "done"
    ]
    assert mtimes(store) == before
    assert tree(store) == files


def test_what_was_lost_damaged_or_outdated_is_made_again_and_nothing_else(tmp_path):
    folder, store = tmp_path / "slides", tmp_path / "store"
    for seed, name in enumerate(("kept", "lost", "damaged", "outdated", "emptied")):
        write_slide(folder / f"{name}.svs", seed)
    tile_stage([folder], store, CONFIG)
    before, files = mtimes(store), tree(store)

    shutil.rmtree(store / "lost.zarr")
    shard = next((store / "damaged.zarr").glob("scale_*/patches/c.*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    write_slide(folder / "outdated.svs", 99)
    write_slide(folder / "emptied.svs", 0, tissue=False)
    (store / "stray.zarr.tmp").mkdir()
    rows = tile_stage([folder], store, CONFIG)

    assert {row["slide_id"]: row["status"] for row in rows} == {
        "kept": "done",
        "lost": "done",
        "damaged": "done",
        "outdated": "done",
        "emptied": "no_tissue",
    }
    after = mtimes(store)
    kept = {name for name in before if "kept.zarr" in name}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    now = tree(store)
    for name in ("lost", "damaged"):
        assert {k: v for k, v in now.items() if k.startswith(name)} == {
            k: v for k, v in files.items() if k.startswith(name)
        }
    assert not any(name.startswith(("emptied", "stray", "outdated/")) for name in now)
    digest = PatchStore.open(store / "outdated.zarr").info.source_sha256
    assert digest == sha256_file(folder / "outdated.svs")


def test_slides_of_an_earlier_run_keep_their_row(tmp_path):
    a, b = write_slide(tmp_path / "a.svs", 0), write_slide(tmp_path / "b.svs", 1)
    first = tile_stage([a], tmp_path / "store", CONFIG)
    second = tile_stage([b], tmp_path / "store", CONFIG)
    assert [row["slide_id"] for row in second] == ["b"]
    assert read_status(tmp_path / "store") == second + first


def test_other_settings_are_refused_by_name_and_limits_may_change(slides, stored):
    store, rows = stored
    before = tree(store)
    other = CONFIG.model_copy(update={"mpp": 1.0, "jpeg_quality": 80})
    with pytest.raises(ConfigError) as caught:
        tile_stage([slides], store, other)
    assert "tile.mpp was 0.5, now 1.0" in str(caught.value)
    assert "tile.jpeg_quality was 90, now 80" in str(caught.value)
    assert "patch_size" not in str(caught.value)
    assert tree(store) == before
    patient = CONFIG.model_copy(update={"deadline_s": 7200.0, "memory_gib": 5.0})
    assert without_seconds(tile_stage([slides], store, patient)) == without_seconds(rows)
    assert tree(store) == before
    tile_stage([slides], store, CONFIG)


def test_the_manifests_mpp_goes_before_the_option(tmp_path):
    write_slide(tmp_path / "a.svs", 0)
    write_slide(tmp_path / "b.svs", 1)
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide,mpp\na.svs,0.4\nb.svs,\nc.svs,\n")
    a, b, c = tile_stage([manifest], tmp_path / "store", CONFIG, mpp_override=0.45)
    assert (a["mpp"], a["mpp_source"]) == ("0.4", "manifest")
    assert (b["mpp"], b["mpp_source"]) == ("0.45", "mpp-override")
    assert (c["status"], c["reason"]) == ("failed", "no such file")
    a, b, c = tile_stage([manifest], tmp_path / "store", CONFIG)
    assert (a["mpp"], b["mpp"], b["mpp_source"]) == ("0.4", "0.5", "openslide.mpp-x")


def test_copies_of_a_slide_are_warned_of(tmp_path, caplog):
    a = write_slide(tmp_path / "a.svs", 0)
    shutil.copy(a, tmp_path / "b.svs")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            tile_stage([tmp_path / "a.svs", tmp_path / "b.svs"], tmp_path / "store", CONFIG)
        assert "a and b have identical content" in caplog.text


def test_without_slides_there_is_nothing_to_do(tmp_path):
    with pytest.raises(SlideError, match="no slides found"):
        tile_stage([tmp_path], tmp_path / "store", CONFIG)
    assert not (tmp_path / "store").exists()


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path):
    a = write_slide(tmp_path / "a.svs", 0)
    (tmp_path / "file").touch()
    for store in (tmp_path / "file", tmp_path / "file/below", Path("/proc/store")):
        with pytest.raises(StoreError, match="choose another output folder"):
            tile_stage([a], store, CONFIG)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_is_one_sentence(tmp_path):
    a = write_slide(tmp_path / "a.svs", 0)
    (tmp_path / "store").mkdir(mode=0o555)
    with pytest.raises(StoreError, match="cannot be written"):
        tile_stage([a], tmp_path / "store", CONFIG)


def test_something_else_where_a_store_belongs_is_left_alone(tmp_path):
    a = write_slide(tmp_path / "a.svs", 0)
    precious = tmp_path / "store/a.zarr/precious"
    precious.mkdir(parents=True)
    (row,) = tile_stage([a], tmp_path / "store", CONFIG)
    assert row["status"] == "failed"
    assert "not a patch store" in row["reason"]
    assert precious.is_dir()


@pytest.mark.fault("A8d")
def test_a_slide_that_takes_too_long_is_stopped_and_the_others_come_out(tmp_path):
    write_slide(tmp_path / "s/a.svs", 0)
    quick = CONFIG.model_copy(update={"deadline_s": 0.001})
    (row,) = tile_stage([tmp_path / "s"], tmp_path / "store", quick)
    assert row["status"] == "failed"
    assert "tile.deadline_s" in row["reason"]
    assert not list((tmp_path / "store").glob("*.zarr"))
    (row,) = tile_stage([tmp_path / "s"], tmp_path / "store", CONFIG)
    assert row["status"] == "done"


def test_a_slide_reports_how_far_it_is(tmp_path):
    slide = write_slide(tmp_path / "a.svs", 0, tiles=100)
    heard: list[tuple[str, int, int]] = []
    config = CONFIG.model_copy(update={"deadline_s": 60.0})
    (tmp_path / "store").mkdir()
    job = TileJob(SlideRecord("a", slide), tmp_path / "store/a.zarr", config, None, "manifest")
    (outcome,) = run_jobs([job], Where(1), lambda *report: heard.append(report))
    assert outcome.row["num_patches"] == "800"
    assert {(slide_id, total) for slide_id, _, total in heard} == {("a", 800)}
    assert 0 < heard[0][1] < 800


def test_the_reports_of_a_slide_of_several_mpp_never_fall_back(tmp_path):
    slide = write_slide(tmp_path / "a.svs", 0, tiles=100)
    heard: list[tuple[str, int, int]] = []
    config = CONFIG.model_copy(update={"more_mpp": (1.0,)})
    (tmp_path / "store").mkdir()
    job = TileJob(SlideRecord("a", slide), tmp_path / "store/a.zarr", config, None, "manifest")
    (outcome,) = run_jobs([job], Where(1), lambda *report: heard.append(report))
    assert outcome.row["status"] == "done"
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)
    assert {total for _, _, total in heard} == {800 + 200}


def test_nothing_is_printed_where_nobody_watches(slides, tmp_path, capfd):
    tile_stage([slides / "a.svs"], tmp_path / "store", CONFIG, console=Console(file=io.StringIO()))
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.data
def test_all_real_slides_end_with_a_row(tmp_path, shared_data):
    folder = shared_data / "slides"
    config = TileConfig()  # pyright: ignore[reportCallIssue]
    rows = {r["slide_id"]: r for r in tile_stage([folder], tmp_path / "store", config)}
    suffixes = {".svs", ".mrxs", ".dcm", ".ndpi", ".tif", ".tiff"}
    assert len(rows) == sum(path.suffix in suffixes for path in folder.rglob("*"))
    cmu, tcga = rows["CMU-1-Small-Region"], rows["TCGA-CR-7395-01A-01-TS1"]
    assert (cmu["status"], cmu["mpp"]) == ("done", "0.499")
    assert tcga["status"] == "failed"
    assert "no mpp" in tcga["reason"]
    assert "--mpp-override" in tcga["reason"]
    states = {slide_id: row["status"] for slide_id, row in rows.items()}
    assert states["OS-1-detail"] == "done"
    assert states["boxes_1"] == "skipped"
    assert states["test3-DAPI-2-(387)"] == "no_tissue"
    assert states["small"] == states["😐"] == "no_tissue"
    for name in ("CMU-1-Saved-1_16_no-datadir", "histolab-broken", "unreadable"):
        assert states[name] == "failed"
        assert rows[name]["reason"]

    slide = folder / "aperio/TCGA-CR-7395-01A-01-TS1.svs"
    (row,) = tile_stage([slide], tmp_path / "store", config, mpp_override=0.5)
    assert (row["status"], row["mpp_source"]) == ("done", "mpp-override")
    assert int(row["num_patches"]) > 50


@pytest.mark.parametrize(("memory", "workers"), [(2**34, 8), (2**30, 2), (2**20, 1)])
def test_where_memory_is_short_fewer_slides_are_tiled_at_a_time(monkeypatch, memory, workers):
    """Unless somebody asks for more; the other cores work on the slides there are."""
    monkeypatch.setattr(tile, "num_usable_cores", lambda: 8)
    monkeypatch.setattr(tile, "usable_memory", lambda: memory)
    where = where_to_work(None, None)
    assert where.workers == workers
    assert where_to_work(5, None).workers == 5
    job = TileJob(SlideRecord("a", Path("a.svs")), Path("a.zarr"), CONFIG, None, "")
    jobs, same = shared_out([job] * 20, where)
    assert same.workers == workers
    assert {each.threads for each in jobs} == {8 // workers}


def test_a_slide_that_is_away_takes_no_store_with_it(tmp_path, monkeypatch):
    """A share may go between listing the slides and reading them; another mpp is given."""
    slide, store = write_slide(tmp_path / "a.svs", 0), tmp_path / "store"
    tile_stage([slide], store, CONFIG)
    before = tree(store / "a.zarr")
    monkeypatch.setattr(tile, "require_slides", lambda inputs: [SlideRecord("a", slide)])
    slide.unlink()
    (row,) = tile_stage([slide], store, CONFIG, mpp_override=0.4)
    assert row["status"] == "failed"
    assert "cannot be read" in row["reason"]
    assert tree(store / "a.zarr") == before
    write_slide(slide, 0)
    (row,) = tile_stage([slide], store, CONFIG, mpp_override=0.4)
    assert row["status"] == "done"
    assert PatchStore.open(store / "a.zarr").info.mpp.x == 0.4


def test_a_run_that_is_refused_moves_no_store(tmp_path, monkeypatch):
    """For want of a cluster, or of room on the disk."""
    slide, store = write_slide(tmp_path / "a.svs", 0), tmp_path / "store"
    tile_stage([slide], store, CONFIG)
    before = tree(store)
    with pytest.raises(ConfigError, match="no such scheduler file"):
        tile_stage([slide], store, CONFIG, mpp_override=0.4, scheduler="nowhere.json")

    def refuse(*_: object) -> None:
        raise StoreError("no room")

    monkeypatch.setattr(tile, "require_room", refuse)
    with pytest.raises(StoreError, match="no room"):
        tile_stage([slide], store, CONFIG, mpp_override=0.4)
    assert tree(store).items() >= {k: v for k, v in before.items() if ".zarr/" in k}.items()


def test_a_kept_store_s_row_says_of_every_mpp_what_it_said(tmp_path):
    path = write_slide(tmp_path / "slides/a.svs", 0)
    with tifffile.TiffFile(path) as tif:
        offset, count = (
            places[1] for places in (tif.pages[0].dataoffsets, tif.pages[0].databytecounts)
        )
    with path.open("r+b") as handle:
        handle.seek(offset)
        handle.write(b"\0" * count)
    config = CONFIG.model_copy(update={"more_mpp": (60.0, 1.0), "max_unreadable": 0.9})
    store = tmp_path / "out"
    (first,), (again,) = (tile_stage([path], store, config, workers=1) for _ in range(2))
    assert first == again
    (store / "status.csv").unlink()
    (without_table,) = tile_stage([path], store, config, workers=1)
    unreadable = ["at 0.5 um/px 4 of", "at 1 um/px 1 of"]
    for row, empty in (
        (first, "at 60 um/px smaller than"),
        (without_table, "at 60 um/px no patch"),
    ):
        clauses = row["reason"].split("; ")
        for clause, start in zip(clauses, [empty, *unreadable], strict=True):
            assert clause.startswith(start)
