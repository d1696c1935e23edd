"""All of a store but its patches: what it says of itself, its mask, thumbnail and grids.

They are written before the first patch, so whoever is to cut patches can read from them how.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wsi_hr.file_names import file_in, name_problem
from wsi_hr.geometry import BoolArray, PatchGrid, TissueMask, UInt8Array
from wsi_hr.remote import Place
from wsi_hr.store.arrays import (
    ATTRIBUTES_KEY,
    read_small_array,
    write_group,
    write_patches_metadata,
    write_small_array,
)
from wsi_hr.store.layout import PatchLayout, parse_layout
from wsi_hr.store.manifest import Manifest, read_checked
from wsi_hr.store.store_info import StoreInfo, scale_name


def write_root(folder: Path, info: StoreInfo, mask: TissueMask, thumbnail: UInt8Array) -> None:
    """Write what is of the slide.

    Args:
        folder: of the store.
        info: what the store says of itself.
        mask: tissue and artifacts.
        thumbnail: u8[h, w, 3] of the whole slide.

    Raises:
        OSError: the disk does not take it.
    """
    write_group(folder, info.root_json())
    write_small_array(folder / "mask", mask.codes, ("y", "x"))
    write_small_array(folder / "thumbnail", thumbnail, ("y", "x", "channel"))


def write_scale(folder: Path, info: StoreInfo, grid: PatchGrid) -> PatchLayout | None:
    """Write what is of one scale.

    Args:
        folder: of the store.
        info: what the store says of itself at that scale.
        grid: its patches, at least one.

    Returns:
        How its patches are to be laid out; None: the store is virtual, it has none.

    Raises:
        OSError: the disk does not take it.
    """
    scale = _scale_in(folder, info.tile.mpp)
    write_group(scale, info.scale_json() | {"grid_shape": list(grid.shape)})
    write_small_array(scale / "coords", grid.coords, ("patch", "xy"))
    write_small_array(scale / "cells", grid.cells, ("patch", "row_col"))
    write_small_array(scale / "tissue", grid.tissue, ("patch",))
    write_small_array(scale / "artifact", grid.artifact, ("patch",))
    if info.mode == "virtual":
        return None
    write_patches_metadata(scale / "patches", len(grid), info.tile)
    return parse_layout((scale / "patches" / "zarr.json").read_bytes())


def write_valid(folder: Path, mpp: float, valid: BoolArray) -> None:
    """Write which patches bool[N] of the scale the slide gave; known when all were read.

    Raises:
        OSError: the disk does not take it.
    """
    write_small_array(_scale_in(folder, mpp) / "valid", valid, ("patch",))


def read_root(path: Place, manifest: Manifest) -> dict[str, Any]:
    """What is of the slide, as :meth:`~wsi_hr.store.store_info.StoreInfo.root_json` gave it.

    Raises:
        StoreError: it is missing or has changed.
        ValueError, KeyError, TypeError: it was not written by :func:`write_root`.
    """
    return _attributes(path, manifest, "zarr.json")


def read_scale(
    path: Place, manifest: Manifest, root: dict[str, Any], mpp: float
) -> tuple[StoreInfo, PatchGrid]:
    """What :func:`write_scale` wrote of the scale at an asked mpp.

    Args:
        path: of the store.
        manifest: its files.
        root: what is of the slide.
        mpp: um per patch px.

    Raises:
        StoreError: it is missing or has changed.
        ValueError, KeyError, TypeError, IndexError: it was not written by :func:`write_scale`.
    """
    scale = scale_name(mpp)
    of_scale = _attributes(path, manifest, f"{scale}/zarr.json")
    info = StoreInfo.from_json(root, of_scale)
    problem = name_problem(info.slide_id)
    if problem is not None:
        raise ValueError(f"its slide id {info.slide_id!r} {problem}")
    shape = of_scale["grid_shape"]
    grid = PatchGrid(
        coords=read_small_array(path, manifest, f"{scale}/coords"),
        cells=read_small_array(path, manifest, f"{scale}/cells"),
        shape=(int(shape[0]), int(shape[1])),
        tissue=read_small_array(path, manifest, f"{scale}/tissue"),
        patch_px0=info.plan.patch_px0,
        artifact=read_small_array(path, manifest, f"{scale}/artifact"),
    )
    return info, grid


def read_mask(path: Place, manifest: Manifest, info: StoreInfo) -> TissueMask:
    """Where there is tissue, and what spoils it.

    Raises:
        StoreError: the mask has changed on disk.
    """
    codes = read_small_array(path, manifest, "mask")
    return TissueMask.from_codes(codes, info.mask_downsample, info.segmenter)


def _scale_in(folder: Path, mpp: float) -> Path:
    return file_in(folder, scale_name(mpp), of="scale")


def _attributes(path: Place, manifest: Manifest, name: str) -> dict[str, Any]:
    return json.loads(read_checked(path, manifest, name))["attributes"][ATTRIBUTES_KEY]
