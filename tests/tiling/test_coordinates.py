"""The whole way from a file to a patch, on slides whose pixels spell their own coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_hr.geometry import Pair, PatchSpec, Size, TissueMask
from wsi_hr.slides.open import open_slide
from wsi_hr.testing.coordinate_slide import decode_cells, write_coordinate_slide
from wsi_hr.tiling.plan import covered_size, plan_grid, plan_read
from wsi_hr.tiling.read import SlidePatches

CELL = 16


def check_slide(path, *, asked: float, patch: int, stride: int) -> None:
    """Every pixel whose footprint lies in one cell must have that cell's colour."""
    spec = PatchSpec(
        patch_px=patch, stride_px=stride, mpp=asked, mpp_tolerance=0.02, min_tissue=0.0
    )
    with open_slide(path) as slide:
        plan = plan_read(slide, spec)
        covered = covered_size(slide, plan)
        mask = TissueMask(np.ones((1, 1), np.bool_), Pair(*map(float, covered)), "all")
        grid = plan_grid(covered, slide.bounds, plan, mask, 0.0)
        assert len(grid) == grid.shape[0] * grid.shape[1] > 0
        far = grid.coords.max(0) + [plan.patch_px0.x, plan.patch_px0.y]
        assert (far + [plan.stride_px0.x, plan.stride_px0.y] > np.array(covered) - 1e-6).all()
        patches = SlidePatches(slide, plan, patch, fast=False).read(grid)
        for corner, patch_u8 in zip(grid.coords, patches, strict=True):
            assert patch_u8 is not None
            check_patch(patch_u8, corner, plan)


def check_patch(pixels, corner, plan) -> None:
    cells, certain = [], []
    for axis in (0, 1):
        footprint = plan.scale[axis] * plan.level_downsample[axis]
        edges = corner[axis] + np.arange(len(pixels) + 1) * footprint
        # Cells end where px of every level end: a footprint inside a cell has that cell's colour.
        low = np.floor((edges[:-1] + 1e-6) / CELL)
        high = np.floor((edges[1:] - 1e-6) / CELL)
        if plan.scale[axis] == 1.0:
            downsample = plan.level_downsample[axis]
            first = np.floor(corner[axis] / downsample + 0.5)  # the nearest px of the level
            shown = first + np.arange(len(pixels))
            low = high = np.floor(shown * downsample / CELL)
        cells.append(low.astype(int))
        certain.append(low == high)
    expected = np.stack(np.meshgrid(*cells), axis=-1)
    sure = certain[0][None, :] & certain[1][:, None]
    assert sure.mean() > 0.05
    assert np.array_equal(decode_cells(pixels)[sure], expected[sure])


@pytest.mark.parametrize(
    ("asked", "patch", "stride"),
    [
        (0.5, 256, 256),
        (0.505, 256, 200),
        (1.0, 128, 128),
        (1.0, 100, 77),
        (2.0, 96, 96),
        (0.625, 160, 160),
        (0.625, 160, 90),
        (1.85, 64, 64),
        (1.85, 64, 100),
        (3.1, 48, 48),
    ],
)
def test_every_pixel_lies_where_its_patch_says(tmp_path_factory, asked, patch, stride):
    path = tmp_path_factory.getbasetemp() / "coordinates.tif"
    if not path.exists():
        write_coordinate_slide(path, size=Size(2048, 1536))
    check_slide(path, asked=asked, patch=patch, stride=stride)


@pytest.mark.parametrize("asked", [0.5, 1.0, 0.8, 1.9])
def test_anisotropic_pixels(tmp_path, asked):
    path = tmp_path / "anisotropic.tif"
    write_coordinate_slide(path, size=Size(1200, 1000), mpp=(0.5, 0.46))
    check_slide(path, asked=asked, patch=64, stride=64)


@pytest.mark.parametrize("asked", [0.5, 1.0, 2.0, 2.9])
def test_levels_that_lost_a_part_of_a_pixel(tmp_path, asked):
    path = tmp_path / "odd.tif"
    write_coordinate_slide(path, size=Size(1555, 1283))
    check_slide(path, asked=asked, patch=48, stride=48)


def test_a_slide_of_exactly_one_patch(tmp_path):
    path = tmp_path / "one.tif"
    write_coordinate_slide(path, size=Size(256, 256), levels=(1,))
    check_slide(path, asked=0.5, patch=256, stride=256)
