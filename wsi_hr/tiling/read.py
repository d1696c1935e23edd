"""Pixels of patches as the slide's own reader gives them, damage kept to itself.

A patch begins on a whole px of the level, the one its own level-0 corner names. Where nothing is
resampled the pixels are copied; otherwise they are reduced patch by patch, so that nothing drifts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from wsi_hr.errors import SlideError
from wsi_hr.geometry import BoolArray, Bounds, PatchGrid, Point, ReadPlan, Size, UInt8Array
from wsi_hr.slides.slide import Slide
from wsi_hr.tiling.resample import covering, reduce_picture

logger = logging.getLogger(__name__)

MAX_READ_PX = 8_000_000
"""Px of the level in one read: OpenSlide's own picture of it takes 32 MB."""


class SlidePatches:
    """Patches read through ``slide.read_region``; one reads for several threads.

    Args:
        slide: open slide.
        plan: level and scale.
        patch_px: edge of a patch, px at the asked mpp.
        fast: see :func:`wsi_hr.tiling.resample.reduce_picture`.
    """

    def __init__(self, slide: Slide, plan: ReadPlan, patch_px: int, *, fast: bool) -> None:
        self._slide = slide
        self._plan = plan
        self._patch = Size(patch_px, patch_px)
        self._fast = fast
        self._window = covering(plan.scale, self._patch)

    def read(self, grid: PatchGrid) -> Iterator[UInt8Array | None]:
        """The patches of ``grid`` in its order, u8[P, P, 3] each.

        A patch that cannot be read, or where the scan has no data at all, is None. Neighbours in a
        row are read together; where that fails, one by one, so that damage costs only the patches
        it touches.
        """
        factor = self._plan.decode_scale
        decoded = self._plan.decoded_corners(grid.coords)
        corners = [Point(corner.x * factor, corner.y * factor) for corner in decoded]
        for run in self._runs(grid, corners):
            members = corners[run.start : run.stop]
            try:
                yield from self._read(members)
            except SlideError as cause:
                logger.debug("%s: %s; reading patch by patch", self._slide.path, cause)
                for corner in members:
                    yield self._read_single(corner)

    def _runs(self, grid: PatchGrid, corners: Sequence[Point]) -> Iterator[range]:
        """Consecutive patches that lie side by side in one row and fit one read."""
        widest = max(1, MAX_READ_PX // self._window.h)
        start = 0
        for i in range(1, len(grid) + 1):
            if i < len(grid):
                neighbours = grid.cells[i, 0] == grid.cells[i - 1, 0] and (
                    grid.cells[i, 1] == grid.cells[i - 1, 1] + 1
                )
                # given patches that lie in neighbouring cells need not lie side by side
                beside = corners[i].y == corners[start].y and corners[i].x > corners[i - 1].x
                if (
                    neighbours
                    and beside
                    and corners[i].x + self._window.w - corners[start].x <= widest
                ):
                    continue
            yield range(start, i)
            start = i

    def _read_single(self, corner: Point) -> UInt8Array | None:
        try:
            (pixels,) = self._read([corner])
        except SlideError as cause:
            logger.debug("%s: patch at %s: %s", self._slide.path, corner, cause)
            return None
        return pixels

    def _read(self, corners: Sequence[Point]) -> list[UInt8Array | None]:
        """Read patches that lie side by side."""
        first, last = corners[0], corners[-1]
        region = Bounds(first.x, first.y, last.x + self._window.w - first.x, self._window.h)
        rgb, valid = self._read_region(region)
        patches: list[UInt8Array | None] = []
        for corner in corners:
            rows = slice(corner.y - region.y, corner.y - region.y + self._window.h)
            cols = slice(corner.x - region.x, corner.x - region.x + self._window.w)
            if not valid[rows, cols].any():
                patches.append(None)
                continue
            patches.append(
                reduce_picture(rgb[rows, cols], self._plan.scale, self._patch, fast=self._fast)
            )
        return patches

    def _read_region(self, region: Bounds) -> tuple[UInt8Array, BoolArray]:
        """A rectangle of the level, px of it; a large one in bands of rows."""
        band = max(1, MAX_READ_PX // region.w)
        if region.h <= band:
            return self._read_band(region)
        rgb = np.empty((region.h, region.w, 3), np.uint8)
        valid = np.empty((region.h, region.w), np.bool_)
        for top in range(0, region.h, band):
            height = min(band, region.h - top)
            rgb[top : top + height], valid[top : top + height] = self._read_band(
                Bounds(region.x, region.y + top, region.w, height)
            )
        return rgb, valid

    def _read_band(self, region: Bounds) -> tuple[UInt8Array, BoolArray]:
        downsample = self._plan.level_downsample
        xy0 = Point(round(region.x * downsample.x), round(region.y * downsample.y))
        return self._slide.read_region(xy0, self._plan.level, Size(region.w, region.h))
