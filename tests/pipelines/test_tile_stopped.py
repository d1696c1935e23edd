"""Runs of the tile stage that are stopped, that meet, or whose workers come back late."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines import tile_jobs, tile_spans
from pipelines.lock import LOCK_FILE, run_lock
from pipelines.tile import tile_stage
from pipelines.tile_jobs import TileJob
from wsi_hr.cohort.manifest import SlideRecord
from wsi_hr.errors import StoreError

from .processes import descendants, is_running
from .test_tile import CONFIG, mtimes, read_status, tree, write_slide

SCRIPT = """
import sys
from pathlib import Path
from pipelines.tile import tile_stage
from wsi_hr.config import TileConfig
if __name__ == "__main__":
    tile_stage([Path(sys.argv[1])], Path(sys.argv[2]), TileConfig(patch_size=128), workers=1)
"""


def test_a_second_run_is_told_who_holds_the_folder(tmp_path):
    with run_lock(tmp_path), pytest.raises(StoreError) as caught, run_lock(tmp_path):
        pass
    assert f"pid {os.getpid()}" in str(caught.value)
    assert "host " in str(caught.value)
    with run_lock(tmp_path):
        pass


@pytest.mark.fault("A12a")
def test_a_second_run_of_another_process_is_refused_by_name(tmp_path):
    """FAULTS A12."""
    slide, store = write_slide(tmp_path / "s/long.svs", 0, tiles=400), tmp_path / "store"
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(slide), str(store)]) as first:
        deadline = time.monotonic() + 120
        while not any(store.glob(".attempt-*/*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(StoreError, match=rf"another run works here .*pid {first.pid}\b"):
            tile_stage([slide], store, CONFIG)
        first.kill()
    write_slide(slide, 0)
    (row,) = tile_stage([slide], store, CONFIG)
    assert row["status"] == "done"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", marks=pytest.mark.fault("A12c")),
        pytest.param("host elsewhere, pid 1\n", marks=pytest.mark.fault("A12b")),
    ],
)
def test_a_lock_left_by_a_killed_run_is_taken_over(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    with run_lock(tmp_path):
        assert f"pid {os.getpid()}" in (tmp_path / LOCK_FILE).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_not_taken_for_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="looks like a URL"), run_lock(Path("s3://bucket/store")):
        pass
    assert list(tmp_path.iterdir()) == []
    with run_lock(Path("a:b/c")):
        pass


def start_and_stop(
    slides: Path, store: Path, how: signal.Signals, once: str = "*.zarr"
) -> tuple[int, list[int]]:
    """Start tiling in a process, stop it once a file is there; its exit code and children."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(slides), str(store)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not any(store.glob(once)) and time.monotonic() < deadline:
        time.sleep(0.005)
    children = descendants(process.pid)
    process.send_signal(how)
    return process.wait(30), children


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Slides, and the stores of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for seed in range(6):
        write_slide(folder / f"slides/s{seed}.svs", seed)
    tile_stage([folder / "slides"], folder / "store", CONFIG)
    return folder / "slides", tree(folder / "store")


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGKILL, marks=pytest.mark.fault("A1a", "A4c")),
        pytest.param(signal.SIGTERM, marks=pytest.mark.fault("A4a")),
        pytest.param(signal.SIGINT, marks=pytest.mark.fault("A4b")),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_stores(tmp_path, undisturbed, how):
    slides, expected = undisturbed
    store = tmp_path / "store"
    code, children = start_and_stop(slides, store, how)
    assert code != 0
    assert children
    done = [str(path) for path in store.glob("*.zarr")]
    assert 0 < len(done) < 6, "stopped in the middle"
    deadline = time.monotonic() + 120
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_running, children)), "no orphans"
    if how != signal.SIGKILL:
        assert not (store / LOCK_FILE).exists()
        assert {row["status"] for row in read_status(store)} <= {"done"}
    before = mtimes(store)

    rows = tile_stage([slides], store, CONFIG)

    assert [row["status"] for row in rows] == ["done"] * 6
    assert tree(store) == expected
    now = mtimes(store)
    finished = {name for name in before if name.startswith(tuple(done))}
    assert finished
    assert {name: now[name] for name in finished} == {name: before[name] for name in finished}


def test_an_interrupted_run_does_not_wait_for_its_slides(tmp_path):
    slides = write_slide(tmp_path / "slides/long.svs", 0, tiles=400).parent
    store = tmp_path / "store"
    code, _ = start_and_stop(slides, store, signal.SIGINT, once=".attempt-*/long.zarr.tmp")
    assert code != 0
    assert not (store / "long.zarr").exists(), "the slide was given up"
    assert read_status(store) == []


@pytest.mark.parametrize("do", [tile_jobs._tile_apart, tile_spans._begin])
def test_a_worker_that_comes_back_late_leaves_what_others_finished(tmp_path, do):
    """It was given up for dead before it began; nobody waits for the slide any more."""
    slide, store = write_slide(tmp_path / "a.svs", 0), tmp_path / "store"
    tile_stage([slide], store, CONFIG)
    before = tree(store)
    job = TileJob(SlideRecord("a", slide), store / "a.zarr", CONFIG, None, "")
    late = SimpleNamespace(cancelled=lambda: True, report=lambda *_: None)
    with pytest.raises(CancelledError):
        do(job, late)
    assert tree(store) == before
