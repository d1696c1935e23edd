"""What a dry run says is what tiling then does; and a disk that is too small is known before."""

from __future__ import annotations

import csv
import logging
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipelines import disk
from pipelines.disk import human_bytes
from pipelines.dry_run import PLAN_COLUMNS, PLAN_FILE, DryRun, dry_run, print_dry_run
from pipelines.tile import tile_stage
from wsi_hr.config import TileConfig
from wsi_hr.errors import ConfigError, StoreError
from wsi_hr.store.patch_store import verify_store
from wsi_hr.tiling.estimate import sampled

from .test_tile import CONFIG, write_slide


def size_of(store: Path) -> int:
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "large.svs", 0, tiles=40)
    write_slide(folder / "small.svs", 1)
    write_slide(folder / "blank.svs", 2, tissue=False)
    (folder / "broken.svs").write_text("<html>")
    (folder / "z_link.svs").symlink_to(folder / "small.svs")
    return folder


@pytest.mark.parametrize("codec", ["auto", "jpeg", "raw"])
def test_what_is_planned_comes_true(slides, tmp_path, codec):
    config = CONFIG.model_copy(update={"codec": codec})
    store = tmp_path / "store"
    plan = dry_run([slides], store, config)
    assert {path.name for path in store.iterdir()} == {PLAN_FILE}, "no store, no trace"
    with (store / PLAN_FILE).open(newline="", encoding="utf-8") as handle:
        assert list(csv.DictReader(handle)) == list(plan.rows)
    assert all(list(row) == list(PLAN_COLUMNS) for row in plan.rows)
    planned = {row["slide_id"]: row for row in plan.rows}

    done = {row["slide_id"]: row for row in tile_stage([slides], store, config)}
    assert planned.keys() == done.keys()
    for slide_id, row in done.items():
        expected = "planned" if row["status"] == "done" else row["status"]
        assert planned[slide_id]["status"] == expected
        assert planned[slide_id]["num_patches"] == row["num_patches"]
        if row["status"] == "done":
            size = size_of(store / f"{slide_id}.zarr")
            assert float(planned[slide_id]["bytes"]) == pytest.approx(size, rel=0.1)
            assert float(planned[slide_id]["seconds"]) >= 0  # a tenth is the least that is told
    assert plan.hours > 0
    assert plan.num_patches == sum(int(row["num_patches"]) for row in done.values())
    assert plan.store_bytes == sum(int(row["bytes"]) for row in plan.rows)

    again = dry_run([slides], store, config)
    states = {row["slide_id"]: row["status"] for row in again.rows}
    assert (states["large"], states["small"]) == ("done", "done")
    assert (again.num_patches, again.store_bytes) == (0, 0)


def test_hours_are_those_of_so_many_at_a_time_and_never_less_than_the_longest(slides, tmp_path):
    plans = [dry_run([slides], tmp_path / "store", CONFIG, workers=n) for n in (1, 4)]
    for plan in plans:
        seconds = [float(row["seconds"] or 0) for row in plan.rows]
        needed = max(sum(seconds) / plan.slots, max(seconds)) / 3600
        assert plan.hours == pytest.approx(needed, rel=0.2, abs=1e-4)
    assert [plan.slots for plan in plans] == [1, 4]


def test_settings_that_tile_would_refuse_are_refused(slides, tmp_path):
    tile_stage([slides / "small.svs"], tmp_path / "store", CONFIG)
    other = CONFIG.model_copy(update={"mpp": 1.0})
    with pytest.raises(ConfigError, match=r"tile\.mpp was 0\.5, now 1\.0"):
        dry_run([slides], tmp_path / "store", other)


def test_it_is_said_whether_there_is_room(tmp_path, capsys):
    for free, words in ((2_000_000, "has room (2 MB free)"), (1_000, "has no room (1 kB free)")):
        plan = DryRun((), 7, 1_500_000, 1.5, 2, free)
        print_dry_run(plan, tmp_path, Console(width=300))
        said = " ".join(capsys.readouterr().out.split())
        assert words in said
        assert "7 patches, about 1.5 MB and 1:30:00 with 2 slides at a time" in said


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e12, "2.5 TB")]
)
def test_bytes_for_people(count, words):
    assert human_bytes(count) == words


@pytest.mark.parametrize("num", [1, 255, 256, 257, 1000, 40_000])
def test_what_is_tried_is_spread_over_the_slide(num):
    chosen = sampled(num)
    assert len(chosen) == min(num, 256)
    assert np.array_equal(chosen, np.unique(chosen))
    assert 0 <= chosen[0] <= num / 8
    assert num * 7 / 8 - 1 <= chosen[-1] < num


@pytest.mark.fault("A7a")
def test_a_run_that_surely_does_not_fit_is_refused_before_it_fills_the_disk(tmp_path, small_disk):
    slide = write_slide(tmp_path / "slides/long.svs", 0, tiles=200)
    (small_disk / "somebody's").write_bytes(bytes(500_000))
    with pytest.raises(StoreError) as caught:
        tile_stage([slide], small_disk / "store", CONFIG)
    assert "estimated from 1 of 1 slides" in str(caught.value)
    assert "--dry-run" in str(caught.value)
    assert not list((small_disk / "store").glob("*.zarr"))
    plan = dry_run([slide], small_disk / "store", CONFIG)
    assert not plan.fits
    assert plan.store_bytes > 2 * plan.free_bytes


@pytest.mark.fault("A7b")
def test_a_full_disk_costs_the_slides_that_find_no_room_and_nothing_else(
    tmp_path, small_disk, caplog
):
    """FAULTS A7: some come out, whole; with more room the same command does the others."""
    for seed in range(6):
        write_slide(tmp_path / f"slides/s{seed}.svs", seed, tiles=16)
    slides, store = tmp_path / "slides", small_disk / "store"
    need = dry_run([slides], tmp_path / "elsewhere", CONFIG).store_bytes
    assert 1.1e6 < need < 1.9e6
    with caplog.at_level(logging.WARNING):
        rows = tile_stage([slides], store, CONFIG, workers=1)
    assert "slides that find no room will fail" in caplog.text
    states = [row["status"] for row in rows]
    assert set(states) == {"done", "failed"}
    for row in rows:
        if row["status"] == "failed":
            assert "No space left on device" in row["reason"]
            assert ".attempt" not in row["reason"]
    stores = sorted(store.glob("*.zarr"))
    assert len(stores) == states.count("done")
    assert [problem for path in stores for problem in verify_store(path)] == []
    assert not list(store.glob(".attempt-*"))
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert {row["status"] for row in tile_stage([slides], store, CONFIG)} == {"done"}


def test_where_there_is_plenty_nothing_is_estimated(tmp_path, monkeypatch):
    slide = write_slide(tmp_path / "a.svs", 0)

    def estimate(*args: object) -> None:
        raise AssertionError("an estimate costs time")

    monkeypatch.setattr(disk, "run_estimates", estimate)
    (row,) = tile_stage([slide], tmp_path / "store", CONFIG)
    assert row["status"] == "done"
    raw = TileConfig(patch_size=128, stride=1)  # pyright: ignore[reportCallIssue]
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 200 * slide.stat().st_size)
    with pytest.raises(AssertionError, match="costs time"):
        tile_stage([slide], tmp_path / "other", raw)
