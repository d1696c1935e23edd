"""Slides read by OpenSlide."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import openslide
from openslide import lowlevel

from wsi_hr.errors import SlideError
from wsi_hr.geometry import BoolArray, Bounds, Pair, Point, Size, UInt8Array
from wsi_hr.slides.compositing import on_white
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.slides.level_check import levels_alike
from wsi_hr.slides.level_pages import LevelPages, Shown
from wsi_hr.slides.levels import downsamples_of, nearest, read_clipped, to_level
from wsi_hr.slides.mpp import MppClaim, judge_mpp, parse_number, resolution, stated
from wsi_hr.slides.slide import Slide, profile_of_tiles
from wsi_hr.slides.thumbnail import draw_thumbnail
from wsi_hr.slides.tiff import ShownLevels, TiffReader, jpeg_tiles_of_sizes, levels_shown
from wsi_hr.slides.tiff_page import TiffPageReader, why_too_large, why_too_long
from wsi_hr.slides.vendors import GENERIC_TIFF, PLAIN_PYRAMIDS

_CACHE_BYTES = 64 << 20  # for all slides of a process: 60 handles with their own took 982 MB
_CHANNELS = 4

_VENDOR_MPP_KEYS = ("aperio.MPP", "ventana.ScanRes")
# The only properties that are ever looked at. Others hold names, dates and barcodes.
_PROPERTIES = frozenset(
    {
        *("openslide.mpp-x", "openslide.mpp-y", "openslide.objective-power"),
        *("openslide.bounds-x", "openslide.bounds-y"),
        *("openslide.bounds-width", "openslide.bounds-height"),
        *("tiff.XResolution", "tiff.YResolution", "tiff.ResolutionUnit"),
        *_VENDOR_MPP_KEYS,
        "aperio.AppMag",
    }
)

_cache_lock = threading.Lock()
_cache_of: dict[int, openslide.OpenSlideCache] = {}


class OpenSlideReader(Slide):
    """A slide read by OpenSlide.

    After its first error an OpenSlide handle fails for good regions too, so it is dropped and the
    next read opens another. Levels between whose px it interpolates are read from their TIFF pages
    where that can be (:mod:`wsi_hr.slides.level_pages`).
    """

    reader = "OpenSlide"

    def __init__(self, path: Path, *, slide_id: str):
        """Open a slide.

        Raises:
            openslide.OpenSlideError: OpenSlide does not know the format, or finds it damaged.
            SlideError: it holds only pictures beside a slide, or one of its tiles would fill the
                memory.
        """
        self.path = path
        self.slide_id = slide_id
        self._lock = threading.Lock()
        self._closed = False
        self._jpeg_tiles: list[JpegTiles | None] | None = None  # per level, once asked for
        self._level_pages: LevelPages | None = None  # likewise
        handle = _open_handle(path)
        self._handle: openslide.OpenSlide | None = handle
        known = handle.properties
        properties = {key: known[key] for key in _PROPERTIES if key in known}
        self.vendor = known.get("openslide.vendor", "unknown")
        sizes = [Size(*size) for size in handle.level_dimensions]
        tile_sizes = [_tile_size(known, level) for level in range(len(sizes))]
        shown = _shown(path, self.vendor, sizes, tile_sizes)
        self.associated_images = tuple(sorted({*handle.associated_images, *shown.beside}))
        self._own_downsamples = handle.level_downsamples
        self._sizes = list(zip(sizes, tile_sizes, strict=True))
        self._take_levels(shown.levels)
        self._icc_profile = _icc_profile(handle)
        self.bounds = _bounds(properties, self.level_dimensions[0])
        self.objective_power = _objective_power(properties)
        claims = _claims(properties, self.vendor)
        self.mpp, self.mpp_problem = judge_mpp(claims, self.objective_power)
        reasons = [why_too_long(self.level_dimensions[0])]
        reasons += [
            tile_size and why_too_large(tile_size, _CHANNELS) for tile_size in self.level_tile_sizes
        ]
        for reason in filter(None, reasons):
            raise SlideError(f"{path}: {reason}")
        doubtful = [k for k, level in enumerate(self._levels) if level in shown.doubtful]
        kept = [self._levels[k] for k in levels_alike(self, doubtful)]
        self._take_levels(kept)

    def _take_levels(self, levels: list[int]) -> None:
        """Be a slide of these of OpenSlide's levels."""
        self._levels = levels
        self.level_dimensions = tuple(self._sizes[level][0] for level in levels)
        self.level_downsamples = downsamples_of(self.level_dimensions)
        self.level_tile_sizes = tuple(self._sizes[level][1] for level in levels)

    def reader_of(self, level: int) -> str:
        """See :class:`Slide`."""
        return self.reader if self._page_of(level) is None else TiffReader.reader

    def interpolates(self, level: int) -> bool:
        """See :class:`Slide`."""
        return self._misses_px(level) and self._page_of(level) is None

    @property
    def icc_profile(self) -> bytes | None:
        """See :class:`Slide`."""
        return self._icc_profile or profile_of_tiles(self)

    def read_region(self, xy0: Point, level: int, size: Size) -> tuple[UInt8Array, BoolArray]:
        """See :class:`Slide`."""
        return read_clipped(
            lambda inner: self._read(level, inner),
            self.level_dimensions[level],
            to_level(xy0, self.level_downsamples[level]),
            size,
        )

    def thumbnail(self, max_px: int) -> UInt8Array:
        """See :class:`Slide`."""
        return draw_thumbnail(self, max_px)

    def jpeg_tiles(self, level: int) -> JpegTiles | None:
        """See :class:`Slide`."""
        if self.vendor not in PLAIN_PYRAMIDS:
            return None
        if self._jpeg_tiles is None:
            sizes = list(zip(self.level_dimensions, self.level_tile_sizes, strict=True))
            self._jpeg_tiles = jpeg_tiles_of_sizes(self.path, sizes)
        return self._jpeg_tiles[level]

    def close(self) -> None:
        """See :class:`Slide`."""
        with self._lock:
            self._closed = True
            self._handle = None
        if self._level_pages is not None:
            self._level_pages.close()
        for tiles in self._jpeg_tiles or ():
            if tiles is not None:
                tiles.close()

    def _misses_px(self, level: int) -> bool:
        """Whether OpenSlide cannot be sent to every px of a level.

        It divides a corner in level-0 px by a downsample of its own, in most formats the mean of
        both axes' size ratios.
        """
        return not float(self._own_downsamples[self._levels[level]]).is_integer()

    def _page_of(self, level: int) -> TiffPageReader | None:
        """What reads a level whose px OpenSlide misses; None: nothing has to, or nothing can."""
        if self.vendor not in PLAIN_PYRAMIDS or not self._misses_px(level):
            return None
        with self._lock:
            if self._level_pages is None:
                self._level_pages = LevelPages(self.path)
            pages = self._level_pages
        own = self._levels[level]
        return pages.reader(own, *self._sizes[own], partial(self._shown, own))

    def _read(self, level: int, inner: Bounds) -> tuple[UInt8Array, BoolArray]:
        page = self._page_of(level)
        try:
            if page is not None:
                return page.read(inner)
            return self._shown(self._levels[level], inner)[0:2]
        except SlideError as cause:
            raise SlideError(
                f"{self.path}: level {level} cannot be read at ({inner.x}, {inner.y}), {cause}; "
                "copy the file again from its source"
            ) from cause

    def _shown(self, own: int, inner: Bounds) -> Shown:
        """What OpenSlide shows of one of its levels, and from where, px of the level."""
        downsample = self._own_downsamples[own]
        corner0 = Point(nearest(inner.x * downsample), nearest(inner.y * downsample))
        handle = self._opened()
        try:
            image = handle.read_region(corner0, own, (inner.w, inner.h))
        except openslide.OpenSlideError as cause:
            self._forget(handle)
            raise SlideError(str(cause)) from cause
        return Shown(
            *on_white(np.asarray(image)), Pair(corner0.x / downsample, corner0.y / downsample)
        )

    def _opened(self) -> openslide.OpenSlide:
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.path}: the slide was closed")
            if self._handle is None:
                try:
                    self._handle = _open_handle(self.path)
                except (openslide.OpenSlideError, OSError) as cause:
                    raise SlideError(
                        f"{self.path}: cannot be opened any more ({cause}); was it moved?"
                    ) from cause
            return self._handle

    def _forget(self, handle: openslide.OpenSlide) -> None:
        """Drop a handle that failed. Not closed: another thread may be reading from it."""
        with self._lock:
            if self._handle is handle:
                self._handle = None


