"""Which level is read, and where the patches lie: all of it known before a pixel is read.

Nothing accumulates: a patch's corner is computed from its own cell, so the last patch of a row is
as well placed as the first.
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from wsi_hr.errors import SlideError
from wsi_hr.geometry import (
    BoolArray,
    Bounds,
    Int32Array,
    Pair,
    PatchGrid,
    PatchSpec,
    ReadPlan,
    Size,
    TissueMask,
)
from wsi_hr.slides.slide import Slide

BLOCK_CELLS = 16
"""Store order walks blocks of 16 x 16 cells, so that a shard of 256 is a square of the slide."""

_DECODE_SCALES = (1, 2, 4, 8)
_MANY = 4  # px of the decoder per patch px, from which on it does not matter how they lie
_WORTH = 4.1  # times the px that exact ones may take: a level of factor 2, its size rounded
_NOTHING = np.zeros(0, np.float32)
_SLACK = 1e-6  # px; absorbs float rounding where a footprint ends exactly at a border


def plan_read(slide: Slide, spec: PatchSpec) -> ReadPlan:
    """Choose the level from which patches at ``spec.mpp`` are read: the coarsest sufficient one.

    A level is sufficient when it is at least as fine as asked on both axes. Where a whole number
    of its px comes within ``spec.mpp_tolerance`` of what was asked, that is taken: a slide of 0.499
    um/px asked at 0.5 is not resampled, one of 0.2527 is halved. Pixels are only ever reduced.
    A level of which its reader shows what lies between its px is passed over for the next finer one
    that is exact, unless that takes more than some 4 times the px.

    Args:
        slide: open slide; its ``mpp`` is um per level-0 px.
        spec: patch edge and stride in px at ``spec.mpp``.

    Returns:
        Level, px of it per patch px, footprint and stride in level-0 px. Footprint and stride
        need not be whole; :func:`plan_grid` rounds each corner, once.

    Raises:
        SlideError: the slide's mpp is unknown, or the slide is coarser than ``spec.mpp``.
    """
    if slide.mpp is None:
        reason = slide.mpp_problem or "no mpp in its metadata; pass --mpp-override"
        raise SlideError(f"{slide.path}: {reason}")
    sufficient: list[tuple[float, int, Pair]] = []
    for level, downsample in enumerate(slide.level_downsamples):
        scale = Pair(
            _scale(slide.mpp.x * downsample.x, spec), _scale(slide.mpp.y * downsample.y, spec)
        )
        if min(scale) >= 1:
            sufficient.append((downsample.x * downsample.y, level, scale))
    if not sufficient:
        raise SlideError(
            f"{slide.path}: the slide has {slide.mpp.x:g} x {slide.mpp.y:g} um/px, coarser than "
            f"the {spec.mpp:g} um/px asked, and pixels are never invented; ask for --mpp "
            f"{max(slide.mpp.x, slide.mpp.y):.4g} or more, or correct the slide's mpp with "
            "--mpp-override"
        )
    area, level, scale = max(sufficient, key=_coarseness)
    if slide.interpolates(level):
        exact = [found for found in sufficient if not slide.interpolates(found[1])]
        finer = max(exact, key=_coarseness, default=None)
        if finer is not None and area <= _WORTH * finer[0]:
            _, level, scale = finer
    downsample = slide.level_downsamples[level]
    px0 = Pair(scale.x * downsample.x, scale.y * downsample.y)
    return ReadPlan(
        level=level,
        level_downsample=downsample,
        scale=scale,
        patch_px0=Pair(spec.patch_px * px0.x, spec.patch_px * px0.y),
        stride_px0=Pair(spec.stride_px * px0.x, spec.stride_px * px0.y),
    )


def reduced_by_decoder(plan: ReadPlan) -> ReadPlan:
    """The same plan, with as much of its scale as may be left to the JPEG decoder.

    A decoder that transforms only the low frequencies of each 8 x 8 block gives a half, a quarter
    or an eighth of the px in less time than all of them. Where whole px of these make a px of the
    patch, or many do, that is 45 to 59 dB from the area averages of real tissue; where one and a
    half or two and a bit do, only 37 to 43, so the decoder then gives all px.
    """
    fitting = (k for k in _DECODE_SCALES if all(_leaves_enough(s / k) for s in plan.scale))
    return replace(plan, decode_scale=max(fitting, default=1))


def covered_size(slide: Slide, plan: ReadPlan) -> Size:
    """What the level that is read covers of level 0, px: scanners drop a last part of a pixel."""
    level, whole = slide.level_dimensions[plan.level], slide.level_dimensions[0]
    return Size(
        min(whole.w, math.floor(level.w * plan.level_downsample.x + _SLACK)),
        min(whole.h, math.floor(level.h * plan.level_downsample.y + _SLACK)),
    )


def plan_grid(
    level0_size: Size,
    bounds: Bounds,
    plan: ReadPlan,
    mask: TissueMask,
    min_tissue: float,
    max_artifact: float = 1.0,
) -> PatchGrid:
    """Lay the grid over the scanned rectangle and keep the cells with enough good tissue.

    The grid is anchored at the top-left of ``bounds``; every patch begins on a whole px of what is
    decoded and lies wholly inside both ``bounds`` and the slide. Tissue and artifact are exact area
    fractions of the mask under the footprint.

    Args:
        level0_size: size of the slide, level-0 px, as far as the level covers it
            (:func:`covered_size`).
        bounds: scanned rectangle, level-0 px.
        plan: footprint and stride, level-0 px.
        mask: tissue, in its own px.
        min_tissue: a cell is kept when its fraction reaches this and is above 0.
        max_artifact: a cell with more artifact than this is not kept.

    Returns:
        The kept cells in store order: blocks of 16 x 16 cells in raster order, raster order
        inside a block. ``shape`` counts all cells, (0, 0) when not one patch fits.
    """
    left, top = max(bounds.x, 0), max(bounds.y, 0)
    right = min(bounds.x + bounds.w, level0_size.w)
    bottom = min(bounds.y + bounds.h, level0_size.h)
    unit = plan.decoded_px0
    xs = _corners(left, right, plan.patch_px0.x, plan.stride_px0.x, unit.x)
    ys = _corners(top, bottom, plan.patch_px0.y, plan.stride_px0.y, unit.y)
    if not len(xs) or not len(ys):
        xs, ys = xs[:0], ys[:0]

    integral = _integral(mask.mask)
    spoilt = None if mask.artifacts is None else _integral(mask.artifacts > 0)
    area = plan.patch_px0.x * plan.patch_px0.y / (mask.downsample.x * mask.downsample.y)

    coords, cells, tissue, artifact = [], [], [], []
    for first in range(0, len(ys), BLOCK_CELLS):
        rows_y = ys[first : first + BLOCK_CELLS]
        fraction = _covered(integral, xs, rows_y, plan.patch_px0, mask.downsample) / area
        fraction = fraction.clip(0.0, 1.0)
        kept = (fraction >= min_tissue - _SLACK) & (fraction > _SLACK)
        damage = np.zeros_like(fraction)
        if spoilt is not None:
            damage = _covered(spoilt, xs, rows_y, plan.patch_px0, mask.downsample) / area
            damage = damage.clip(0.0, 1.0)
            kept &= damage <= max_artifact + _SLACK
        row, col = np.nonzero(kept)
        order = np.lexsort((col, row, col // BLOCK_CELLS))
        row, col = row[order], col[order]
        coords.append(np.stack([xs[col], rows_y[row]], axis=1))
        cells.append(np.stack([row + first, col], axis=1))
        tissue.append(fraction[row, col])
        artifact.append(damage[row, col])
    return PatchGrid(
        coords=_stacked(coords),
        cells=_stacked(cells),
        shape=(len(ys), len(xs)),
        tissue=np.concatenate(tissue).astype(np.float32) if tissue else np.zeros(0, np.float32),
        patch_px0=plan.patch_px0,
        artifact=np.concatenate(artifact).astype(np.float32) if artifact else _NOTHING,
    )


def num_left_out(
    level0_size: Size,
    bounds: Bounds,
    plan: ReadPlan,
    mask: TissueMask,
    grid: PatchGrid,
    min_tissue: float,
) -> int:
    """Patches that artifacts cost: how many more there were if what they cover was tissue.

    Args:
        level0_size: as for :func:`plan_grid`, from which ``grid`` is; so the next three.
        bounds: scanned rectangle, level-0 px.
        plan: footprint and stride.
        mask: tissue and artifacts.
        grid: the patches that are cut.
        min_tissue: least fraction of tissue, as ``grid`` was planned with.
    """
    if mask.artifacts is None:
        return 0
    unspoilt = TissueMask(mask.mask | (mask.artifacts > 0), mask.downsample, mask.method)
    return len(plan_grid(level0_size, bounds, plan, unspoilt, min_tissue)) - len(grid)


def _coarseness(found: tuple[float, int, Pair]) -> tuple[float, int]:
    return found[0], -found[1]


def _scale(level_mpp: float, spec: PatchSpec) -> float:
    """Level px per patch px; a whole number where that is as good as what was asked."""
    scale = spec.mpp / level_mpp
    whole = max(1, math.floor(scale + 0.5))
    if abs(whole / scale - 1) <= spec.mpp_tolerance + 1e-9:
        return float(whole)
    return scale


def _leaves_enough(residual: float) -> bool:
    """Whether a picture that is reduced by ``residual`` may have been reduced before."""
    return residual >= _MANY or (residual >= 1 and residual.is_integer())


def _corners(
    start: int, stop: int, patch_px0: float, stride_px0: float, unit_px0: float
) -> Int32Array:
    """Corners of the patches of one axis between ``start`` and ``stop``, level-0 px.

    Each begins on the px of ``unit_px0`` level-0 px that is nearest to where it belongs.
    """
    last = stop - patch_px0  # the furthest corner from which a patch still ends inside
    lowest, highest = math.ceil(start / unit_px0 - _SLACK), math.floor(last / unit_px0 + _SLACK)
    if last < start - _SLACK or highest < lowest:
        return np.zeros(0, np.int32)
    count = math.floor((last - start) / stride_px0 + _SLACK) + 1
    exact = start + np.arange(count) * stride_px0
    # Rounding must not push the first or the last patch over the border.
    units = np.floor(exact / unit_px0 + 0.5).clip(lowest, highest)
    return np.floor(units * unit_px0 + 0.5).astype(np.int32)


def _integral(mask: BoolArray) -> npt.NDArray[np.float64]:
    """Sums f64[H + 1, W + 1] over everything above and left of a corner."""
    return np.asarray(cv2.integral(mask.view(np.uint8), sdepth=cv2.CV_64F), np.float64)


def _covered(
    integral: npt.NDArray[np.float64],
    xs: Int32Array,
    ys: Int32Array,
    patch_px0: Pair,
    downsample: Pair,
) -> npt.NDArray[np.float64]:
    """Mask px f64[len(ys), len(xs)] that are True under each footprint."""
    strip = _between(integral, ys, patch_px0.y, downsample.y)
    return _between(strip.T, xs, patch_px0.x, downsample.x).T


def _between(
    integral: npt.NDArray[np.float64], starts: Int32Array, length: float, downsample: float
) -> npt.NDArray[np.float64]:
    """Sums over ``[start, start + length)`` along the first axis of a cumulative sum.

    Linear interpolation of the cumulative sum of a piecewise constant function is its exact
    integral, so mask px that a footprint covers in part count for that part.
    """
    last = len(integral) - 1
    edges = np.concatenate([starts, starts + length]) / downsample
    edges = edges.clip(0, last)
    whole = np.minimum(edges.astype(np.int64), max(last - 1, 0))
    part = (edges - whole)[:, None]
    value = integral[whole] * (1 - part) + integral[np.minimum(whole + 1, last)] * part
    return value[len(starts) :] - value[: len(starts)]


def _stacked(parts: list[Int32Array]) -> Int32Array:
    if not parts:
        return np.zeros((0, 2), np.int32)
    return np.concatenate(parts).astype(np.int32)
