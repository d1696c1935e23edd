"""The run record beside every output."""

from __future__ import annotations

import json
import sys
from datetime import datetime

from pipelines.record import RECORD, RunRecord
from wsi_hr import __version__
from wsi_hr.config import Config, TileConfig


def test_what_a_record_says(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["wsi-hr", "tile", "slides ü", "-o", "store"])
    config = TileConfig(mpp=2.0)  # pyright: ignore[reportCallIssue]
    record = RunRecord("tile", config)
    record.write(tmp_path, states={"a": "done"}, device="cpu")
    said = json.loads((tmp_path / RECORD).read_text())
    assert said["command"] == "tile"
    assert said["argv"] == ["tile", "slides ü", "-o", "store"]
    assert said["wsi_hr"] == __version__
    assert said["config"] == config.model_dump(mode="json")
    assert said["states"] == {"a": "done"}
    assert said["device"] == "cpu"
    assert said["packages"]["torch"][0].isdigit()
    assert datetime.fromisoformat(said["started"]) <= datetime.fromisoformat(said["ended"])
    assert datetime.fromisoformat(said["ended"]).tzinfo is not None


def test_a_record_replaces_the_one_before_it(tmp_path) -> None:
    record = RunRecord("train", Config())
    record.write(tmp_path, test={"auc": 0.5}, folds=3)
    record.write(tmp_path, test={"auc": 0.75})
    said = json.loads((tmp_path / RECORD).read_text())
    assert said["test"] == {"auc": 0.75}
    assert "folds" not in said
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]
