"""One coordinate slide, whose pixels tell where they come from, tiled as a TRIDENT file asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from wsi_hr.config import TileConfig
from wsi_hr.geometry import Size
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.testing.coordinate_slide import write_coordinate_slide
from wsi_hr.tiling.tile import tile_slide

SLIDE_ID = "case.1-DX"
SIZE = Size(1500, 1100)
EDGE_PX0 = 128


def write_h5(path: Path, coords: object, attributes: dict[str, object], name="coords") -> Path:
    """A coordinates file, written with nothing but h5py."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(name, data=coords)
        for key, value in attributes.items():
            dataset.attrs[key] = value
    return path


def grid_of(size: Size, edge: int, step: int) -> np.ndarray:
    """All corners i64[N, 2] of whole patches, column by column, as TRIDENT has them."""
    columns, rows = range(0, size.w - edge + 1, step), range(0, size.h - edge + 1, step)
    return np.array([(x, y) for x in columns for y in rows])


TRIDENT = {
    "patch_size": 64,
    "patch_size_level0": EDGE_PX0,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": SLIDE_ID,
    "savetodir": "anywhere",
}


@pytest.fixture(scope="session")
def h5() -> Callable[..., Path]:
    return write_h5


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slides") / f"{SLIDE_ID}.tif"
    write_coordinate_slide(path, size=SIZE, mpp=0.25, levels=(1, 2))
    return path


@pytest.fixture(scope="session")
def make_store(slide_path, tmp_path_factory) -> Callable[..., PatchStore]:
    """Tile the slide, once per settings: 88 patches of 64 px at 0.5 um/px unless told otherwise."""
    made: dict[str, Path] = {}

    def make(edge_px0: int = EDGE_PX0, mpp_override: float | None = None, **settings: object):
        key = repr((edge_px0, mpp_override, sorted(settings.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp("stores")
            given = {**TRIDENT, "patch_size_level0": edge_px0}
            config = TileConfig.model_validate({"mpp": 0.5, "patch_size": 64, **settings})
            step = edge_px0 * config.stride_px // config.patch_size
            coords = write_h5(folder / "given.h5", grid_of(SIZE, edge_px0, step), given)
            made[key] = folder / f"{SLIDE_ID}.zarr"
            tile_slide(slide_path, SLIDE_ID, made[key], config, mpp_override, "x", coords=coords)
        return PatchStore.open(made[key])

    return make
