"""The levels of a pyramid: how much coarser each is, and which of its px a level-0 px is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from wsi_hr.geometry import BoolArray, Bounds, Int64Array, Pair, Point, Size, UInt8Array

_SHAPE_TOLERANCE = 0.01
_SAMPLES_PER_AXIS = 2


def downsamples_of(dimensions: Sequence[Size]) -> tuple[Pair, ...]:
    """Level-0 px per px of each level, per axis.

    4099 px reduced by 4 are 1024 px: the ratio 4.003 would put the last of them 3 px too far to
    the right. So a whole factor that explains both sizes, rounded either way, is believed, powers
    of two first; only where there is none the ratio of the sizes is all there is to know.
    """
    return tuple(_downsample(dimensions[0], size) for size in dimensions)


def nearest(value: float) -> int:
    """The nearest whole number, halves upwards: unlike ``round``, the same way everywhere."""
    return math.floor(value + 0.5)


def to_level(xy0: Point, downsample: Pair) -> Point:
    """The px of a level that is nearest to the level-0 px ``xy0``."""
    return Point(nearest(xy0.x / downsample.x), nearest(xy0.y / downsample.y))


def read_clipped(
    read: Callable[[Bounds], tuple[UInt8Array, BoolArray]],
    level_size: Size,
    corner: Point,
    size: Size,
) -> tuple[UInt8Array, BoolArray]:
    """Read what lies inside a level; the rest is white and not valid.

    Args:
        read: reads a rectangle that lies wholly inside, px of the level.
        level_size: px of the level.
        corner: top-left corner of what is asked, px of the level.
        size: what is asked, px of the level.

    Returns:
        Pixels u8[h, w, 3] and validity bool[h, w].

    Raises:
        ValueError: ``size`` is not positive.
    """
    if min(size) < 1:
        raise ValueError(f"size {tuple(size)}: at least one px is needed")
    left, top = max(corner.x, 0), max(corner.y, 0)
    right = min(corner.x + size.w, level_size.w)
    bottom = min(corner.y + size.h, level_size.h)
    inner = Bounds(left, top, right - left, bottom - top)
    if inner == (*corner, *size):
        return read(inner)
    rgb = np.full((size.h, size.w, 3), 255, np.uint8)
    valid = np.zeros((size.h, size.w), np.bool_)
    if inner.w > 0 and inner.h > 0:
        rows = slice(top - corner.y, bottom - corner.y)
        cols = slice(left - corner.x, right - corner.x)
        rgb[rows, cols], valid[rows, cols] = read(inner)
    return rgb, valid


def richest_tiles(counts: Int64Array) -> list[tuple[int, int]]:
    """Of each quarter of a level the tile (col, row) of the most bytes, so one with tissue.

    Args:
        counts: bytes i64[rows, cols] of its tiles.
    """
    quarters = [np.array_split(np.arange(num), min(num, _SAMPLES_PER_AXIS)) for num in counts.shape]
    chosen = []
    for rows in quarters[0]:
        for cols in quarters[1]:
            part = counts[np.ix_(rows, cols)]
            row, col = np.unravel_index(int(part.argmax()), part.shape)
            chosen.append((int(cols[col]), int(rows[row])))
    return chosen


def explains(whole: Size, factor: int, size: Size) -> bool:
    """Whether ``size`` is ``whole`` reduced by ``factor``, what is left over cut off or kept."""
    return all(
        large // factor <= small <= -(-large // factor)
        for large, small in zip(whole, size, strict=True)
    )


def proportional(whole: Size, size: Size) -> bool:
    """Whether ``size`` has the shape of ``whole``, to a px of either axis and a hundredth."""
    slack_w, slack_h = 1, 1 + _SHAPE_TOLERANCE * size.h
    least = max(whole.w / (size.w + slack_w), whole.h / (size.h + slack_h))
    return (
        least * (size.w - slack_w) <= whole.w  # some factor within both axes' slack
        and least * (size.h - slack_h) <= whole.h
    )


def _downsample(whole: Size, size: Size) -> Pair:
    ratio = Pair(whole.w / size.w, whole.h / size.h)
    mean = math.sqrt(ratio.x * ratio.y)
    for factor in (1 << max(0, nearest(math.log2(mean))), max(1, nearest(mean))):
        if explains(whole, factor, size):
            return Pair(float(factor), float(factor))
    return ratio
