"""Runs of the train stage that are killed or interrupted: what comes out does not change."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from pipelines.lock import LOCK_FILE
from pipelines.train import train_stage
from wsi_hr.training.loop import METRICS

from .test_train import files

EPOCHS = 6


@pytest.fixture(scope="module")
def undisturbed(store, labels, settings, tmp_path_factory) -> Path:
    """What a run ends with when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train_stage(store, labels, folder, settings(f"train.epochs={EPOCHS}"), None)
    return folder


@pytest.fixture(scope="module")
def command(store, labels, undisturbed) -> list[object]:
    """The command for that run, less its output; a run folder's settings are a recipe."""
    return ["train", store, "--labels", labels.path, "--recipe", undisturbed / "config.yaml"]


def epochs_done(run: Path) -> int:
    try:
        return len((run / METRICS).read_text().splitlines())
    except FileNotFoundError:
        return 0


def wait_for_epoch(run: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while epochs_done(run) < number and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.fault("A2a")
def test_killed_again_and_again_it_ends_with_the_same_bits(start, command, undisturbed, tmp_path):
    run = tmp_path / "run"
    moments = random.Random(0)
    for epoch in (0, 1, 3, 4):
        process = start(*command, "-o", run)
        wait_for_epoch(run, epoch)
        time.sleep(moments.uniform(0, 0.15))
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.err.read_text()
        assert epochs_done(run) < EPOCHS, "killed in the middle"
    process = start(*command, "-o", run)
    assert process.wait() == 0
    assert files(run) == files(undisturbed)
    assert sorted(path.name for path in run.iterdir()) == sorted(
        path.name for path in undisturbed.iterdir()
    ), "no strays"


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.fault("A4b")),
        pytest.param(signal.SIGTERM, marks=pytest.mark.fault("A4a")),
    ],
)
def test_interrupted_it_says_so_and_can_go_on(
    start, command, undisturbed, store, labels, settings, tmp_path, how
):
    run = tmp_path / "run"
    process = start(*command, "-o", run)
    wait_for_epoch(run, 2)
    process.send(how)
    assert process.wait() == 130
    assert process.err.read_text().strip() == (
        "error: interrupted; the same command goes on where it stopped"
    )
    assert not (run / LOCK_FILE).exists()
    assert 2 <= epochs_done(run) < EPOCHS
    train_stage(store, labels, run, settings(f"train.epochs={EPOCHS}"), None)
    assert files(run) == files(undisturbed)
