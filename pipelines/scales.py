"""The scale of the stores that a command asks for by ``--mpp``."""

from __future__ import annotations

from collections.abc import Sequence

from wsi_hr.bags.bag_set import BagSet
from wsi_hr.errors import ConfigError, FileNameError, StoreError
from wsi_hr.store.patch_store import PatchStore


def require_scale(bags: BagSet, slide_ids: Sequence[str], mpp: float | None) -> None:
    """Make sure that the stores were cut at a scale, as far as the first that can be read tells.

    Raises:
        ConfigError: they were not.
    """
    for slide_id in slide_ids if mpp is not None else ():
        try:
            found = bags.store(slide_id)
        except (StoreError, FileNameError):
            continue  # who reads it says so
        if mpp not in found.info.asked.scales:
            raise ConfigError(f"--mpp {mpp:g}: {found.path} {_other_scales(found)}")
        return


def cut_at(store: PatchStore, mpp: float | None) -> bool:
    """Whether a store that was asked for a scale has patches there; without, it gives its first.

    Raises:
        StoreError: it was not cut at that scale at all.
    """
    if mpp is not None and mpp not in store.info.asked.scales:
        raise StoreError(f"{store.path}: {_other_scales(store)}")
    return mpp in (None, store.info.tile.mpp)


def too_little_tissue(mpp: float | None) -> str:
    """Why a slide has no patches at a scale that it was cut at."""
    return f"its tissue is too little for a patch at {mpp:g} um/px"


def _other_scales(store: PatchStore) -> str:
    scales = " and ".join(f"{scale:g}" for scale in store.info.asked.scales)
    return (
        f"was not cut at that scale, but at {scales} um/px; choose one of these, or "
        "tile with several, as in wsi-hr tile --mpp 0.5,1.0"
    )
