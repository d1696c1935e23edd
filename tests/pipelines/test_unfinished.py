"""A run that has not ended can be looked at, and its test side stays closed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.predict import predict_stage
from pipelines.train import train_stage
from wsi_hr.errors import ConfigError
from wsi_hr.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsi_hr.training.loop import BEST, LAST

HELD_OUT = {"slide_005", "slide_007"}


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return {row["slide_id"]: row for row in csv.DictReader(handle)}


@pytest.fixture
def stopped(own_run) -> Path:
    """The run as it was after its first epoch, which was the best."""
    for name in (BEST, LAST):
        checkpoint = load_checkpoint(own_run / name)
        meta = checkpoint.meta | {"epoch": 0, "history": checkpoint.meta["history"][:1]}
        save_checkpoint(own_run / name, Checkpoint(checkpoint.tensors, meta))
    (own_run / "run.json").unlink()
    return own_run


def test_its_test_side_is_left_out_and_said_to_be(stopped, store, tmp_path):
    to = Console(file=io.StringIO(), width=40)
    report = predict_stage(stopped, [store], tmp_path / "out", device="cpu", console=to)
    assert report.metrics == {}
    rows = rows_of(tmp_path / "out/predictions.csv")
    assert {slide for slide, row in rows.items() if row["status"] == "skipped"} == HELD_OUT
    for slide in HELD_OUT:
        assert rows[slide]["reason"].startswith("of the run's test side, which stays closed")
        assert rows[slide]["prob_lesion"] == rows[slide]["predicted"] == ""
        assert not (tmp_path / f"out/heatmaps/{slide}.png").exists()
    assert {row["status"] for slide, row in rows.items() if slide not in HELD_OUT} == {"done"}
    assert isinstance(to.file, io.StringIO)
    assert f"warning: {stopped} has not ended (1 of 2 epochs are done)" in to.file.getvalue()
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["run_ended"] is False
    assert record["metrics"] == {}


def test_copies_of_its_test_side_under_other_names_are_closed_too(stopped, store, cohort, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("x", "y"):
        (slides / f"{name}.svs").write_bytes((cohort / "slides/slide_005.svs").read_bytes())
    report = predict_stage(stopped, [slides], tmp_path / "out", device="cpu")
    assert [row.status for row in report.rows] == ["skipped", "skipped"]


def test_to_ask_for_its_test_side_is_refused(cli, stopped, store, tmp_path):
    ended = cli("predict", stopped, store, "-o", tmp_path / "out", "--split", "test")
    assert ended.code == 2
    assert "has not ended (1 of 2 epochs are done), and its test side stays closed" in ended.err
    assert not (tmp_path / "out").exists()
    report = predict_stage(stopped, [store], tmp_path / "out", split="val", device="cpu")
    assert {row.status for row in report.rows} == {"done"}


def test_it_opens_when_the_run_has_ended(stopped, store, labels, settings, tmp_path):
    train_stage(store, labels, stopped, settings(), None)
    report = predict_stage(stopped, [store], tmp_path / "out", split="test", device="cpu")
    assert report.metrics["slides"] == 2


def test_a_last_checkpoint_that_is_damaged_keeps_nobody_from_predicting(own_run, store, tmp_path):
    (own_run / LAST).write_bytes(b"\xff" * 100)
    report = predict_stage(own_run, [store], tmp_path / "out", split="test", device="cpu")
    assert report.metrics["slides"] == 2, "run.json was written when training had ended"


def test_without_its_last_checkpoint_nobody_can_tell(own_run, store, tmp_path):
    (own_run / LAST).unlink()
    history = load_checkpoint(own_run / BEST).meta["history"]
    assert len(history) == 1, "the first of two epochs was the best"
    report = predict_stage(own_run, [store], tmp_path / "out", split="test", device="cpu")
    assert report.metrics["slides"] == 2, "run.json was written when training had ended"
    (own_run / "run.json").unlink()
    with pytest.raises(ConfigError, match="may not have ended .it has neither"):
        predict_stage(own_run, [store], tmp_path / "out", split="test", device="cpu")
    (own_run / "splits.csv").unlink()
    report = predict_stage(own_run, [store], tmp_path / "alone", device="cpu")
    assert {row.status for row in report.rows} == {"done"}, "a model alone predicts"
