"""The demo, small: its stages fit together, it resumes, and it tells what fell short."""

from __future__ import annotations

import io
import json
import shutil
from functools import partial

import numpy as np
import pytest
from rich.console import Console

from pipelines import demo
from pipelines.demo import DemoReport, pointing, print_report, run_demo
from wsi_hr.errors import ConfigError
from wsi_hr.geometry import Pair, PatchGrid
from wsi_hr.slide_prediction import Role, SlidePrediction
from wsi_hr.testing.cohort import Lesions, make_cohort
from wsi_hr.testing.lesions import Ellipse


@pytest.fixture
def small(monkeypatch) -> None:
    """The demo on eight slides of 2048 px."""
    monkeypatch.setattr(demo, "NUM_SLIDES", 8)
    made = partial(make_cohort, size_px=2048, lesion_share=(0.1, 0.2))
    monkeypatch.setattr(demo, "make_cohort", made)


def test_the_demo_runs_and_runs_again(small, cohort, tmp_path, tree):
    shutil.copytree(cohort, tmp_path / "demo/cohort-0")  # the same slides: not drawn again
    sets = ("train.epochs=1", "train.threads=1", "train.device=cpu")
    to = Console(file=io.StringIO(), width=400)
    report = run_demo(tmp_path / "demo", workers=1, assignments=sets, console=to)
    assert isinstance(to.file, io.StringIO)
    said = to.file.getvalue().splitlines()
    assert f"[tile] tiling into {tmp_path / 'demo/store-0'}" in said
    summary = json.loads((tmp_path / "demo/summary.json").read_text())
    assert summary["auc"] == report.auc
    assert summary["auc_ci"] == list(report.auc_ci)
    assert summary["held_out_slides"] == len(report.pictures) == 2
    assert all(picture.is_file() for picture in report.pictures)
    assert report.pointing in (0.0, 1.0), "one lesion slide is held out"
    before = tree(tmp_path / "demo", "summary.json", "status.csv")
    again = run_demo(tmp_path / "demo", workers=1, assignments=sets)
    assert (again.auc, again.pointing, again.pictures) == (
        report.auc, report.pointing, report.pictures
    )  # fmt: skip
    assert tree(tmp_path / "demo", "summary.json", "status.csv") == before


def test_an_unknown_method(tmp_path):
    with pytest.raises(ConfigError, match="the demo knows dbps and patchgd"):
        run_demo(tmp_path / "demo", method="abmil")
    assert not (tmp_path / "demo").exists()


def test_pointing_asks_where_the_centre_of_the_best_salient_patch_lies():
    coords = np.array([[0, 0], [100, 0], [200, 0]], np.int32)
    cells = np.array([[0, 0], [0, 1], [0, 2]], np.int32)
    grid = PatchGrid(coords, cells, (1, 3), np.ones(3, np.float32), Pair(100, 100))
    role = np.array([Role.SALIENT, Role.SALIENT, Role.SUB_SALIENT], np.uint8)
    prediction = SlidePrediction(
        "a", np.array([0.5, 0.5], np.float32), np.array([0.1, 0.2, 0.9], np.float32), role, grid
    )
    for x0, hit in ((50.0, False), (150.0, True), (250.0, False)):
        lesions = Lesions(lesions=(Ellipse(x0, 50.0, 40.0, 40.0, 0.0),), decoys=())
        assert pointing(prediction, lesions) is hit


@pytest.mark.parametrize(("auc", "pointed", "num"), [(1.0, 1.0, 0), (0.9, 0.9, 1), (0.5, 0.2, 2)])
def test_what_fell_short_is_said(tmp_path, auc, pointed, num):
    report = DemoReport(auc, (0.4, 1.0), pointed, {"tile": 3.0}, (tmp_path / "heatmaps/a.png",))
    assert len(report.shortfalls) == num
    to = Console(file=io.StringIO(), width=40)
    print_report(report, tmp_path, to)
    assert isinstance(to.file, io.StringIO)
    assert to.file.getvalue().count("FELL SHORT") == num
    assert f"pictures       {tmp_path / 'heatmaps'}\n" in to.file.getvalue()
