"""The patches of a store as coordinates for CLAM and TRIDENT, which read the pixels themselves.

Neither can say everything a store can: CLAM reads whole px of a level of the slide and reduces
nothing, TRIDENT reads at whole magnifications. Where that would show other tissue than the store
does, the export is refused.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from wsi_hr.errors import StoreError
from wsi_hr.exchange.coords_h5 import (
    CLAM_SUFFIX,
    PATCHES_FOLDER,
    TRIDENT_SUFFIX,
    write_coords,
)
from wsi_hr.file_names import file_name
from wsi_hr.geometry import Pair
from wsi_hr.store.patch_store import PatchStore

_MOST_OFF = 0.02  # how far a footprint may be from the store's, relative: 40x for 0.2527 um/px
_MOST_MISNAMED = 0.05  # how far 10 / magnification may be from the mpp: 14x for 0.7 um/px
_UM_AT_1X = 10.0  # the convention: 40x is 0.25 um/px, 20x is 0.5


def clam_place(store: PatchStore) -> PurePath:
    """Where CLAM looks for a slide's coordinates, relative to its output folder."""
    return PurePath(PATCHES_FOLDER, file_name(store.slide_id, CLAM_SUFFIX, of="slide id"))


def trident_place(store: PatchStore) -> PurePath:
    """Where TRIDENT looks for a slide's coordinates, relative to its job folder."""
    return PurePath(
        file_name(_trident_folder(store), of="folder"),
        PATCHES_FOLDER,
        file_name(store.slide_id, TRIDENT_SUFFIX, of="slide id"),
    )


def write_clam(store: PatchStore, path: Path, note: dict[str, str]) -> None:
    """Write CLAM's coordinates of the readable patches: ``patch_size`` px of ``patch_level``.

    Args:
        store: the slide.
        path: the file.
        note: attributes of the file.

    Raises:
        StoreError: the patches are not square in px of their level.
    """
    info = store.info
    plan, patch_px = info.plan, info.tile.patch_size
    edge = _square(store, Pair(patch_px * plan.scale.x, patch_px * plan.scale.y))
    downsample = plan.level_downsample
    level_size = (
        round(info.level0_size.w / downsample.x),
        round(info.level0_size.h / downsample.y),
    )
    attributes = {
        "patch_size": edge,
        "patch_level": plan.level,
        "downsample": (float(downsample.x), float(downsample.y)),
        "downsampled_level_dim": level_size,
        "level_dim": level_size,
        "name": store.slide_id,
        "save_path": PATCHES_FOLDER,
    }
    write_coords(path, store.grid.coords[store.valid], attributes, note)


def write_trident(store: PatchStore, path: Path, note: dict[str, str]) -> None:
    """Write TRIDENT's coordinates of the readable patches.

    ``target_magnification`` is 10 / mpp, rounded; ``level0_magnification`` is such that their ratio
    gives the footprint. ``patch_size_level0`` is the footprint itself.

    Args:
        store: the slide.
        path: the file.
        note: attributes of the file.

    Raises:
        StoreError: no whole magnifications fit, or the patches are not square at level 0.
    """
    info = store.info
    patch_px = info.tile.patch_size
    footprint = _square(store, info.plan.patch_px0)
    target = _target_magnification(store)
    ratio = (info.plan.patch_px0.x + info.plan.patch_px0.y) / 2 / patch_px
    level0 = round(target * ratio)
    if abs(level0 / target / ratio - 1) > _MOST_OFF:
        raise StoreError(
            f"{store.path}: a patch covers {footprint} px of level 0, at whole magnifications "
            f"TRIDENT would read {patch_px * level0 // target}; tile at the mpp of a magnification "
            "(0.25, 0.5, 1), or export as clam"
        )
    attributes = {
        "patch_size": patch_px,
        "patch_size_level0": footprint,
        "level0_magnification": level0,
        "target_magnification": target,
        "overlap": _overlap(store),
        "name": store.slide_id,
        "savetodir": _trident_folder(store),
        "level0_width": info.level0_size.w,
        "level0_height": info.level0_size.h,
    }
    write_coords(path, store.grid.coords[store.valid], attributes, note)


def _trident_folder(store: PatchStore) -> str:
    magnification, patch_px = _target_magnification(store), store.info.tile.patch_size
    return f"{magnification}x_{patch_px}px_{_overlap(store)}px_overlap"


def _target_magnification(store: PatchStore) -> int:
    mpp = store.info.tile.mpp
    magnification = round(_UM_AT_1X / mpp)
    if magnification < 1 or abs(_UM_AT_1X / magnification / mpp - 1) > _MOST_MISNAMED:
        raise StoreError(
            f"{store.path}: {mpp:g} um/px is no whole magnification, and TRIDENT knows no other; "
            "export as clam"
        )
    return magnification


def _overlap(store: PatchStore) -> int:
    """Px that neighbours share; TRIDENT has no word for a gap between them."""
    return max(0, store.info.tile.patch_size - store.info.tile.stride_px)


def _square(store: PatchStore, edges: Pair) -> int:
    """The edge in whole px of a patch that is square but for rounding."""
    if abs(edges.x / edges.y - 1) > _MOST_OFF:
        raise StoreError(
            f"{store.path}: its patches cover {edges.x:g} x {edges.y:g} px of the slide, and "
            "CLAM and TRIDENT read squares; export as png, jpeg or webdataset"
        )
    return round((edges.x + edges.y) / 2)
