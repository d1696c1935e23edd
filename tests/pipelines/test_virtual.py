"""Every command on stores without pixels: they do what they do on stores that have them."""

from __future__ import annotations

import json
import shutil

import pytest

from pipelines.tile import tile_stage
from pipelines.train import train_stage
from wsi_hr.errors import StoreError
from wsi_hr.tiling.slide_pixels import SLIDES_VARIABLE


@pytest.fixture(scope="module")
def slides(cohort, tmp_path_factory):
    """A copy that may be moved."""
    return shutil.copytree(cohort / "slides", tmp_path_factory.mktemp("own") / "slides")


@pytest.fixture(scope="module")
def stores(slides, settings, tmp_path_factory):
    """The cohort's slides twice: as pixels, and as nothing."""
    folder = tmp_path_factory.mktemp("stores")
    for codec in ("raw", "virtual"):
        tile = settings(f"tile.codec={codec}", "tile.mpp=1.0", "tile.patch_size=128").tile
        rows = tile_stage([slides], folder / codec, tile, workers=2)
        assert {row["status"] for row in rows} == {"done"}
    return folder


def test_training_and_prediction_do_not_notice(stores, labels, settings, tmp_path, cli, tree):
    for codec in ("raw", "virtual"):
        train_stage(stores / codec, labels, tmp_path / codec, settings("train.epochs=1"), None)
        predicted = cli("predict", tmp_path / "raw", stores / codec, "-o", tmp_path / f"p_{codec}")
        assert predicted.code == 0
    raw, virtual = (
        [
            json.loads(line)["train_loss"]
            for line in (tmp_path / codec / "metrics.jsonl").read_text().splitlines()
        ]
        for codec in ("raw", "virtual")
    )
    assert raw == virtual
    raw, virtual = (tree(tmp_path / f"p_{c}" / "patches") for c in ("raw", "virtual"))
    assert raw == virtual
    assert len(raw) == 8


def test_export_writes_the_same_pictures(stores, tmp_path, cli, tree):
    for form in ("png", "clam"):
        for codec in ("raw", "virtual"):
            store, out = stores / codec / "slide_001.zarr", tmp_path / form / codec
            assert cli("export", store, "-o", out, "--format", form).code == 0
    raw, virtual = (
        tree(tmp_path / "png" / codec / "slide_001", "export.json") for codec in ("raw", "virtual")
    )
    assert raw == virtual
    assert len(raw) > 10


def test_a_slide_that_goes_stops_what_needs_it(
    stores, slides, labels, settings, tmp_path, cli, monkeypatch
):
    store, moved = stores / "virtual", slides.with_name("moved")
    assert cli("verify", store).code == 0
    assert cli("verify", store, "--slides", slides).code == 0
    slides.rename(moved)
    try:
        checked = cli("verify", store)
        assert checked.code == 1
        assert "8 unmatched" in checked.out
        with pytest.raises(StoreError, match=r"slide_\d+\.svs, which cannot be read"):
            train_stage(store, labels, tmp_path / "run", settings("train.epochs=1"), None)
        exported = cli("export", store / "slide_001.zarr", "-o", tmp_path / "e", "--format", "png")
        assert exported.code == 1
        assert SLIDES_VARIABLE in exported.out
        monkeypatch.setenv(SLIDES_VARIABLE, str(moved))
        assert cli("verify", store).code == 0
        again = cli("export", store / "slide_001.zarr", "-o", tmp_path / "e", "--format", "png")
        assert again.code == 0
        changed = moved / "slide_002.svs"
        content = changed.read_bytes()
        changed.write_bytes(content + b"!")
        assert "1 outdated" in cli("verify", store).out
        changed.write_bytes(content)
    finally:
        moved.rename(slides)


def test_tiling_again_where_the_slides_are_now_mends_the_store(stores, slides, tmp_path, cli):
    store = shutil.copytree(stores / "virtual", tmp_path / "store")
    new = shutil.copytree(slides, tmp_path / "new")
    settings = ("--mpp", "1.0", "--patch-size", "128", "--set", "tile.codec=virtual")
    before = (store / "slide_001.zarr/zarr.json").read_text()
    assert cli("tile", slides, "-o", store, *settings).code == 0
    assert (store / "slide_001.zarr/zarr.json").read_text() == before
    assert cli("tile", new, "-o", store, *settings).code == 0
    after = (store / "slide_001.zarr/zarr.json").read_text()
    assert after == before.replace(str(slides), str(new))


def test_a_dry_run_knows_that_there_are_no_pixels(stores, slides, tmp_path, cli):
    settings = ("--mpp", "1.0", "--patch-size", "128", "--set", "tile.codec=virtual", "--dry-run")
    assert cli("tile", slides / "slide_001.svs", "-o", tmp_path, *settings).code == 0
    estimate = int((tmp_path / "plan.csv").read_text().splitlines()[1].split(",")[-2])
    files = (stores / "virtual/slide_001.zarr").rglob("*")
    assert estimate == pytest.approx(sum(f.stat().st_size for f in files if f.is_file()), rel=0.01)
