"""What tiling a slide will take, known before it is done: its grid, and a sample of its patches."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_hr.config import TileConfig
from wsi_hr.geometry import Int64Array, PatchGrid
from wsi_hr.slides.open import open_slide
from wsi_hr.slides.self_check import checked_tiles
from wsi_hr.slides.source import Source
from wsi_hr.store.arrays import write_small_array
from wsi_hr.store.shards import CHUNKS_PER_SHARD, index_bytes
from wsi_hr.tiling.blocks import BlockEncoder, encode_grid
from wsi_hr.tiling.overview import read_overview
from wsi_hr.tiling.passthrough import coincides
from wsi_hr.tiling.plan import covered_size, plan_grid, plan_read, reduced_by_decoder
from wsi_hr.tiling.tile import THUMBNAIL_PX, encoder_for
from wsi_hr.tiling.tissue import segment

SAMPLED_PLACES = 4
PATCHES_PER_PLACE = 64  # four rows of a block: neighbours share the tiles they are cut from
_HASHED_BYTES = 32 << 20
_METADATA_BYTES = 8192  # zarr.json of groups and arrays, and the list of files without the shards
_LISTED_BYTES = 160  # what the list of files says of one shard


@dataclass(frozen=True)
class SlideEstimate:
    """What tiling one slide would take.

    Attributes:
        num_patches: patches it would have; exact.
        mpp: um per level-0 px, mean of both axes.
        mpp_source: whose word the mpp is.
        store_bytes: size of its store, estimated; 0 where there would be none.
        seconds: one process would take, estimated at the speed measured just now.
    """

    num_patches: int
    mpp: float
    mpp_source: str
    store_bytes: int
    seconds: float


def estimate_slide(
    path: Path,
    slide_id: str,
    config: TileConfig,
    mpp_override: float | None,
    mpp_source: str,
    threads: int = 1,
) -> SlideEstimate:
    """Plan a slide and tile a few places of it in memory; nothing is kept.

    Args:
        path: the slide.
        slide_id: its name.
        config: what is asked.
        mpp_override: um per level-0 px that replaces what the file says; None: the file's.
        mpp_source: whose word ``mpp_override`` is.
        threads: blocks of patches worked on at a time.

    Raises:
        SlideError: as :func:`wsi_hr.tiling.tile.tile_slide`, as far as that shows before the
            patches are read.
    """
    begun = time.monotonic()
    source = Source.of(path)
    with open_slide(
        path, slide_id=slide_id, mpp_override=mpp_override, mpp_source=mpp_source
    ) as slide:
        plan = plan_read(slide, config.spec())
        tiles = checked_tiles(slide, plan.level)
        if tiles is not None and config.resample == "fast":
            plan = reduced_by_decoder(plan)
        assert slide.mpp is not None, "plan_read refuses a slide without mpp"
        mask = segment(read_overview(slide), config.segmenter)
        grid = plan_grid(covered_size(slide, plan), slide.bounds, plan, mask, config.min_tissue)
        passthrough = (
            config.codec == "auto"
            and tiles is not None
            and coincides(grid, plan, config.patch_size, tiles)
        )
        encoder = encoder_for(slide, tiles, plan, config, passthrough=passthrough)
        small_bytes = 0
        if len(grid):
            small = {
                "mask": mask.mask.astype(np.uint8),
                "thumbnail": slide.thumbnail(THUMBNAIL_PX),
                "coords": grid.coords,
                "cells": grid.cells,
                "tissue": grid.tissue,
            }
            small_bytes = sum(_stored_bytes(values) for values in small.values())
        planned_s = time.monotonic() - begun
        patches_bytes, patches_s = _of_patches(grid, encoder, config.patch_size, threads)
        return SlideEstimate(
            num_patches=len(grid),
            mpp=slide.mpp.mean,
            mpp_source=slide.mpp.source,
            store_bytes=small_bytes + patches_bytes,
            seconds=planned_s + patches_s + source.size * _hashing_s_per_byte(path),
        )


def _of_patches(
    grid: PatchGrid, encoder: BlockEncoder, patch_px: int, threads: int
) -> tuple[int, float]:
    """Bytes and seconds of all patches, from those of a few."""
    if not len(grid):
        return 0, 0.0
    chosen = sampled(len(grid))
    num_bytes, begun = 0, time.monotonic()
    for chunks in encode_grid(grid.take(chosen), encoder, patch_px=patch_px, threads=threads):
        num_bytes += sum(len(chunk) for chunk in chunks if chunk is not None)
    share = len(grid) / len(chosen)
    num_shards = -(-len(grid) // CHUNKS_PER_SHARD)
    overhead = _METADATA_BYTES + num_shards * (index_bytes(CHUNKS_PER_SHARD) + _LISTED_BYTES)
    return round(num_bytes * share) + overhead, (time.monotonic() - begun) * share


def sampled(num_patches: int) -> Int64Array:
    """Which patches are tried: a few runs of neighbours, spread evenly over the store order."""
    most = SAMPLED_PLACES * PATCHES_PER_PLACE
    if num_patches <= most:
        return np.arange(num_patches, dtype=np.int64)
    starts = (np.arange(SAMPLED_PLACES) + 0.5) * num_patches / SAMPLED_PLACES
    first = np.floor(starts).astype(np.int64) - PATCHES_PER_PLACE // 2
    return (first[:, None] + np.arange(PATCHES_PER_PLACE)).ravel()


def _stored_bytes(values: np.ndarray) -> int:
    """Size of a small array as a store keeps it."""
    names = tuple(f"axis_{axis}" for axis in range(values.ndim))
    with tempfile.TemporaryDirectory(prefix="wsi-hr-") as folder:
        write_small_array(Path(folder) / "a", values, names)
        return sum(file.stat().st_size for file in (Path(folder) / "a").iterdir())


def _hashing_s_per_byte(path: Path) -> float:
    """Seconds per byte that the checksum of the slide takes, reading included."""
    begun = time.monotonic()
    with path.open("rb") as handle:
        part = handle.read(_HASHED_BYTES)
    hashlib.sha256(part)
    return (time.monotonic() - begun) / max(len(part), 1)
