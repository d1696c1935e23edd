"""Pixels of patches against arithmetic on the level they come from."""

from __future__ import annotations

import numpy as np
import pytest
from array_slide import ArraySlide

from wsi_hr.geometry import Bounds, Pair, PatchGrid, PatchSpec, TissueMask
from wsi_hr.tiling import read
from wsi_hr.tiling.plan import plan_grid, plan_read
from wsi_hr.tiling.read import SlidePatches


def planned(slide: ArraySlide, mpp: float, patch: int, stride: int):
    spec = PatchSpec(patch_px=patch, stride_px=stride, mpp=mpp, mpp_tolerance=0.02, min_tissue=0.0)
    plan = plan_read(slide, spec)
    size = slide.level_dimensions[0]
    mask = TissueMask(np.ones((1, 1), np.bool_), Pair(*map(float, size)), "all")
    return plan, plan_grid(size, slide.bounds, plan, mask, 0.0)


def gathered(slide: ArraySlide, plan, grid: PatchGrid, patch: int):
    pixels = np.zeros((len(grid), patch, patch, 3), np.uint8)
    readable = np.zeros(len(grid), np.bool_)
    patches = SlidePatches(slide, plan, patch, fast=False).read(grid)
    for k, patch_u8 in enumerate(patches):
        readable[k] = patch_u8 is not None
        if patch_u8 is not None:
            pixels[k] = patch_u8
    assert k == len(grid) - 1
    return pixels, readable


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("stride", [64, 40, 100])
def test_without_resampling_pixels_are_copied(stride):
    slide = ArraySlide([noise(700, 1300)])
    plan, grid = planned(slide, 0.5, 64, stride)
    pixels, readable = gathered(slide, plan, grid, 64)
    assert readable.all()
    for (x, y), patch in zip(grid.coords, pixels, strict=True):
        assert np.array_equal(patch, slide.levels[0][y : y + 64, x : x + 64])


def test_a_level_of_the_asked_mpp_is_copied_too():
    slide = ArraySlide([noise(800, 1600), noise(200, 400)])
    plan, grid = planned(slide, 2.0, 48, 48)
    pixels, _ = gathered(slide, plan, grid, 48)
    assert plan.level == 1
    for (x, y), patch in zip(grid.coords, pixels, strict=True):
        assert np.array_equal(patch, slide.levels[1][y // 4 : y // 4 + 48, x // 4 : x // 4 + 48])


def test_whole_factors_average_exactly_the_pixels_of_the_footprint():
    slide = ArraySlide([noise(700, 1300)])
    plan, grid = planned(slide, 1.5, 50, 37)
    pixels, _ = gathered(slide, plan, grid, 50)
    for (x, y), patch in zip(grid.coords, pixels, strict=True):
        source = slide.levels[0][y : y + 150, x : x + 150].astype(float)
        mean = source.reshape(50, 3, 50, 3, 3).mean((1, 3))
        assert np.abs(patch - mean).max() <= 0.51, "rounded once"


@pytest.mark.parametrize("mpp", [0.625, 1.85, 0.53])
@pytest.mark.parametrize("anisotropy", [1.0, 0.8])
def test_broken_factors_stay_in_their_own_footprint(mpp, anisotropy):
    """A ramp tells where a pixel comes from: its value is its own position."""
    x = np.linspace(0, 250, 1200)
    y = np.linspace(0, 250, 900)
    ramp = np.stack(
        [np.broadcast_to(x, (900, 1200)), np.broadcast_to(y[:, None], (900, 1200))], axis=-1
    )
    level = np.concatenate([ramp, np.zeros((900, 1200, 1))], axis=-1).round().astype(np.uint8)
    slide = ArraySlide([level], mpp=(0.5, 0.5 * anisotropy))
    plan, grid = planned(slide, mpp, 60, 60)
    pixels, _ = gathered(slide, plan, grid, 60)
    centre = np.arange(60) + 0.5
    for (x0, y0), patch in zip(grid.coords, pixels, strict=True):
        expected_x = (x0 + centre * plan.scale.x - 0.5) * 250 / 1199
        expected_y = (y0 + centre * plan.scale.y - 0.5) * 250 / 899
        assert np.abs(patch[..., 0] - expected_x).max() < 0.9
        assert np.abs(patch[..., 1] - expected_y[:, None]).max() < 0.9


def test_a_patch_larger_than_a_read_comes_out_the_same(monkeypatch):
    slide = ArraySlide([noise(700, 1300)])
    for mpp in (0.5, 1.5, 1.85):
        plan, grid = planned(slide, mpp, 64, 64)
        whole, _ = gathered(slide, plan, grid, 64)
        with monkeypatch.context() as context:
            context.setattr(read, "MAX_READ_PX", 3000)
            slide.largest_read_px = 0
            banded, readable = gathered(slide, plan, grid, 64)
        assert readable.all()
        assert np.array_equal(whole, banded)
        assert slide.largest_read_px <= 3000


def test_reads_are_bounded():
    slide = ArraySlide([np.zeros((2100, 9000, 3), np.uint8)], mpp=(0.25, 0.25))
    plan, grid = planned(slide, 2.0, 256, 256)
    gathered(slide, plan, grid, 256)
    assert slide.largest_read_px <= read.MAX_READ_PX


@pytest.mark.parametrize("mpp", [0.5, 1.0, 0.65])
def test_damage_costs_only_the_patches_it_touches(mpp):
    hole = Bounds(500, 300, 90, 20)
    slide = ArraySlide([noise(900, 1400)], damaged=[hole])
    intact = ArraySlide(slide.levels)
    plan, grid = planned(slide, mpp, 64, 64)
    pixels, readable = gathered(slide, plan, grid, 64)
    truth, _ = gathered(intact, plan, grid, 64)
    x, y = grid.coords[:, 0], grid.coords[:, 1]
    margin = plan.scale.x  # the whole px around a fractional footprint
    hit = (
        (x + grid.patch_px0.x + margin > hole.x)
        & (x - margin < hole.x + hole.w)
        & (y + grid.patch_px0.y + margin > hole.y)
        & (y - margin < hole.y + hole.h)
    )
    inside = (
        (x + grid.patch_px0.x > hole.x)
        & (x < hole.x + hole.w)
        & (y + grid.patch_px0.y > hole.y)
        & (y < hole.y + hole.h)
    )
    assert inside.any()
    assert not readable[inside].any()
    assert readable[~hit].all()
    assert np.array_equal(pixels[readable], truth[readable])


def test_a_patch_without_any_data_is_unreadable_and_one_with_some_is_not():
    slide = ArraySlide([noise(256, 512)], empty=[Bounds(120, 0, 140, 256)])
    plan, grid = planned(slide, 0.5, 128, 128)
    _, readable = gathered(slide, plan, grid, 128)
    by_column = {int(col): bool(fine) for (_, col), fine in zip(grid.cells, readable, strict=True)}
    assert by_column == {0: True, 1: False, 2: True, 3: True}
