"""Pixels of patches: each from its own corner, each reduced once, damage kept to itself.

A patch's rectangle in level px follows from its own level-0 corner. Where nothing is resampled it
is whole and the pixels are copied; otherwise it is fractional and areas are averaged inside it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wsi_hr.errors import SlideError
from wsi_hr.geometry import BoolArray, Bounds, Pair, PatchGrid, Point, ReadPlan, Size, UInt8Array
from wsi_hr.slides.slide import Slide
from wsi_hr.tiling.area import average_areas

logger = logging.getLogger(__name__)

MAX_READ_PX = 8_000_000
"""Px of the level in one read: about 64 MB with its mask and copies, whatever the slide."""

_SLACK = 1e-6  # px of the level; absorbs float rounding at a rectangle's edge


@dataclass(frozen=True)
class _Box:
    """A rectangle in px of a level; whole numbers where nothing is resampled."""

    left: float
    top: float
    right: float
    bottom: float


def read_patches(
    slide: Slide, plan: ReadPlan, grid: PatchGrid, patch_px: int
) -> Iterator[tuple[int, UInt8Array, BoolArray]]:
    """Read the patches of a grid in store order, a run of neighbours at a time.

    Args:
        slide: open slide.
        plan: level and scale.
        grid: patches in store order.
        patch_px: edge of a patch, px at the asked mpp.

    Yields:
        Position of the first patch of the run, its patches u8[K, P, P, 3], and which of them are
        readable bool[K]. A patch that cannot be read, or where the scan has no data at all, is
        not; its pixels mean nothing.
    """
    boxes = [_box(Point(int(x), int(y)), plan, patch_px) for x, y in grid.coords]
    for run in _runs(grid, boxes):
        try:
            pixels, readable = _read(slide, plan, boxes[run.start : run.stop], patch_px)
        except SlideError as cause:
            logger.debug("%s: %s; reading patch by patch", slide.path, cause)
            pixels, readable = _read_singly(slide, plan, boxes[run.start : run.stop], patch_px)
        yield run.start, pixels, readable


def _read_singly(
    slide: Slide, plan: ReadPlan, boxes: Sequence[_Box], patch_px: int
) -> tuple[UInt8Array, BoolArray]:
    """Read patches one at a time, so that a damaged place costs only those that touch it."""
    pixels = np.full((len(boxes), patch_px, patch_px, 3), 255, np.uint8)
    readable = np.zeros(len(boxes), np.bool_)
    for k, box in enumerate(boxes):
        try:
            pixels[k : k + 1], readable[k : k + 1] = _read(slide, plan, [box], patch_px)
        except SlideError as cause:
            logger.debug("%s: patch at %s: %s", slide.path, box, cause)
    return pixels, readable


def _read(
    slide: Slide, plan: ReadPlan, boxes: Sequence[_Box], patch_px: int
) -> tuple[UInt8Array, BoolArray]:
    """Read neighbouring patches together; a patch too large for one read comes in bands of rows."""
    pixels = np.empty((len(boxes), patch_px, patch_px, 3), np.uint8)
    readable = np.zeros(len(boxes), np.bool_)
    width_px = max(box.right for box in boxes) - min(box.left for box in boxes)
    band = min(patch_px, max(1, int(MAX_READ_PX / (width_px * plan.scale.y))))
    for row in range(0, patch_px, band):
        end = min(row + band, patch_px)
        parts = [
            _Box(box.left, box.top + row * plan.scale.y, box.right, box.top + end * plan.scale.y)
            for box in boxes
        ]
        window = _window(parts)
        xy0 = Point(
            round(window.x * plan.level_downsample.x), round(window.y * plan.level_downsample.y)
        )
        rgb, valid = slide.read_region(xy0, plan.level, Size(window.w, window.h))
        for k, part in enumerate(parts):
            inner = _window([part])
            rows = slice(inner.y - window.y, inner.y - window.y + inner.h)
            cols = slice(inner.x - window.x, inner.x - window.x + inner.w)
            readable[k] |= bool(valid[rows, cols].any())
            pixels[k, row:end] = (
                average_areas(
                    rgb[rows, cols],
                    Pair(part.left - inner.x, part.top - inner.y),
                    plan.scale,
                    Size(patch_px, end - row),
                )
                if plan.resampled
                else rgb[rows, cols]
            )
    return pixels, readable


def _box(xy0: Point, plan: ReadPlan, patch_px: int) -> _Box:
    """The rectangle of the patch whose corner is the level-0 px ``xy0``."""
    left, right = _extent(xy0.x, plan.level_downsample.x, plan.scale.x, patch_px)
    top, bottom = _extent(xy0.y, plan.level_downsample.y, plan.scale.y, patch_px)
    return _Box(left, top, right, bottom)


def _extent(start_px0: int, downsample: float, scale: float, patch_px: int) -> tuple[float, float]:
    start = start_px0 / downsample
    if scale == 1.0:
        start = float(math.floor(start + 0.5))  # whole px: they are copied as they are
    return start, start + patch_px * scale


def _window(boxes: Sequence[_Box]) -> Bounds:
    """The whole px of the level that ``boxes`` touch."""
    left = math.floor(min(box.left for box in boxes) + _SLACK)
    top = math.floor(min(box.top for box in boxes) + _SLACK)
    right = math.ceil(max(box.right for box in boxes) - _SLACK)
    bottom = math.ceil(max(box.bottom for box in boxes) - _SLACK)
    return Bounds(left, top, right - left, bottom - top)


def _runs(grid: PatchGrid, boxes: Sequence[_Box]) -> Iterator[range]:
    """Consecutive patches that lie side by side in one row and fit one read."""
    start = 0
    for i in range(1, len(grid) + 1):
        if i < len(grid):
            neighbours = grid.cells[i, 0] == grid.cells[i - 1, 0] and (
                grid.cells[i, 1] == grid.cells[i - 1, 1] + 1
            )
            width = boxes[i].right - boxes[start].left
            if neighbours and width * (boxes[start].bottom - boxes[start].top) <= MAX_READ_PX:
                continue
        yield range(start, i)
        start = i
