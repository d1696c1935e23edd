"""A picture of the whole slide, in bounded memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Bounds, Point, Size, UInt8Array
from wsi_hr.slides.levels import nearest
from wsi_hr.slides.self_check import checked_tiles
from wsi_hr.slides.slide import Slide

logger = logging.getLogger(__name__)

_BLOCK_PX = 2048  # edge of one read, px of the level: 16 MB
_DECODE_SCALES = (2, 4, 8)


def draw_thumbnail(slide: Slide, max_px: int) -> UInt8Array:
    """The whole level-0 frame u8[h, w, 3], its longest edge at most ``max_px``.

    A level whose longest edge is between half of ``max_px`` and ``max_px`` is taken as it is: what
    lies above it may be sixteen times as much to read. So is one that comes there if the decoder of
    its JPEG tiles reduces it. Otherwise areas are averaged from the coarsest level that is large
    enough, block by block. A slide that is smaller than ``max_px`` comes out at its own size.

    Raises:
        SlideError: a part of the slide cannot be read.
        ValueError: ``max_px`` is not positive.
    """
    if max_px < 1:
        raise ValueError(f"max_px {max_px}: at least 1")
    whole = slide.level_dimensions[0]
    scale = min(1.0, max_px / max(whole))
    size = Size(max(1, nearest(whole.w * scale)), max(1, nearest(whole.h * scale)))
    fitting = [own for own in slide.level_dimensions if max_px / 2 <= max(own) <= max_px]
    if fitting:
        size = max(fitting)
    level = max(
        (
            k
            for k, level_size in enumerate(slide.level_dimensions)
            if level_size.w >= size.w and level_size.h >= size.h
        ),
        key=lambda k: max(slide.level_downsamples[k]),
    )
    level_size = slide.level_dimensions[level]
    if not fitting and max(level_size) > max_px:
        decoded = _decoded(slide, level, max_px)
        if decoded is not None:
            return decoded
    ratio_x, ratio_y = level_size.w / size.w, level_size.h / size.h
    picture = np.empty((size.h, size.w, 3), np.uint8)
    for block in _blocks(size, max(1, int(_BLOCK_PX / max(ratio_x, ratio_y)))):
        left, top = block.x * ratio_x, block.y * ratio_y
        right = min((block.x + block.w) * ratio_x, level_size.w)
        bottom = min((block.y + block.h) * ratio_y, level_size.h)
        first = Point(math.floor(left), math.floor(top))
        region = Bounds(*first, math.ceil(right) - first.x, math.ceil(bottom) - first.y)
        rgb = _read(slide, level, region)
        reduced = Image.fromarray(rgb).resize(
            (block.w, block.h),
            Image.Resampling.BOX,
            box=(left - first.x, top - first.y, right - first.x, bottom - first.y),
        )
        picture[block.y : block.y + block.h, block.x : block.x + block.w] = np.asarray(reduced)
    return picture


def _decoded(slide: Slide, level: int, max_px: int) -> UInt8Array | None:
    """A level of JPEG tiles as their decoder reduces it; None where that does not fit or fails."""
    whole = slide.level_dimensions[level]
    tiles = checked_tiles(slide, level)
    for scale in _DECODE_SCALES:
        # a last px that lies on the level in part is left out
        size = Size(whole.w // scale, whole.h // scale)
        if tiles is not None and min(size) > 0 and max_px / 2 <= max(size) <= max_px:
            try:
                return tiles.read(Bounds(0, 0, size.w * scale, size.h * scale), scale)
            except SlideError as cause:
                logger.debug("%s: %s; averaging areas", slide.path, cause)
    return None


def _read(slide: Slide, level: int, region: Bounds) -> UInt8Array:
    """A rectangle of a level, px of it."""
    tiles = checked_tiles(slide, level)
    if tiles is not None:
        try:
            return tiles.read(region, 1)
        except SlideError as cause:
            logger.debug("%s: %s; asking %s", slide.path, cause, slide.reader)
    downsample = slide.level_downsamples[level]
    xy0 = Point(nearest(region.x * downsample.x), nearest(region.y * downsample.y))
    rgb, _ = slide.read_region(xy0, level, Size(region.w, region.h))
    return rgb


def _blocks(size: Size, step: int) -> Iterator[Bounds]:
    """Rectangles of ``step`` px that cover a picture of ``size``."""
    for y in range(0, size.h, step):
        for x in range(0, size.w, step):
            yield Bounds(x, y, min(step, size.w - x), min(step, size.h - y))
