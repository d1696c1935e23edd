"""A slide in memory, of any geometry, that can be damaged in chosen places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from wsi_hr.errors import SlideError
from wsi_hr.geometry import BoolArray, Bounds, Mpp, Pair, Point, Size, UInt8Array


class ArraySlide:
    """A :class:`Slide` over arrays.

    Args:
        levels: u8[h, w, 3] each, level 0 first; or only sizes, where no pixel is read.
        mpp: um per level-0 px (x, y); None: unknown.
        bounds: scanned rectangle; None: all.
        damaged: rectangles of level-0 px; a read that touches one fails.
        empty: rectangles of level-0 px where the scan has nothing.
        icc_profile: what its colours mean.
        interpolated: levels of which it shows what lies between their px.
    """

    def __init__(
        self,
        levels: Sequence[UInt8Array] = (),
        *,
        sizes: Sequence[tuple[int, int]] = (),
        mpp: tuple[float, float] | None = (0.5, 0.5),
        bounds: Bounds | None = None,
        damaged: Sequence[Bounds] = (),
        empty: Sequence[Bounds] = (),
        icc_profile: bytes | None = None,
        interpolated: Sequence[int] = (),
    ) -> None:
        self.reader = "array"
        self.path = Path("array.tif")
        self.slide_id = "array"
        self.vendor = "array"
        self.icc_profile = icc_profile
        self.mpp = None if mpp is None else Mpp(*mpp, "test")
        self.mpp_problem = "no mpp in its metadata; pass --mpp-override" if mpp is None else None
        self.levels = levels
        self.level_dimensions = tuple(
            Size(*size) for size in (sizes or [level.shape[1::-1] for level in levels])
        )
        whole = self.level_dimensions[0]
        self.level_downsamples = tuple(
            Pair(whole.w / size.w, whole.h / size.h) for size in self.level_dimensions
        )
        self.bounds = bounds or Bounds(0, 0, *whole)
        self.damaged = damaged
        self.empty = empty
        self.interpolated = interpolated
        self.num_read_px = 0
        self.largest_read_px = 0

    def read_region(self, xy0: Point, level: int, size: Size) -> tuple[UInt8Array, BoolArray]:
        downsample = self.level_downsamples[level]
        x, y = round(xy0.x / downsample.x), round(xy0.y / downsample.y)
        for area in self.damaged:
            left, right = area.x / downsample.x, (area.x + area.w) / downsample.x
            top, bottom = area.y / downsample.y, (area.y + area.h) / downsample.y
            if x < right and x + size.w > left and y < bottom and y + size.h > top:
                raise SlideError(f"{self.path}: damaged tile")
        self.num_read_px += size.w * size.h
        self.largest_read_px = max(self.largest_read_px, size.w * size.h)
        rgb = np.full((size.h, size.w, 3), 255, np.uint8)
        valid = np.zeros((size.h, size.w), np.bool_)
        source = self.levels[level][y : y + size.h, x : x + size.w]
        rgb[: source.shape[0], : source.shape[1]] = source
        valid[: source.shape[0], : source.shape[1]] = True
        for area in self.empty:
            rows = slice(
                max(0, round(area.y / downsample.y) - y),
                max(0, round((area.y + area.h) / downsample.y) - y),
            )
            cols = slice(
                max(0, round(area.x / downsample.x) - x),
                max(0, round((area.x + area.w) / downsample.x) - x),
            )
            rgb[rows, cols] = 255
            valid[rows, cols] = False
        return rgb, valid

    def reader_of(self, level: int) -> str:
        return self.reader

    def interpolates(self, level: int) -> bool:
        return level in self.interpolated

    def thumbnail(self, max_px: int) -> UInt8Array:
        if self.damaged:
            raise SlideError(f"{self.path}: damaged tile")
        picture = Image.fromarray(self.levels[-1])
        picture.thumbnail((max_px, max_px))
        return np.asarray(picture)

    def jpeg_tiles(self, level: int) -> None:
        return None

    def close(self) -> None:
        pass

    def __enter__(self) -> ArraySlide:
        return self

    def __exit__(self, *exc: object) -> None:
        pass
