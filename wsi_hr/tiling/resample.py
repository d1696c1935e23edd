"""From level px to patch px: areas averaged with fractional edges, or interpolated where asked.

OpenCV's area filter counts a px that a footprint covers in part for that part: 60 to 62 dB against
the integral over every footprint, which is the limit of rounding. Pillow's box filter asks of every
px only whether its centre is inside (28 to 35 dB between whole factors).
"""

from __future__ import annotations

import math
from typing import cast

import cv2
import numpy as np

from wsi_hr.geometry import Pair, Size, UInt8Array

cv2.setNumThreads(1)  # the parallel work is one block of patches per thread, not one picture

_COPIED_BELOW = 1 + 1e-4  # a patch of 256 px ends 1/40 px off
_SLACK = 1e-6  # px; absorbs float rounding where a footprint ends on a px edge
_LINEAR_BELOW = 1.5  # further apart, interpolation passes over too much of what lies between


def reduce_picture(rgb: UInt8Array, scale: Pair, size: Size, *, fast: bool) -> UInt8Array:
    """Reduce a picture, its top-left corner staying where it is.

    Args:
        rgb: u8[h, w, 3].
        scale: px of the picture per px of the result, per axis, at least 1.
        size: px of the result; ``size * scale`` must lie inside the picture.
        fast: interpolate linearly below a factor of 1.5, which is within 52 dB of the area averages
            on real tissue, at five times the speed.

    Returns:
        u8[size.h, size.w, 3], contiguous.
    """
    if is_copied(scale):
        return np.ascontiguousarray(rgb[: size.h, : size.w])
    need = covering(scale, size)
    assert need.w <= rgb.shape[1], "the footprint lies inside the picture"
    assert need.h <= rgb.shape[0], "the footprint lies inside the picture"
    source = rgb[: need.h, : need.w]
    if _rounded(need, scale) == need:
        source = _widened(source, scale)
    linear = fast and max(scale) < _LINEAR_BELOW
    # The factors, not the sizes, are given: derived from sizes they would be off by up to a px.
    reduced = cv2.resize(
        source,
        None,
        fx=1 / scale.x,
        fy=1 / scale.y,
        interpolation=cv2.INTER_LINEAR if linear else cv2.INTER_AREA,
    )
    # what is left of a px after the last footprint may have become one more
    return cast(UInt8Array, np.ascontiguousarray(reduced[: size.h, : size.w]))


def is_copied(scale: Pair) -> bool:
    """Whether a picture of that ``scale`` is taken as it is."""
    return max(scale) < _COPIED_BELOW


def covering(scale: Pair, size: Size) -> Size:
    """Whole px that ``size`` px of the result touch, counted from their common corner."""
    return Size(math.ceil(size.w * scale.x - _SLACK), math.ceil(size.h * scale.y - _SLACK))


def _rounded(size: Size, scale: Pair) -> Size:
    """The size that OpenCV gives a picture of ``size`` px."""
    return Size(round(size.w / scale.x), round(size.h / scale.y))


def _widened(source: UInt8Array, scale: Pair) -> UInt8Array:
    """The picture with its last px repeated, until its size changes by reduction.

    One that keeps its size, as it does where the factor is next to 1, OpenCV copies.
    """
    factor, axis = max((scale.x, 1), (scale.y, 0))
    length = math.ceil(0.5 * factor / (factor - 1)) + 1
    padding = [(0, 0), (0, 0), (0, 0)]
    padding[axis] = (0, max(0, length - source.shape[axis]))
    return np.pad(source, padding, mode="edge")
