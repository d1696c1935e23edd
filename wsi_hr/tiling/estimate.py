"""What tiling a slide will take, known before it is done: its grid, and a sample of its patches."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_hr.config import TileConfig
from wsi_hr.errors import writing
from wsi_hr.exchange.coords_h5 import read_coords
from wsi_hr.geometry import Int64Array
from wsi_hr.scratch import scratch_folder, temporary_folder
from wsi_hr.slides.open import open_slide
from wsi_hr.slides.source import Source
from wsi_hr.store.arrays import write_small_array
from wsi_hr.store.shards import CHUNKS_PER_SHARD, index_bytes
from wsi_hr.tiling.blocks import encoding
from wsi_hr.tiling.survey import Scale, survey_slide
from wsi_hr.tiling.tile import THUMBNAIL_PX

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
    coords: Path | None = None,
    mask_path: Path | None = None,
) -> SlideEstimate:
    """Plan a slide and tile a few places of it in memory; nothing is kept.

    Args:
        path: the slide.
        slide_id: its name.
        config: what is asked.
        mpp_override: um per level-0 px that replaces what the file says; None: the file's.
        mpp_source: whose word ``mpp_override`` is.
        threads: blocks of patches worked on at a time.
        coords: a CLAM or TRIDENT file with the patches to cut; None: those with enough tissue.
        mask_path: the user's mask of this slide; None: the segmenter draws it.

    Raises:
        ConfigError: likewise.
        CoordsError: as :func:`wsi_hr.tiling.tile.tile_slide`.
        MaskError: likewise.
        SlideError: likewise, as far as that shows before the patches are read.
    """
    begun = time.monotonic()
    source = Source.of(path)
    with open_slide(
        path, slide_id=slide_id, mpp_override=mpp_override, mpp_source=mpp_source
    ) as slide:
        survey = survey_slide(
            slide, config, None if coords is None else read_coords(coords), mask_path
        )
        assert slide.mpp is not None, "a slide without mpp cannot be planned"
        scales = [scale for scale in survey.scales if len(scale.grid)]
        num_patches, num_bytes = len(survey.scales[0].grid), 0
        if num_patches:
            pictures = (survey.mask.codes, slide.thumbnail(THUMBNAIL_PX))
            num_bytes = sum(map(_stored_bytes, pictures))
        else:
            scales = []
        seconds = time.monotonic() - begun
        for scale in scales:
            scale_bytes, scale_s = _of_patches(scale, threads)
            num_bytes, seconds = num_bytes + scale_bytes, seconds + scale_s
        return SlideEstimate(
            num_patches=num_patches,
            mpp=slide.mpp.mean,
            mpp_source=slide.mpp.source,
            store_bytes=num_bytes,
            seconds=seconds + source.size * _hashing_s_per_byte(path),
        )


def _of_patches(scale: Scale, threads: int) -> tuple[int, float]:
    """Bytes and seconds of all patches of a scale, from those of a few."""
    grid, edge = scale.grid, scale.config.patch_size
    chosen = sampled(len(grid))
    num_bytes, begun = 0, time.monotonic()
    some = grid.take(chosen)
    with encoding(some, scale.encoder(), patch_px=edge, threads=threads) as encoded:
        for chunks in encoded:
            num_bytes += sum(len(chunk) for chunk in chunks if chunk is not None)
    seconds = time.monotonic() - begun
    share = len(grid) / len(chosen)
    num_shards = 0 if scale.mode == "virtual" else -(-len(grid) // CHUNKS_PER_SHARD)
    overhead = _METADATA_BYTES + num_shards * (index_bytes(CHUNKS_PER_SHARD) + _LISTED_BYTES)
    overhead += sum(map(_stored_bytes, (grid.coords, grid.cells, grid.tissue, grid.artifact)))
    return round(num_bytes * share) + overhead, seconds * share


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
    with writing(temporary_folder()), scratch_folder() as folder:
        write_small_array(folder / "a", values, names)
        return sum(file.stat().st_size for file in (folder / "a").iterdir())


def _hashing_s_per_byte(path: Path) -> float:
    """Seconds per byte that the checksum of the slide takes, reading included."""
    begun = time.monotonic()
    with path.open("rb") as handle:
        part = handle.read(_HASHED_BYTES)
    hashlib.sha256(part)
    return (time.monotonic() - begun) / max(len(part), 1)
