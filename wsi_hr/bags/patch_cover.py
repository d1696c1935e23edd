"""How much of every patch somebody's polygons cover."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_hr.exchange.drawings import Ring
from wsi_hr.geometry import BoolArray, Float32Array, Int64Array, PatchGrid

# Letters: N patches, J codes, (H, W) a raster, K corners of a ring.

FloatArray = npt.NDArray[np.float64]

_FINE = 32  # raster px along a patch's edge: a straight border is off by less than 1 % of the patch
_BLOCK = 16  # cells along the edge of what is drawn at a time


@dataclass(frozen=True)
class Painted:
    """A polygon and what it is painted as.

    Attributes:
        code: 0 to J - 1.
        rings: its outline and its holes f64[K, 2] (x, y), level-0 px; inside is what an odd number
            of rings go round.
    """

    code: int
    rings: Sequence[Ring]


def covers(polygons: Sequence[Painted], grid: PatchGrid, num_codes: int) -> Float32Array:
    """The part f32[N, J] of each patch that shows each code; later polygons lie over earlier ones.

    Blocks of the grid are drawn one after the other, so memory does not grow with the slide.
    """
    cover_NJ = np.zeros((len(grid), num_codes), np.float32)
    boxes = np.array([_box(polygon.rings) for polygon in polygons]).reshape(-1, 4)
    for at in _blocks(grid):
        corners_K2 = grid.coords[at].astype(np.float64)
        first_2 = corners_K2.min(0)
        last_2 = corners_K2.max(0) + np.array(grid.patch_px0)
        hit = ((boxes[:, :2] < last_2) & (boxes[:, 2:] > first_2)).all(1)
        if hit.any():
            near = [polygon for polygon, is_hit in zip(polygons, hit, strict=True) if is_hit]
            px_2 = np.array(grid.patch_px0) / _FINE
            shape = tuple(np.ceil((last_2 - first_2) / px_2 - 1e-9).astype(int)[::-1] + 1)
            codes = _drawn(near, first_2, px_2, shape)
            for code in {polygon.code for polygon in near}:
                cover_NJ[at, code] = _means(codes == code, (corners_K2 - first_2) / px_2)
    return cover_NJ


def inside(rings: Sequence[Ring], shape: tuple[int, int]) -> BoolArray:
    """bool[H, W], whether the centre of a px lies inside; rings in px, (0, 0) the first's corner.

    Every edge that passes a row's centre line turns inside and outside round from there on.
    """
    height, width = shape
    turns = np.zeros(height * (width + 1), np.int64)
    for ring in rings:
        (ax, ay), (bx, by) = ring.T, np.roll(ring, -1, axis=0).T
        first = np.ceil(np.minimum(ay, by) - 0.5).clip(0, height).astype(np.int64)
        count = np.ceil(np.maximum(ay, by) - 0.5).clip(0, height).astype(np.int64) - first
        edge = np.repeat(np.arange(len(ring)), count)
        row = np.arange(len(edge)) + (first - (np.cumsum(count) - count))[edge]
        along = (row + 0.5 - ay[edge]) / (by - ay)[edge]
        x = ax[edge] + along * (bx - ax)[edge]
        col = np.ceil(x - 0.5).clip(0, width).astype(np.int64)
        turns += np.bincount(row * (width + 1) + col, minlength=len(turns))
    crossed = np.cumsum(turns.reshape(height, width + 1)[:, :width], axis=1)
    return (crossed & 1).astype(np.bool_)


def _box(rings: Sequence[Ring]) -> FloatArray:
    """Left, top, right, bottom of a polygon."""
    corners = np.concatenate(list(rings))
    return np.concatenate([corners.min(0), corners.max(0)])


def _blocks(grid: PatchGrid) -> Iterator[Int64Array]:
    """Positions of the patches, those of one block of cells at a time."""
    block_N2 = grid.cells // _BLOCK
    _, number = np.unique(block_N2, axis=0, return_inverse=True)
    order = np.argsort(number.ravel(), kind="stable")
    ends = np.flatnonzero(np.diff(number.ravel()[order])) + 1
    yield from (part for part in np.split(order, ends) if len(part))


def _drawn(
    polygons: Sequence[Painted], corner_2: FloatArray, px_2: FloatArray, shape: tuple[int, ...]
) -> npt.NDArray[np.int16]:
    """Codes i16[H, W] of a raster whose corner and px are given in level-0 px; -1 where none is."""
    codes = np.full(shape, -1, np.int16)
    for polygon in polygons:
        rings = [(ring - corner_2) / px_2 for ring in polygon.rings]
        left, top, right, bottom = _box(rings)
        x0, y0 = (int(max(0, np.floor(edge))) for edge in (left, top))
        x1, y1 = (int(min(n, np.ceil(e))) for n, e in ((shape[1], right), (shape[0], bottom)))
        if x1 > x0 and y1 > y0:
            part = inside([ring - (x0, y0) for ring in rings], (y1 - y0, x1 - x0))
            codes[y0:y1, x0:x1][part] = polygon.code
    return codes


def _means(shown: BoolArray, corners_K2: FloatArray) -> FloatArray:
    """Mean f64[K] of a raster over squares of _FINE px whose corners (x, y) need not be whole.

    An integral image that is interpolated linearly holds the exact area, parts of px included.
    """
    integral = np.zeros((shown.shape[0] + 1, shown.shape[1] + 1))
    integral[1:, 1:] = shown.cumsum(0).cumsum(1)

    def at(x: FloatArray, y: FloatArray) -> FloatArray:
        col = np.minimum(x.astype(np.int64), shown.shape[1] - 1)
        row = np.minimum(y.astype(np.int64), shown.shape[0] - 1)
        dx, dy = x - col, y - row
        upper = integral[row, col] * (1 - dx) + integral[row, col + 1] * dx
        lower = integral[row + 1, col] * (1 - dx) + integral[row + 1, col + 1] * dx
        return upper * (1 - dy) + lower * dy

    x0, y0 = corners_K2.T
    x1, y1 = x0 + _FINE, y0 + _FINE
    return (at(x1, y1) - at(x0, y1) - at(x1, y0) + at(x0, y0)) / _FINE**2
