"""The methods that DBPS and PatchGD are held against, from stores to predictions."""

from __future__ import annotations

import os
import signal

import pytest

from pipelines.predict import predict_stage
from pipelines.settings import resolve
from pipelines.tile import tile_stage
from pipelines.train import train_stage
from wsi_hr.config import Config, resolve_config
from wsi_hr.errors import ConfigError, StoreError
from wsi_hr.training.loop import BEST, KEPT, LAST, METRICS
from wsi_hr.training.run import load_run

METHODS = {
    "gd": {"memory": "offload", "micro_batch": 1},
    "gd image": {"input": "image", "image_px": 96},
    "abmil": {"width": 16},
    "abmilx": {"width": 16, "sample": 8, "low_mpp": 4.0},
}


def settings(name: str, *assignments: str) -> Config:
    recipe = {
        "seed": 3,
        "encoder": {"name": "test_resnet", "chunk": 32, "cut": "layer2"},
        "method": {"name": name.split()[0], **METHODS[name]},
        "train": {"epochs": 2, "batch_size": 2, "lr": 1e-3, "device": "cpu", "threads": 1},
        "predict": {"heatmap_px": 300},
    }
    return resolve_config(recipe, {}, assignments)


@pytest.fixture(scope="module")
def two_scales(cohort, tmp_path_factory):
    """The cohort's slides at 2 and at 4 um/px."""
    folder = tmp_path_factory.mktemp("two") / "store"
    tile = resolve("demo", {}, ("tile.more_mpp=[4.0]",)).tile
    rows = tile_stage([cohort / "slides"], folder, tile, workers=2)
    assert {row["status"] for row in rows} == {"done"}
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_from_stores_to_heatmaps(two_scales, labels, tmp_path, name: str) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    config = settings(name, "train.ema=0.9")
    report = train_stage(two_scales, labels, run, config, None)
    assert report.test
    assert not (run / KEPT).exists(), "features are needed no more"
    assert load_run(run, device="cpu").method.encoder.dim == 48, "cut after layer2"
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.name != "run.json"}
    again = train_stage(two_scales, labels, run, config, None)
    assert again.best == report.best
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.name != "run.json"}
    assert after == before, "a finished run only reports"

    predicted = predict_stage(run, [two_scales], out, split="test", device="cpu")
    assert [row.status for row in predicted.rows] == ["done"] * 2
    assert predicted.metrics["loss"] == pytest.approx(report.test["loss"], rel=1e-5)
    assert len(list((out / "heatmaps").iterdir())) == 2


def test_slides_are_predicted_at_one_scale(two_scales, labels, cohort, tmp_path) -> None:
    """The low magnification is for learning; slides are not cut at it to be predicted."""
    run, out = tmp_path / "run", tmp_path / "out"
    train_stage(two_scales, labels, run, settings("abmilx", "train.epochs=1"), None)
    slide = cohort / "slides/slide_001.svs"
    (row,) = predict_stage(run, [slide], out, device="cpu", workers=1).rows
    assert row.status == "done"
    assert [path.name for path in (out / "store").glob("slide_001.zarr/scale_*")] == ["scale_2.0"]


def test_a_second_scale_that_is_not_there_is_named_before_training(store, labels, tmp_path) -> None:
    with pytest.raises(
        StoreError, match=r"no patches at 4 um/px .* wsi-hr tile --mpp 2,4; or take"
    ):
        train_stage(store, labels, tmp_path / "run", settings("abmilx"), None)
    assert not (tmp_path / "run").exists()


def test_the_second_scale_is_the_coarser_one(two_scales, labels, tmp_path) -> None:
    for mpp, low in ((2.0, 2.0), (4.0, 2.0)):
        config = settings("abmilx", f"method.low_mpp={low}")
        with pytest.raises(
            ConfigError, match=f"method.low_mpp 2: must be coarser .* at {mpp:g} um"
        ):
            train_stage(two_scales, labels, tmp_path / "run", config, None, mpp=mpp)


@pytest.mark.fault("A2a")
def test_features_survive_a_kill_and_change_nothing(
    two_scales, labels, tmp_path, start, cli
) -> None:
    """Killed when the first features lie on the disk: the rest of them are made, these are read."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    options = [two_scales, "--labels", labels.path, "--method", "abmil", "--encoder", "test_resnet"]
    options += ["--epochs", 2, "--batch-size", 2, "--device", "cpu", "--set", "train.threads=1"]
    assert cli("train", *options, "-o", whole).code == 0
    command = start("train", *options, "-o", torn)
    while not any((torn / KEPT).glob("*.npy")):
        os.kill(command.pid, 0)
    command.send(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (torn / KEPT).glob("*.npy")}
    assert kept
    assert cli("train", *options, "-o", torn).code == 0
    for name in (BEST, LAST, METRICS):
        assert (whole / name).read_bytes() == (torn / name).read_bytes()
