"""A slide at low power, in bounded memory, with what could not be read marked as such."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from wsi_hr.errors import SlideError
from wsi_hr.geometry import BoolArray, Bounds, Mpp, Pair, Point, Size, UInt8Array
from wsi_hr.slides.self_check import checked_tiles
from wsi_hr.slides.slide import Slide

logger = logging.getLogger(__name__)

OVERVIEW_UM = 16.0
"""um per overview px aimed at: a 128 um patch is then 8 x 8 px, a 100k x 80k slide 2 MB."""

_COARSEST_UM = 24.0  # a level this coarse still serves; the next finer one costs 4 to 16 x the time
_TOLERATED = 0.01  # a level this damaged is good enough not to read a finer one through
_HOPELESS = 0.5
_BLOCK_PX = 2048  # edge of one read, px of the level: at most 16 MB, whatever the slide
_SMALLEST_BLOCK_PX = 512  # a block that fails is quartered down to this


@dataclass(frozen=True)
class Overview:
    """The whole level-0 frame at about 16 um/px.

    Attributes:
        rgb: u8[H, W, 3], white where the scan has nothing.
        valid: bool[H, W], False where the scan has nothing or could not be read.
        unreadable: bool[H, W], True where reading failed: nobody knows what is there.
        downsample: level-0 px per overview px, per axis.
        um: um per overview px, per axis.
    """

    rgb: UInt8Array
    valid: BoolArray
    unreadable: BoolArray
    downsample: Pair
    um: Pair


def read_overview(slide: Slide) -> Overview:
    """Read the coarsest level that is fine enough, block by block, averaging areas.

    Where a part of that level is damaged, the finer ones are tried, and the best one is taken.

    Raises:
        SlideError: the slide's mpp is unknown, or more than half of it cannot be read.
    """
    if slide.mpp is None:
        reason = slide.mpp_problem or "no mpp in its metadata; pass --mpp-override"
        raise SlideError(f"{slide.path}: {reason}")
    best = None
    for level in _levels(slide, slide.mpp):
        overview = _read_level(slide, slide.mpp, level)
        if best is None or overview.unreadable.mean() < best.unreadable.mean():
            best = overview
        if best.unreadable.mean() <= _TOLERATED:
            break
    assert best is not None, "there is a level 0"
    if best.unreadable.mean() > _HOPELESS:
        raise SlideError(
            f"{slide.path}: most of the slide cannot be read; the file is damaged, copy it "
            "again from its source"
        )
    if best.unreadable.any():
        logger.warning(
            "%s: %.1f %% of the slide could not be read at low power",
            slide.path,
            100 * best.unreadable.mean(),
        )
    return best


def _levels(slide: Slide, mpp: Mpp) -> list[int]:
    """Levels that are fine enough, the coarsest first; level 0 is always among them."""
    enough = [
        level
        for level, downsample in enumerate(slide.level_downsamples)
        if level == 0 or mpp.mean * max(downsample) <= _COARSEST_UM
    ]
    return sorted(enough, key=lambda level: max(slide.level_downsamples[level]), reverse=True)


def _read_level(slide: Slide, mpp: Mpp, level: int) -> Overview:
    """The overview as one level gives it; given up as soon as it is hopeless."""
    downsample = slide.level_downsamples[level]
    level_um = Pair(mpp.x * downsample.x, mpp.y * downsample.y)
    factor = Size(max(1, round(OVERVIEW_UM / level_um.x)), max(1, round(OVERVIEW_UM / level_um.y)))
    level_size = slide.level_dimensions[level]
    shape = (-(-level_size.h // factor.h), -(-level_size.w // factor.w))
    overview = Overview(
        rgb=np.full((*shape, 3), 255, np.uint8),
        valid=np.zeros(shape, np.bool_),
        unreadable=np.zeros(shape, np.bool_),
        downsample=Pair(downsample.x * factor.w, downsample.y * factor.h),
        um=Pair(level_um.x * factor.w, level_um.y * factor.h),
    )
    for block in _blocks(level_size, factor):
        _fill(slide, level, block, factor, overview)
        if overview.unreadable.mean() > _HOPELESS:
            break
    return overview


def _blocks(level_size: Size, factor: Size) -> Iterator[Bounds]:
    """Rectangles of the level, px, that cover it; edges fall on edges of overview px."""
    step_w = max(1, _BLOCK_PX // factor.w) * factor.w
    step_h = max(1, _BLOCK_PX // factor.h) * factor.h
    for y in range(0, level_size.h, step_h):
        for x in range(0, level_size.w, step_w):
            yield Bounds(x, y, min(step_w, level_size.w - x), min(step_h, level_size.h - y))


def _fill(slide: Slide, level: int, block: Bounds, factor: Size, overview: Overview) -> None:
    """Read one block into its place; where it fails, its quarters, so that damage stays small."""
    top, left = block.y // factor.h, block.x // factor.w
    bottom = top - (-block.h // factor.h)
    right = left - (-block.w // factor.w)
    try:
        rgb, valid = _read(slide, level, block, factor)
    except SlideError as cause:
        logger.debug("%s: %s", slide.path, cause)
        quarters = _quarters(block, factor)
        if len(quarters) == 1:
            overview.unreadable[top:bottom, left:right] = True
            return
        for quarter in quarters:
            _fill(slide, level, quarter, factor, overview)
        return
    overview.rgb[top:bottom, left:right] = rgb
    overview.valid[top:bottom, left:right] = valid


def _read(slide: Slide, level: int, block: Bounds, factor: Size) -> tuple[UInt8Array, BoolArray]:
    """A block reduced by ``factor``: u8[h, w, 3], and where at least half of it is valid.

    Raises:
        SlideError: a part of it cannot be read.
    """
    tiles = checked_tiles(slide, level)
    if tiles is not None:
        scale = max(k for k in (1, 2, 4, 8) if factor.w % k == factor.h % k == 0)
        try:
            decoded = Image.fromarray(tiles.read(block, scale))
        except SlideError as cause:
            logger.debug("%s: %s; asking %s", slide.path, cause, slide.reader)
        else:
            rgb = np.asarray(decoded.reduce((factor.w // scale, factor.h // scale)))
            return rgb, np.ones(rgb.shape[:2], np.bool_)
    downsample = slide.level_downsamples[level]
    xy0 = Point(round(block.x * downsample.x), round(block.y * downsample.y))
    rgb, valid = slide.read_region(xy0, level, Size(block.w, block.h))
    reduced = np.asarray(Image.fromarray(rgb).reduce((factor.w, factor.h)))
    coverage = Image.fromarray(valid.astype(np.uint8) * np.uint8(255))
    return reduced, np.asarray(coverage.reduce((factor.w, factor.h))) >= 128


def _quarters(block: Bounds, factor: Size) -> list[Bounds]:
    """The block cut at its middle along each axis that is still long enough."""
    xs = _halves(block.x, block.w, factor.w)
    ys = _halves(block.y, block.h, factor.h)
    return [Bounds(x, y, w, h) for y, h in ys for x, w in xs]


def _halves(start: int, length: int, factor: int) -> list[tuple[int, int]]:
    """One axis of a block as one or two (start, length), px of the level."""
    half = -(-length // (2 * factor)) * factor
    if length <= max(_SMALLEST_BLOCK_PX, factor) or half >= length:
        return [(start, length)]
    return [(start, half), (start + half, length - half)]
