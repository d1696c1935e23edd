"""One slide into one patch store."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wsi_hr import __version__
from wsi_hr.config import TileConfig
from wsi_hr.errors import SlideError
from wsi_hr.geometry import PatchGrid, ReadPlan, TissueMask, UInt8Array
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.slides.open import open_slide
from wsi_hr.slides.reporting import report_progress
from wsi_hr.slides.self_check import checked_tiles
from wsi_hr.slides.slide import Slide
from wsi_hr.slides.source import Source
from wsi_hr.store.chunks import chunk_codec_for
from wsi_hr.store.patch_store import PatchStoreWriter, StoreInfo
from wsi_hr.tiling.blocks import BlockEncoder, encode_grid
from wsi_hr.tiling.overview import Overview, read_overview
from wsi_hr.tiling.passthrough import TileStreams, coincides
from wsi_hr.tiling.plan import covered_size, plan_grid, plan_read, reduced_by_decoder
from wsi_hr.tiling.read import SlidePatches
from wsi_hr.tiling.tile_pixels import TilePatches
from wsi_hr.tiling.tissue import segment

logger = logging.getLogger(__name__)

THUMBNAIL_PX = 1600
"""Longest edge of the thumbnail in a store: what a heatmap is drawn on by default."""


@dataclass(frozen=True)
class TileResult:
    """What became of one slide.

    Attributes:
        slide_id: the slide.
        status: ``done`` (a store was written) or ``no_tissue`` (there is none).
        reason: why there is none, one clause; how many patches were unreadable, if any.
        num_patches: patches in the store, unreadable ones included.
        mpp: um per level-0 px, mean of both axes.
        mpp_source: whose word the mpp is.
        source_sha256: SHA-256 of the slide's bytes.
    """

    slide_id: str
    status: str
    reason: str
    num_patches: int
    mpp: float
    mpp_source: str
    source_sha256: str


def tile_slide(
    path: Path,
    slide_id: str,
    store_path: Path,
    config: TileConfig,
    mpp_override: float | None,
    mpp_source: str,
    threads: int = 1,
) -> TileResult:
    """Cut the tissue of one slide into a patch store.

    Args:
        path: the slide.
        slide_id: its name in tables and stores.
        store_path: where the store appears, whole or not at all.
        config: what is asked.
        mpp_override: um per level-0 px that replaces what the file says; None: the file's.
        mpp_source: whose word ``mpp_override`` is.
        threads: blocks of patches worked on at a time; the store does not depend on it.

    Returns:
        ``done`` or ``no_tissue``; anything else is an error.

    Raises:
        SlideError: the slide cannot be opened, has no plausible mpp, is coarser than asked, has
            too many unreadable patches, or changed while it was read.
        StoreError: the store cannot be written.
    """
    source = Source.of(path)
    digest = source.sha256()
    with open_slide(
        path, slide_id=slide_id, mpp_override=mpp_override, mpp_source=mpp_source
    ) as slide:
        plan = plan_read(slide, config.spec())
        tiles = checked_tiles(slide, plan.level)
        if tiles is not None and config.resample == "fast":
            plan = reduced_by_decoder(plan)
        assert slide.mpp is not None, "plan_read refuses a slide without mpp"
        overview = read_overview(slide)
        mask = segment(overview, config.segmenter)
        grid = plan_grid(covered_size(slide, plan), slide.bounds, plan, mask, config.min_tissue)
        unreadable = 0
        if len(grid):
            passthrough = (
                config.codec == "auto"
                and tiles is not None
                and coincides(grid, plan, config.patch_size, tiles)
            )
            info = StoreInfo(
                slide_id=slide_id,
                source_name=os.fsencode(path.name).decode("utf-8", "backslashreplace"),
                source_size=source.size,
                source_sha256=digest,
                source_edges_sha256=source.edges_sha256(),
                mpp=slide.mpp,
                level0_size=slide.level_dimensions[0],
                bounds=slide.bounds,
                vendor=slide.vendor,
                reader=slide.reader if tiles is None else "jpeg tiles",
                mode=_mode(config, passthrough=passthrough),
                plan=plan,
                tile=config,
                segmenter=mask.method,
                mask_downsample=mask.downsample,
                wsi_hr_version=__version__,
            )
            thumbnail = _thumbnail(slide, overview)
            with PatchStoreWriter(store_path, info, grid, mask, thumbnail) as writer:
                encoder = encoder_for(slide, tiles, plan, config, passthrough=passthrough)
                unreadable = _write_patches(slide, grid, encoder, config, writer, threads)
                source.check_unchanged()
                writer.commit()
            reason = f"{unreadable} of {len(grid)} patches unreadable" if unreadable else ""
        else:
            source.check_unchanged()
            reason = _why_empty(slide, plan, grid, mask, config)
        return TileResult(
            slide_id=slide_id,
            status="done" if len(grid) else "no_tissue",
            reason=reason,
            num_patches=len(grid),
            mpp=slide.mpp.mean,
            mpp_source=slide.mpp.source,
            source_sha256=digest,
        )


def _mode(config: TileConfig, *, passthrough: bool) -> str:
    """How the patches of a slide are stored."""
    if config.codec == "raw":
        return "raw"
    return "passthrough" if passthrough else "jpeg"


def encoder_for(
    slide: Slide,
    tiles: JpegTiles | None,
    plan: ReadPlan,
    config: TileConfig,
    *,
    passthrough: bool,
) -> BlockEncoder:
    """The shortest way from this slide to chunks."""
    fast = config.resample == "fast"
    by_slide = SlidePatches(slide, plan, config.patch_size, fast=fast)
    codec = chunk_codec_for(config)
    if tiles is None:
        return BlockEncoder(by_slide, codec)
    if passthrough:
        return BlockEncoder(by_slide, codec, open_streams=lambda: TileStreams(tiles, plan))
    return BlockEncoder(
        by_slide,
        codec,
        open_tiles=lambda: TilePatches(tiles, plan, config.patch_size, fast=fast),
    )


def _write_patches(
    slide: Slide,
    grid: PatchGrid,
    encoder: BlockEncoder,
    config: TileConfig,
    writer: PatchStoreWriter,
    threads: int,
) -> int:
    """Encode and write all patches; the number of unreadable ones."""
    num_read = unreadable = 0
    for chunks in encode_grid(grid, encoder, patch_px=config.patch_size, threads=threads):
        num_read += len(chunks)
        unreadable += chunks.count(None)
        if unreadable > config.max_unreadable * len(grid):
            raise SlideError(
                f"{slide.path}: {unreadable} of the first {num_read} patches (of {len(grid)}) "
                f"cannot be read, more than max_unreadable = {config.max_unreadable:g} allows; the "
                "file is damaged, copy it again from its source or raise tile.max_unreadable"
            )
        writer.write(chunks)
        report_progress(num_read, len(grid))
    if unreadable:
        logger.warning("%s: %d of %d patches unreadable", slide.path, unreadable, len(grid))
    return unreadable


def _thumbnail(slide: Slide, overview: Overview) -> UInt8Array:
    """The slide's thumbnail; where damage prevents it, the overview with its damage left white."""
    try:
        return slide.thumbnail(THUMBNAIL_PX)
    except SlideError as cause:
        logger.warning("%s: thumbnail from the tissue overview (%s)", slide.path, cause)
        picture = Image.fromarray(overview.rgb)
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
        return np.asarray(picture)


def _why_empty(
    slide: Slide, plan: ReadPlan, grid: PatchGrid, mask: TissueMask, config: TileConfig
) -> str:
    """Why a slide has no patch, one clause."""
    if 0 in grid.shape:
        need = (math.ceil(plan.patch_px0.x - 1e-6), math.ceil(plan.patch_px0.y - 1e-6))
        return (
            f"smaller than one patch ({slide.bounds.w} x {slide.bounds.h} px at level 0, a patch "
            f"needs {need[0]} x {need[1]})"
        )
    if not mask.mask.any():
        return "no tissue found"
    return (
        f"no patch has {100 * config.min_tissue:g} % tissue (tissue covers "
        f"{100 * mask.mask.mean():.2g} % of the slide)"
    )
