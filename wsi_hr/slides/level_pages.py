"""Levels of a plain pyramid by their TIFF pages, where OpenSlide shows what lies between their px.

OpenSlide is asked for a corner in level-0 px and divides it by a downsample of its own, the mean of
both axes' size ratios. Where that is no whole number (16399 / 4099 px) the corner falls between two
px, and it blends their neighbours: by up to 38 grey levels on real tissue, and differently from
place to place. Its picture is still the second opinion on the page: blended likewise, the page's px
must be what it shows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from wsi_hr.errors import SlideError
from wsi_hr.geometry import BoolArray, Bounds, Pair, Size, UInt8Array
from wsi_hr.slides.levels import richest_tiles
from wsi_hr.slides.tiff_page import SegmentCache, TiffPageReader, why_refused, why_too_large
from wsi_hr.slides.tiff_pages import damage_told, facts_of, opened_tiff, walk

logger = logging.getLogger(__name__)

_WINDOW_PX = 48
_MARGIN_PX = 4  # of a tile, where OpenSlide blends with the next one
_TOLERANCE = 3.0  # grey levels, mean of a window: two decoders round, and blends are in 1/128


class Shown(NamedTuple):
    """What OpenSlide shows of a level.

    Attributes:
        rgb: u8[h, w, 3].
        valid: bool[h, w], where the scan has data.
        corner: of its first px, px of the level; not whole where it interpolates.
    """

    rgb: UInt8Array
    valid: BoolArray
    corner: Pair


class LevelPages:
    """The pages of a plain pyramid that are levels of OpenSlide's, opened when first asked for."""

    def __init__(self, path: Path) -> None:
        """Of the file at ``path``."""
        self._path = path
        self._lock = threading.Lock()
        self._file: tifffile.TiffFile | None = None
        self._cache = SegmentCache()
        self._found: dict[int, TiffPageReader | None] = {}
        self._closed = False

    def reader(
        self, level: int, size: Size, tile_size: Size | None, show: Callable[[Bounds], Shown]
    ) -> TiffPageReader | None:
        """What reads a level's page; None where none of the file's can be proven to be it.

        Args:
            level: its number.
            size: px of it.
            tile_size: px of its tiles.
            show: what OpenSlide shows of a rectangle, px of the level.

        Raises:
            ValueError: the slide was closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError(f"{self._path}: the slide was closed")
            if level not in self._found:
                self._found[level] = self._look_for(level, size, tile_size, show)
            return self._found[level]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()

    def _look_for(
        self, level: int, size: Size, tile_size: Size | None, show: Callable[[Bounds], Shown]
    ) -> TiffPageReader | None:
        try:
            if self._file is None:
                self._file = opened_tiff(self._path)
            with damage_told(self._path):
                reader = self._first_of(self._file, size, tile_size)
                if reader is None or _shows_the_same(reader, show):
                    return reader
        except SlideError as cause:
            logger.debug("%s: level %d stays with OpenSlide (%s)", self._path, level, cause)
            return None
        logger.warning(
            "%s: level %d is another picture to tifffile than to OpenSlide, which reads it then, "
            "and interpolates between its px",
            *(self._path, level),
        )
        return None

    def _first_of(
        self, file: tifffile.TiffFile, size: Size, tile_size: Size | None
    ) -> TiffPageReader | None:
        """The first page of that size, if it can be read."""
        for page in walk(file.pages):
            facts = facts_of(page)
            if tile_size is None or facts.beside is not None:
                continue
            if (facts.size, facts.tile_size) == (size, tile_size):
                reason = why_refused(page) or why_too_large(tile_size, page.samplesperpixel)
                return None if reason else TiffPageReader(file, page, self._cache)
        return None


def _shows_the_same(reader: TiffPageReader, show: Callable[[Bounds], Shown]) -> bool:
    """Whether OpenSlide shows the page's px, wherever both can be read; False where neither can."""
    num_alike = 0
    for window in _windows(reader):
        try:
            ours, valid = reader.read(
                Bounds(window.x - 1, window.y - 1, window.w + 2, window.h + 2)
            )
            theirs = show(window)
        except SlideError:
            continue
        if not theirs.valid.all() or not valid.all():
            continue
        down = _between(ours, theirs.corner.y - window.y + 1)
        expected = _between(down.swapaxes(0, 1), theirs.corner.x - window.x + 1).swapaxes(0, 1)
        difference = np.abs(expected[: window.h, : window.w] - theirs.rgb).mean()
        if difference > _TOLERANCE:
            return False
        num_alike += 1
    return num_alike > 0


def _between(pixels: np.ndarray, start: float) -> np.ndarray:
    """Rows of ``pixels`` [h, ...] from ``start`` on, mixed linearly where that is no whole row."""
    whole = int(np.floor(start))
    part = start - whole
    if part == 0:
        return pixels[whole:].astype(np.float64)
    rows = pixels[whole:].astype(np.float64)
    return rows[:-1] * (1 - part) + rows[1:] * part


def _windows(reader: TiffPageReader) -> Iterator[Bounds]:
    """Windows inside the tile of the most bytes in each quarter of the level, px of it."""
    tile, size = reader.tile_size, reader.size
    across, down = -(-size.w // tile.w), -(-size.h // tile.h)
    counts = np.array(reader.page.databytecounts[: across * down], np.int64).reshape(down, across)
    for col, row in richest_tiles(counts):
        left, top = col * tile.w, row * tile.h
        right, bottom = min(left + tile.w, size.w), min(top + tile.h, size.h)
        w = min(_WINDOW_PX, right - left - 2 * _MARGIN_PX)
        h = min(_WINDOW_PX, bottom - top - 2 * _MARGIN_PX)
        if min(w, h) > 0:
            yield Bounds((left + right - w) // 2, (top + bottom - h) // 2, w, h)
