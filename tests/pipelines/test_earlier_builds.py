"""What earlier builds wrote opens today, or is refused by name with the way out."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from wsi_hr.store.patch_store import PatchStore
from wsi_hr.tiling.slide_pixels import SLIDES_VARIABLE, open_store
from wsi_hr.training.checkpoint import load_checkpoint

BUILDS = sorted(path for path in (Path(__file__).parents[1] / "earlier_builds").iterdir())
BUILDS = [path for path in BUILDS if path.is_dir()]
MODES = {"store": "jpeg", "raw": "raw", "virtual": "virtual", "passthrough": "passthrough"}

SMALL = [
    *("--set", "encoder.name=test_resnet", "--set", "encoder.cut=layer1"),
    *("--set", "train.threads=1", "--set", "train.device=cpu", "--set", "train.batch_size=2"),
]
EXACT = [
    *("--method", "patchgd", "--set", "method.exact=true", "--set", "encoder.freeze_bn=true"),
    *("--set", "train.epochs=12"),
]
DBPS = [
    *("--set", "train.epochs=2", "--set", "method.num_salient=4"),
    *("--set", "method.num_sub_salient=4", "--set", "method.explore_patches=6"),
]
PATCHGD = [
    *("--method", "patchgd", "--set", "train.epochs=2", "--set", "encoder.freeze_bn=true"),
    *("--set", "train.ema=0.9"),
]


@pytest.fixture(params=BUILDS, ids=lambda path: path.name)
def old(request, tmp_path, monkeypatch) -> Path:
    """A copy of what a build wrote, its slide found where it is now."""
    folder = shutil.copytree(request.param, tmp_path / "old")
    monkeypatch.setenv(SLIDES_VARIABLE, str(folder / "slides"))
    return folder


def test_there_is_an_earlier_build():
    assert [path.name for path in BUILDS][0] == "57b8f1e"


@pytest.mark.fault("A19")
@pytest.mark.parametrize(("name", "mode"), MODES.items())
def test_its_stores_are_sound_and_give_their_pixels(old, name, mode, cli):
    verified = cli("verify", old / name)
    assert verified.code == 0, verified.out + verified.err
    for path in sorted((old / name).glob("*.zarr")):
        for mpp in (0.5, 1.0):
            store = open_store(path, mpp)
            assert store.info.mode == mode
            patches = store.read(np.flatnonzero(store.valid))
            assert 20 < patches.mean() < 250
            assert patches.std(axis=(1, 2)).max() > 5, "pictures, not one colour"
        assert (store.mask.codes == 1).all(), "each slide is tissue from edge to edge"
        assert store.thumbnail.shape == (256, 256, 3)


def test_its_pixels_are_those_of_its_slide(old, cli, tmp_path):
    """All four modes hold the same slide, so they show the same pixels as one cut today."""
    for name in ("raw", "virtual"):
        before = open_store(old / name / "slide_001.zarr")
        asked = ("--mpp", 0.5, "--patch-size", 64, "--set", f"tile.codec={name}")
        tiled = cli("tile", old / "slides/slide_001.svs", "-o", tmp_path / name, *asked)
        assert tiled.code == 0, tiled.err
        now = open_store(tmp_path / name / "slide_001.zarr")
        assert (before.grid.coords == now.grid.coords).all()
        every = np.arange(len(now))
        assert (before.read(every) == now.read(every)).all()


def test_a_finished_store_is_kept_by_the_same_command(old, cli, tree):
    before = tree(old / "raw/slide_001.zarr")
    asked = ("--mpp", 0.5, "--patch-size", 64, "--set", "tile.codec=raw")
    again = cli("tile", old / "slides/slide_001.svs", "-o", old / "raw", *asked)
    assert again.code == 0, again.err
    assert tree(old / "raw/slide_001.zarr") == before


@pytest.mark.fault("A19")
@pytest.mark.parametrize(("run", "settings"), [("dbps", DBPS), ("patchgd", PATCHGD)])
def test_a_finished_run_is_reported_and_left_as_it_is(old, run, settings, cli):
    before = load_checkpoint(old / run / "best.safetensors").digest
    told = cli("train", old / "store", "--labels", old / "labels.csv", "-o", old / run,
               *settings, *SMALL)  # fmt: skip
    assert told.code == 0, told.err
    assert load_checkpoint(old / run / "best.safetensors").digest == before
    assert len((old / run / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.fault("A19")
def test_a_stopped_run_goes_on(old, cli):
    before = (old / "stopped/metrics.jsonl").read_text().splitlines()
    gone_on = cli("train", old / "store", "--labels", old / "labels.csv", "-o", old / "stopped",
                  *EXACT, *SMALL)  # fmt: skip
    assert gone_on.code == 0, gone_on.err
    rows = (old / "stopped/metrics.jsonl").read_text().splitlines()
    assert rows[:1] == before, "what was learned before is not learned again"
    assert [json.loads(row)["epoch"] for row in rows] == list(range(12))


@pytest.mark.fault("A19")
def test_its_run_predicts_what_it_predicted(old, cli, tmp_path):
    told = cli("predict", old / "dbps", old / "store", "-o", tmp_path / "now", "--device", "cpu")
    assert told.code == 0, told.err
    before = rows_of(old / "predictions/predictions.csv")
    now = rows_of(tmp_path / "now/predictions.csv")
    assert [row["slide_id"] for row in now] == [row["slide_id"] for row in before]
    for column in ("prob_lesion", "prob_normal"):
        assert floats(now, column) == pytest.approx(floats(before, column), abs=1e-4)
    for slide in (old / "predictions/patches").glob("*.csv"):
        patches_before, patches = rows_of(slide), rows_of(tmp_path / "now/patches" / slide.name)
        assert floats(patches, "saliency") == pytest.approx(
            floats(patches_before, "saliency"), rel=1e-3, abs=1e-5
        )


def test_its_run_predicts_slides(old, cli, tmp_path):
    slide = old / "slides/slide_001.svs"
    told = cli("predict", old / "patchgd", slide, "-o", tmp_path / "now", "--device", "cpu")
    assert told.code == 0, told.err
    assert [row["status"] for row in rows_of(tmp_path / "now/predictions.csv")] == ["done"]


def test_its_store_is_exported_and_sampled(old, cli, tmp_path):
    assert cli("export", old / "store", "-o", tmp_path / "clam", "--format", "clam").code == 0
    assert len(list((tmp_path / "clam/patches").glob("*.h5"))) == 6
    assert cli("sample", old / "store", "-o", tmp_path / "sample").code == 0
    assert len(list((tmp_path / "sample/patches").glob("*.csv"))) == 6


@pytest.mark.fault("A19")
def test_a_store_that_is_no_longer_read_is_refused_by_name_with_the_way_out(old, cli):
    """The rule for all that is to come, tried on a layout that no build reads."""
    root = old / "raw/slide_001.zarr"
    assert isinstance(PatchStore.open(root), PatchStore)
    (root / "manifest.json").write_text("{}")
    refused = cli("export", old / "raw", "-o", old / "out", "--format", "clam")
    assert refused.code != 0
    told = refused.out + refused.err + (old / "out/export.csv").read_text()
    assert "slide_001.zarr" in told
    assert "run wsi-hr tile again" in told


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def floats(rows: list[dict[str, str]], column: str) -> list[float]:
    return [float(row[column]) for row in rows]
