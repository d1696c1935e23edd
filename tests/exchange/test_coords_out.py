"""What CLAM and TRIDENT read from an exported store: their attributes, our patches."""

from __future__ import annotations

import h5py
import numpy as np
import openslide
import pytest

from wsi_hr.config import TileConfig
from wsi_hr.errors import StoreError
from wsi_hr.exchange.coords_out import clam_place, trident_place, write_clam, write_trident
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.tiling.tile import tile_slide


def attributes_of(path) -> dict[str, object]:
    with h5py.File(path) as file:
        found = {name: value for name, value in file["coords"].attrs.items()}
    return {
        k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in found.items()
    }


def test_clam_reads_the_stores_pixels(make_store, slide_path, tmp_path):
    """As its dataset does: coords, patch_level and patch_size, nothing else."""
    store = make_store(codec="raw")
    assert clam_place(store).as_posix() == "patches/case.1-DX.h5"
    write_clam(store, tmp_path / "a.h5", {})
    assert attributes_of(tmp_path / "a.h5") == {
        "patch_size": 64,
        "patch_level": 1,
        "downsample": [2.0, 2.0],
        "downsampled_level_dim": [750, 550],
        "level_dim": [750, 550],
        "name": "case.1-DX",
        "save_path": "patches",
    }
    with h5py.File(tmp_path / "a.h5") as file, openslide.OpenSlide(slide_path) as slide:
        dataset = file["coords"]
        assert (dataset.dtype, dataset.maxshape) == (np.int64, (None, 2))
        level, edge = dataset.attrs["patch_level"], dataset.attrs["patch_size"]
        assert len(dataset) == len(store) == 88
        for index, coord in enumerate(dataset):
            picture = slide.read_region(coord, level, (edge, edge)).convert("RGB")
            assert np.array_equal(np.asarray(picture), store.read(np.array([index]))[0])


def test_clam_gets_whole_pixels_of_the_level_where_the_store_is_resampled(make_store, tmp_path):
    store = make_store(edge_px0=179, mpp=0.7)
    assert store.info.plan.scale == (1.4, 1.4)
    write_clam(store, tmp_path / "a.h5", {})
    found = attributes_of(tmp_path / "a.h5")
    assert (found["patch_size"], found["patch_level"]) == (90, 1)  # 64 px x 1.4 = 89.6


def test_trident_reads_the_stores_patches(make_store, tmp_path):
    store = make_store()
    assert trident_place(store).as_posix() == "20x_64px_0px_overlap/patches/case.1-DX_patches.h5"
    write_trident(store, tmp_path / "a.h5", {})
    assert attributes_of(tmp_path / "a.h5") == {
        "patch_size": 64,
        "patch_size_level0": 128,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": "case.1-DX",
        "savetodir": "20x_64px_0px_overlap",
        "level0_width": 1500,
        "level0_height": 1100,
    }
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(file["coords"][:], store.grid.coords)
        assert file["coords"].dtype == np.int64


@pytest.mark.parametrize(
    ("slide_mpp", "settings", "magnifications", "level0", "place"),
    [
        (0.2527, {"edge_px0": 128}, (40, 20), 128, "20x_64px_0px_overlap"),
        (0.24, {"edge_px0": 267, "mpp": 1.0}, (42, 10), 267, "10x_64px_0px_overlap"),
        (0.25, {"edge_px0": 179, "mpp": 0.7}, (39, 14), 179, "14x_64px_0px_overlap"),
        (0.25, {"edge_px0": 128, "stride": 48}, (40, 20), 128, "20x_64px_16px_overlap"),
        (0.25, {"edge_px0": 128, "stride": 128}, (40, 20), 128, "20x_64px_0px_overlap"),
    ],
)
def test_magnifications(make_store, tmp_path, slide_mpp, settings, magnifications, level0, place):
    store = make_store(mpp_override=slide_mpp, **settings)
    write_trident(store, tmp_path / "a.h5", {})
    found = attributes_of(tmp_path / "a.h5")
    assert (found["level0_magnification"], found["target_magnification"]) == magnifications
    assert found["patch_size_level0"] == level0
    assert trident_place(store).parts[0] == place
    read_px0 = 64 * found["level0_magnification"] / found["target_magnification"]
    assert read_px0 == pytest.approx(store.info.plan.patch_px0.x, rel=0.02)


def test_what_they_could_not_read_as_it_is_is_refused(make_store, tmp_path):
    coarse = make_store(edge_px0=512, mpp=8.0, patch_size=16)
    with pytest.raises(StoreError, match="8 um/px is no whole magnification"):
        trident_place(coarse)
    write_clam(coarse, tmp_path / "a.h5", {})
    # 10 / 2 is 5x, and 5 x 1.1 is 5.5: neither 5 nor 6 is near
    odd = make_store(edge_px0=70, mpp=2.0, mpp_override=2.0 / 1.1)
    with pytest.raises(StoreError, match="covers 70 px of level 0, .* TRIDENT would read 76"):
        write_trident(odd, tmp_path / "b.h5", {})
    assert not (tmp_path / "b.h5").exists()


@pytest.mark.parametrize("form", ["clam", "trident"])
def test_what_goes_out_comes_in_again(make_store, slide_path, tmp_path, form):
    """Out of a store as coordinates, and into another one: the same files, byte for byte."""
    store = make_store(codec="raw")
    write = {"clam": write_clam, "trident": write_trident}[form]
    write(store, tmp_path / "a.h5", {"wsi_hr": "{}"})
    again = tmp_path / "again.zarr"
    config = TileConfig.model_validate(store.info.tile.model_dump())
    tile_slide(slide_path, store.slide_id, again, config, None, "x", coords=tmp_path / "a.h5")
    for file in sorted(store.path.rglob("*")):
        name = file.relative_to(store.path)
        if file.is_file() and name.as_posix() not in ("manifest.json", "zarr.json"):
            assert file.read_bytes() == (again / name).read_bytes()
    assert len(PatchStore.open(again)) == len(store)
