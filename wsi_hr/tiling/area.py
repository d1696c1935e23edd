"""Area averaging with fractional edges: a px that a footprint covers in part counts for that part.

Pillow's box filter asks of every px only whether its centre is inside. Between whole factors that
is close to nearest neighbour (28 to 35 dB against true averages on a real slide, this is 59 dB, the
limit of rounding) at the same cost.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from wsi_hr.geometry import Float32Array, Int64Array, Pair, Size, UInt8Array

_SLACK = 1e-6  # px; absorbs float rounding where a footprint ends on a px edge


def average_areas(rgb: UInt8Array, corner: Pair, scale: Pair, size: Size) -> UInt8Array:
    """Reduce a rectangle of a picture.

    Args:
        rgb: u8[h, w, 3].
        corner: top-left of the rectangle, px of the picture; need not be whole.
        scale: px of the picture per px of the result, per axis, at least 1.
        size: px of the result.

    Returns:
        u8[size.h, size.w, 3], every px the mean over its own footprint, rounded once.
    """
    if all(float(value).is_integer() for value in corner) and all(map(_is_power_of_two, scale)):
        factor, left, top = Size(int(scale.x), int(scale.y)), int(corner.x), int(corner.y)
        inside = rgb[top : top + size.h * factor.h, left : left + size.w * factor.w]
        # The same means, by Pillow in integers, four times as fast. Its division is exact for
        # powers of two; for others it is sometimes one too low.
        return np.asarray(Image.fromarray(inside).reduce(factor))
    rows, weights = _footprints(corner.y, scale.y, size.h, rgb.shape[0])
    reduced = _weighted_rows(rgb, rows, weights)
    columns, weights = _footprints(corner.x, scale.x, size.w, rgb.shape[1])
    turned = np.ascontiguousarray(reduced.swapaxes(0, 1))
    reduced = _weighted_rows(turned, columns, weights).swapaxes(0, 1)
    return np.ascontiguousarray(np.rint(reduced).clip(0, 255).astype(np.uint8))


def _is_power_of_two(value: float) -> bool:
    return math.frexp(value)[0] == 0.5


def _footprints(
    start: float, scale: float, count: int, length: int
) -> tuple[Int64Array, Float32Array]:
    """Which px each px of the result covers along one axis, and how much of each.

    Returns:
        Positions i64[count, T] and weights f32[count, T] that sum to 1; unused ones weigh 0.
    """
    edges = start + np.arange(count + 1) * scale
    first = np.floor(edges[:-1] + _SLACK).astype(np.int64)
    num_taps = int((np.ceil(edges[1:] - _SLACK) - first).max())
    positions = first[:, None] + np.arange(num_taps)
    covered = np.minimum(positions + 1, edges[1:, None]) - np.maximum(positions, edges[:-1, None])
    weights = (covered.clip(0, 1) / scale).astype(np.float32)
    assert first[0] >= 0, "the rectangle lies inside the picture"
    assert math.ceil(edges[-1] - _SLACK) <= length, "the rectangle lies inside the picture"
    return np.minimum(positions, length - 1), weights


def _weighted_rows(
    values: UInt8Array | Float32Array, positions: Int64Array, weights: Float32Array
) -> Float32Array:
    """``sum_t weights[i, t] * values[positions[i, t]]``, f32[count, ...]."""
    total = values[positions[:, 0]] * weights[:, 0, None, None]
    for tap in range(1, positions.shape[1]):
        total += values[positions[:, tap]] * weights[:, tap, None, None]
    return total
