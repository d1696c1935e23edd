"""Runs of the predict stage that are killed or stopped on the way."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from pipelines.lock import LOCK_FILE
from pipelines.predict import HEATMAPS

from .processes import descendants
from .test_predict import mtimes


@pytest.mark.fault("A3a")
def test_killed_again_and_again_it_ends_with_the_same_files(
    start, run, store, predicted, tmp_path, tree
):
    out = tmp_path / "out"
    finished: dict[str, int] = {}
    for number in (0, 3, 5):
        process = start("predict", run, store, "-o", out, "--device", "cpu")
        wait_for_heatmaps(out, number)
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.err.read_text()
        now = mtimes(out) if (out / HEATMAPS).is_dir() else {}
        done = {name: when for name, when in now.items() if name.endswith(".png")}
        assert len(done) < 8, "killed in the middle"
        assert {name: done[name] for name in finished} == finished, "nothing is done twice"
        finished = {name: when for name, when in done.items() if not name.startswith(".")}
    assert len(finished) >= 5
    process = start("predict", run, store, "-o", out, "--device", "cpu")
    assert process.wait() == 0
    assert tree(out) == tree(predicted)
    assert {name: mtimes(out)[name] for name in finished} == finished


def wait_for_heatmaps(out: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(out.glob(f"{HEATMAPS}/slide*.png"))) < number and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.fault("A4a")
def test_sigterm_says_interrupted_and_leaves_no_lock(start, run, store, tmp_path):
    out = tmp_path / "out"
    process = start("predict", run, store, "-o", out, "--device", "cpu")
    wait_for_heatmaps(out, 1)
    process.send(signal.SIGTERM)
    assert process.wait() == 130
    assert "interrupted" in process.err.read_text()
    assert "Traceback" not in process.err.read_text()
    assert not (out / LOCK_FILE).exists()


@pytest.mark.fault("A4a")
def test_sigterm_while_slides_are_tiled_leaves_no_process(start, run, cohort, tmp_path):
    store = tmp_path / "out/store"
    process = start("predict", run, cohort / "slides", "-o", tmp_path / "out", "--workers", 1)
    deadline = time.monotonic() + 120
    while not any(store.glob("*.zarr")) and time.monotonic() < deadline:
        time.sleep(0.005)
    children = descendants(process.pid)
    assert children
    process.send(signal.SIGTERM)
    assert process.wait() == 130
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "orphans"
        time.sleep(0.02)
    assert not (store / LOCK_FILE).exists()
