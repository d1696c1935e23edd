"""The grid of patches that somebody else chose, cell by cell as heads and heatmaps want it.

Corners are taken as they are; cells follow from them. Corners of CLAM lie on one grid per piece of
tissue, so that all of them need not lie on any.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsi_hr.errors import CoordsError
from wsi_hr.exchange.coords_h5 import GivenCoords
from wsi_hr.geometry import (
    BoolArray,
    Float32Array,
    Int32Array,
    Int64Array,
    MaskCode,
    Pair,
    PatchGrid,
    ReadPlan,
    TissueMask,
)
from wsi_hr.slides.slide import Slide
from wsi_hr.tiling.plan import BLOCK_CELLS, covered_size

_ROUNDING_PX = 1.0  # what other programs lose when they make a footprint whole, level-0 px
_MOST_MOVED = 0.1


def grid_from_coords(
    given: GivenCoords, slide: Slide, plan: ReadPlan, mask: TissueMask, tolerance: float
) -> PatchGrid:
    """Lay out the patches of a coordinates file; every one is kept, whatever its tissue.

    A patch's cell is its corner in grid steps from the leftmost and topmost corner, rounded. The
    step is the plan's; where the file's own differs by no more than ``tolerance``, the file's.
    Patches that overlap by more than half can fall into one cell: the one that lies off its centre
    takes the nearest free cell, as two pieces of tissue with a grid each need it where they meet.

    Args:
        given: the file.
        slide: open slide, for its sizes.
        plan: footprint and stride that are asked, level-0 px.
        mask: tissue, in its own px.
        tolerance: by how much the file's footprint may differ from the plan's, relative.

    Returns:
        The patches in store order: blocks of 16 x 16 cells in raster order, raster order inside a
        block. ``shape`` is that of the cells' bounding box, (0, 0) without patches.

    Raises:
        CoordsError: the file is another slide's, its patches are of another size or lie closer
            than what is asked, or one lies outside the slide or is listed twice.
    """
    _check_slide(given, slide)
    _check_footprint(given, slide, plan, tolerance)
    _check_corners(given, slide)
    if not len(given):
        none = np.zeros((0, 2), np.int32)
        return PatchGrid(none, none, (0, 0), np.zeros(0, np.float32), plan.patch_px0)
    step = Pair(
        _step(given.coords, 0, plan.stride_px0.x, tolerance),
        _step(given.coords, 1, plan.stride_px0.y, tolerance),
    )
    cells = _cells(given, step)
    row, col = cells.T
    order = np.lexsort((col, row, col // BLOCK_CELLS, row // BLOCK_CELLS))
    coords = given.coords[order].astype(np.int32)
    return PatchGrid(
        coords=coords,
        cells=cells[order],
        shape=(int(row.max()) + 1, int(col.max()) + 1),
        tissue=_covered(coords, plan.patch_px0, mask.mask, mask.downsample),
        patch_px0=plan.patch_px0,
        artifact=_covered(coords, plan.patch_px0, mask.codes > MaskCode.TISSUE, mask.downsample),
    )


def tiles_give(given: GivenCoords, slide: Slide, plan: ReadPlan) -> bool:
    """Whether the tiles of a level show the patches of a file as they should be.

    Beyond the slide's edge a tile holds what the scanner left there, where a patch is white.
    """
    covered = covered_size(slide, plan)
    far = given.coords + np.ceil(plan.patch_px0)
    return bool((far <= (covered.w, covered.h)).all())


def _check_slide(given: GivenCoords, slide: Slide) -> None:
    """See that the file was made for a slide of this size."""
    level = given.level or 0
    if level >= len(slide.level_dimensions):
        raise CoordsError(
            f"{given.path}: speaks of level {level}, the slide has {len(slide.level_dimensions)} "
            "levels; see that both are of the same slide"
        )
    told, found = given.level_size, slide.level_dimensions[level]
    # a px of slack: readers round the size of a reduced level differently
    slack = 1 if level else 0
    if told and max(abs(told.w - found.w), abs(told.h - found.h)) > slack:
        raise CoordsError(
            f"{given.path}: was made for a slide of {told.w} x {told.h} px at level {level}, this "
            f"one has {found.w} x {found.h}; see that both are of the same slide"
        )


def _check_footprint(given: GivenCoords, slide: Slide, plan: ReadPlan, tolerance: float) -> None:
    """See that its patches are as large as those asked."""
    if given.patch_px0 is not None:
        found = Pair(given.patch_px0, given.patch_px0)
    else:
        downsample = slide.level_downsamples[given.level or 0]
        found = Pair(given.patch_px * downsample.x, given.patch_px * downsample.y)
    asked = plan.patch_px0
    if all(abs(a - f) <= tolerance * a + _ROUNDING_PX for a, f in zip(asked, found, strict=True)):
        return
    assert slide.mpp is not None, "a plan needs one"
    patch_px = round(asked.x / (plan.scale.x * plan.level_downsample.x))
    mpp = found.x * slide.mpp.x / patch_px
    raise CoordsError(
        f"{given.path}: its patches are {found.x:g} px wide at level 0, those asked {asked.x:g} "
        f"px; ask for --mpp {mpp:.4g} with --patch-size {patch_px}, or give coordinates cut as "
        "asked"
    )


def _check_corners(given: GivenCoords, slide: Slide) -> None:
    """See that every patch begins inside the slide, and none is listed twice."""
    size = slide.level_dimensions[0]
    outside = ((given.coords < 0) | (given.coords >= (size.w, size.h))).any(axis=1)
    if outside.any():
        x, y = given.coords[outside.argmax()]
        raise CoordsError(
            f"{given.path}: a patch begins at ({x}, {y}), outside the slide of {size.w} x "
            f"{size.h} px; see that both are of the same slide"
        )
    corners, counts = np.unique(given.coords, axis=0, return_counts=True)
    if len(corners) < len(given):
        x, y = corners[counts.argmax()]
        raise CoordsError(f"{given.path}: lists the patch at ({x}, {y}) twice; list each once")


def _step(coords: Int64Array, axis: int, asked: float, tolerance: float) -> float:
    """Distance of neighbours along an axis, level-0 px: the file's where it is nearly the asked.

    512 px where 506.5 are asked: in units of 506.5 every 93rd column would stay empty.
    """
    along, across = coords[:, axis], coords[:, 1 - axis]
    order = np.lexsort((along, across))
    gaps = np.diff(along[order])[np.diff(across[order]) == 0]
    near = gaps[np.abs(gaps - asked) <= tolerance * asked + _ROUNDING_PX]
    if not len(near):
        return asked
    usual = np.median(near)
    return float(near[np.abs(near - usual) <= _ROUNDING_PX].mean())


def _cells(given: GivenCoords, step: Pair) -> Int32Array:
    """One cell i32[N, 2] (row, col) for each patch, no two the same."""
    exact = ((given.coords - given.coords.min(axis=0)) / step)[:, ::-1]
    cells = np.floor(exact + 0.5).astype(np.int32)
    # the patch nearest to the centre of a cell keeps it
    order = np.lexsort((*exact.T, np.abs(exact - cells).max(axis=1)))
    _, keepers = np.unique(cells[order], axis=0, return_index=True)
    moved = np.delete(order, keepers)
    if len(moved) > _MOST_MOVED * len(cells):
        raise CoordsError(
            f"{given.path}: {len(moved)} of its {len(cells)} patches share a cell with "
            f"another one, closer than the step of {step.x:g} px (level 0) that is asked; set "
            "tile.stride to the step they were cut with"
        )
    taken = {(int(row), int(col)) for row, col in np.delete(cells, moved, axis=0)}
    for patch in moved.tolist():
        cells[patch] = _nearest_free(exact[patch], taken)
        taken.add((int(cells[patch, 0]), int(cells[patch, 1])))
    return cells


def _nearest_free(exact: npt.NDArray[np.float64], taken: set[tuple[int, int]]) -> tuple[int, int]:
    """The free cell nearest to the position ``exact`` (row, col), in cells."""
    row, col = int(exact[0] + 0.5), int(exact[1] + 0.5)
    reach = 1
    while True:
        free = [
            (r, c)
            for r in range(max(0, row - reach), row + reach + 1)
            for c in range(max(0, col - reach), col + reach + 1)
            if (r, c) not in taken
        ]
        if free:
            return min(free, key=lambda cell: (np.hypot(*(cell - exact)), cell))
        reach += 1


def _covered(
    coords: Int32Array, patch_px0: Pair, shown: BoolArray, downsample: Pair
) -> Float32Array:
    """Fraction f32[N] of each footprint where ``shown`` is True; it is not outside the slide."""
    integral = np.zeros((shown.shape[0] + 1, shown.shape[1] + 1))
    integral[1:, 1:] = shown.cumsum(0, dtype=np.float64).cumsum(1)
    left, top = (coords / downsample).T
    right, bottom = ((coords + patch_px0) / downsample).T
    inside = (
        _sum_to(integral, bottom, right)
        - _sum_to(integral, top, right)
        - _sum_to(integral, bottom, left)
        + _sum_to(integral, top, left)
    )
    area = patch_px0.x * patch_px0.y / (downsample.x * downsample.y)
    return (inside / area).clip(0.0, 1.0).astype(np.float32)


def _sum_to(
    integral: npt.NDArray[np.float64], y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The mask's sum above ``y`` and left of ``x``, mask px; exact also between px."""
    rows, cols = integral.shape
    y, x = y.clip(0, rows - 1), x.clip(0, cols - 1)
    row = np.minimum(y.astype(np.int64), rows - 2)
    col = np.minimum(x.astype(np.int64), cols - 2)
    down, along = y - row, x - col
    upper = integral[row, col] * (1 - along) + integral[row, col + 1] * along
    lower = integral[row + 1, col] * (1 - along) + integral[row + 1, col + 1] * along
    return upper * (1 - down) + lower * down