def _open_handle(path: Path) -> openslide.OpenSlide:
    handle = openslide.OpenSlide(path)
    with _cache_lock:
        cache = _cache_of.get(os.getpid())
        if cache is None:
            cache = _cache_of[os.getpid()] = openslide.OpenSlideCache(_CACHE_BYTES)
    handle.set_cache(cache)
    return handle


def _tile_size(known: Mapping[str, str], level: int) -> Size | None:
    keys = [f"openslide.level[{level}].tile-{edge}" for edge in ("width", "height")]
    if not all(key in known for key in keys):
        return None
    return Size(*(int(known[key]) for key in keys))


def _shown(
    path: Path, vendor: str, sizes: list[Size], tile_sizes: list[Size | None]
) -> ShownLevels:
    """Which of OpenSlide's levels show the slide.

    Raises:
        openslide.OpenSlideError: what it takes for the slide is none.
        SlideError: there is no slide in the file.
    """
    if vendor not in PLAIN_PYRAMIDS:
        return ShownLevels(list(range(len(sizes))), [], [])
    shown = levels_shown(path, list(zip(sizes, tile_sizes, strict=True)))
    if 0 not in shown.levels:
        raise openslide.OpenSlideError("what it takes for the slide is another image")
    return shown


def _icc_profile(handle: openslide.OpenSlide) -> bytes | None:
    """The profile's own bytes, which the library otherwise only gives with a region's pixels."""
    try:
        return lowlevel.read_icc_profile(handle._osr)
    except openslide.OpenSlideError:  # pixels may be whole all the same
        return None


