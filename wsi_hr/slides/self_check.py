"""Whether a slide's tiles, read past its reader, show what the reader shows."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

import numpy as np

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Point, Size, UInt8Array
from wsi_hr.pixel_memory import empty_pixels
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.slides.levels import nearest, richest_tiles
from wsi_hr.slides.slide import Slide

logger = logging.getLogger(__name__)

_found: WeakKeyDictionary[Slide, dict[int, JpegTiles | None]] = WeakKeyDictionary()

_TOLERANCE = 2  # grey levels: builds of libjpeg-turbo may round differently, nothing else may


def checked_tiles(slide: Slide, level: int) -> JpegTiles | None:
    """The JPEG tiles of a level, if they are proven to show what ``slide.read_region`` shows.

    The level is cut into quarters, and of each the tile with the most bytes, so one with tissue, is
    decoded both ways, as is the last tile of the level, which its border cuts. A tile that is
    damaged proves nothing; where all are, or one differs, there is nothing to rely on.

    Returns:
        The tiles, or None: the slide is to be read by its own reader. A difference is logged. What
        was found is remembered as long as the slide is.
    """
    found = _found.setdefault(slide, {})
    if level not in found:
        found[level] = _check(slide, level)
    return found[level]


def _check(slide: Slide, level: int) -> JpegTiles | None:
    tiles = slide.jpeg_tiles(level)
    if tiles is None:
        return None
    num_equal = 0
    last = tiles.grid_size.w - 1, tiles.grid_size.h - 1
    for col, row in sorted({*richest_tiles(tiles.byte_counts), last}):
        try:
            ours, theirs = _decode(tiles, col, row), _read(slide, level, tiles, col, row)
        except SlideError as cause:
            logger.debug("%s: not compared: %s", slide.path, cause)
            continue
        difference = int(np.abs(ours.astype(np.int16) - theirs).max())
        if difference > _TOLERANCE:
            logger.warning(
                "%s: tile (%d, %d) of level %d differs from what %s shows by %d grey levels; the "
                "slide is read by %s, more slowly",
                *(slide.path, col, row, level, slide.reader, difference, slide.reader),
            )
            return None
        num_equal += 1
    return tiles if num_equal else None


def _decode(tiles: JpegTiles, col: int, row: int) -> UInt8Array:
    pixels = empty_pixels(tiles.tile_size.h, tiles.tile_size.w, 3)
    tiles.decode_into(tiles.stream(col, row), pixels, 1)
    box = tiles.box(col, row)
    return pixels[: box.h, : box.w]


def _read(slide: Slide, level: int, tiles: JpegTiles, col: int, row: int) -> UInt8Array:
    box, downsample = tiles.box(col, row), slide.level_downsamples[level]
    xy0 = Point(nearest(box.x * downsample.x), nearest(box.y * downsample.y))
    pixels, valid = slide.read_region(xy0, level, Size(box.w, box.h))
    if not valid.all():
        raise SlideError(f"the scan has nothing at tile ({col}, {row})")
    return pixels