def _bounds(properties: dict[str, str], whole: Size) -> Bounds:
    """The scanned rectangle, clipped to the slide; the whole slide where it makes no sense."""
    numbers = [
        parse_number(properties.get(f"openslide.bounds-{name}"))
        for name in ("x", "y", "width", "height")
    ]
    if any(map(math.isnan, numbers)):
        return Bounds(0, 0, *whole)
    x, y, w, h = (nearest(number) for number in numbers)
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + w, whole.w), min(y + h, whole.h)
    if left >= right or top >= bottom:
        return Bounds(0, 0, *whole)
    return Bounds(left, top, right - left, bottom - top)


def _objective_power(properties: dict[str, str]) -> float | None:
    for key in ("openslide.objective-power", "aperio.AppMag"):
        power = parse_number(properties.get(key))
        if power > 0:
            return power
    return None


def _claims(properties: dict[str, str], vendor: str) -> list[MppClaim]:
    """Who says what about the mpp, in order of authority."""
    claims = []
    if vendor != GENERIC_TIFF:
        if "openslide.mpp-x" in properties:
            claims.append(
                stated(
                    "openslide.mpp-x",
                    properties["openslide.mpp-x"],
                    properties.get("openslide.mpp-y"),
                )
            )
        claims += [stated(key, properties[key]) for key in _VENDOR_MPP_KEYS if key in properties]
    tagged = resolution(
        parse_number(properties.get("tiff.XResolution")),
        parse_number(properties.get("tiff.YResolution")),
        properties.get("tiff.ResolutionUnit"),
    )
    return claims if tagged is None else [*claims, tagged]
