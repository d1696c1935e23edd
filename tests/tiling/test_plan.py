"""Plans against brute force: which level, which footprint, which cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
from array_slide import ArraySlide
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Bounds, MaskCode, Pair, PatchGrid, PatchSpec, ReadPlan, Size, TissueMask
from wsi_hr.tiling.plan import BLOCK_CELLS, num_left_out, plan_grid, plan_read


def spec(mpp: float, *, patch: int = 256, stride: int | None = None, tolerance: float = 0.02):
    return PatchSpec(
        patch_px=patch,
        stride_px=stride or patch,
        mpp=mpp,
        mpp_tolerance=tolerance,
        min_tissue=0.25,
    )


def pyramid(mpp, *downsamples: int, size: tuple[int, int] = (64000, 48000)) -> ArraySlide:
    return ArraySlide(sizes=[(size[0] // k, size[1] // k) for k in downsamples], mpp=mpp)


def read_plan(patch_px0: Pair, stride_px0: Pair) -> ReadPlan:
    return ReadPlan(
        level=0,
        level_downsample=Pair(1, 1),
        scale=Pair(1, 1),
        patch_px0=patch_px0,
        stride_px0=stride_px0,
    )


def everything(size: Size) -> TissueMask:
    return TissueMask(np.ones((1, 1), np.bool_), Pair(size.w, size.h), "all")


@pytest.mark.parametrize(
    ("mpp", "asked", "level", "scale"),
    [
        (0.25, 0.25, 0, 1.0),
        (0.25, 0.5, 0, 2.0),
        (0.25, 0.9, 0, 3.6),
        (0.25, 1.0, 1, 1.0),
        (0.25, 1.019, 1, 1.0),
        (0.25, 1.021, 1, 1.021),
        (0.25, 0.981, 1, 1.0),
        (0.25, 0.979, 0, 3.916),
        (0.25, 4.2, 2, 1.05),
        (0.25, 40.0, 2, 10.0),
        (0.499, 0.5, 0, 1.0),
        (0.505, 0.5, 0, 1.0),
    ],
)
def test_coarsest_level_that_is_fine_enough(mpp, asked, level, scale):
    plan = plan_read(pyramid((mpp, mpp), 1, 4, 16), spec(asked, stride=192))

    assert plan.level == level
    assert plan.scale == pytest.approx((scale, scale))
    assert plan.resampled == (scale != 1.0)
    footprint = 256 * (4**level if scale == 1.0 else asked / mpp)
    if scale == 1.0:
        assert plan.patch_px0 == (256 * 4**level, 256 * 4**level)
        assert plan.stride_px0 == (192 * 4**level, 192 * 4**level)
    else:
        assert plan.patch_px0 == pytest.approx((256 * asked / mpp, 256 * asked / mpp))
        assert plan.stride_px0 == pytest.approx((footprint * 0.75, footprint * 0.75))


@pytest.mark.parametrize(
    ("interpolated", "asked", "level"),
    [
        ((1, 2, 3), 1.0, 2),  # level 0 would take 16 times the px
        ((1, 3), 1.0, 2),
        ((2, 3), 1.0, 1),  # 4 times the px, and they are the slide's own
        ((1,), 0.5, 0),
        ((1,), 1.0, 2),
        ((3,), 4.0, 3),  # 16 times
        ((0, 1, 2, 3), 0.5, 1),
    ],
)
def test_a_level_that_is_interpolated_gives_way_to_an_exact_one(interpolated, asked, level):
    slide = ArraySlide(
        sizes=[(64000 // k, 48000 // k) for k in (1, 2, 4, 16)],
        mpp=(0.25, 0.25),
        interpolated=interpolated,
    )
    plan = plan_read(slide, spec(asked))
    assert plan.level == level
    assert plan.patch_px0 == pytest.approx((256 * asked / 0.25, 256 * asked / 0.25))


def test_axes_are_planned_each_by_itself():
    plan = plan_read(pyramid((0.25, 0.5), 1), spec(0.5))
    assert plan.scale == (2.0, 1.0)
    assert plan.patch_px0 == (512, 256)

    plan = plan_read(pyramid((0.25, 0.5), 1, 2), spec(0.5))
    assert plan.level == 0, "level 1 is too coarse along y"


def test_levels_of_uneven_size_keep_their_own_downsample():
    plan = plan_read(ArraySlide(sizes=[(4443, 3567), (2221, 1783)], mpp=(0.25, 0.25)), spec(0.5))
    assert plan.level == 1
    assert plan.scale == (1.0, 1.0)
    assert plan.patch_px0 == (256 * 4443 / 2221, 256 * 3567 / 1783)


def test_levels_need_not_be_in_order():
    assert plan_read(pyramid((0.25, 0.25), 1, 8, 2), spec(0.5)).level == 2


@pytest.mark.parametrize("mpp", [(0.6, 0.6), (0.5, 0.6), (0.5101, 0.5)])
def test_nothing_is_magnified(mpp):
    with pytest.raises(SlideError) as caught:
        plan_read(pyramid(mpp, 1, 2), spec(0.5))
    message = str(caught.value)
    assert f"{mpp[0]:g} x {mpp[1]:g} um/px" in message
    assert "0.5 um/px asked" in message
    assert "--mpp" in message


def test_unknown_mpp_is_refused_with_the_slides_own_reason():
    with pytest.raises(SlideError, match=r"array.tif: no mpp in its metadata; pass --mpp-override"):
        plan_read(pyramid(None, 1), spec(0.5))


def test_grid_is_anchored_at_the_bounds_and_stays_inside():
    size, bounds = Size(3000, 2000), Bounds(101, 57, 1000, 600)
    grid = plan_grid(size, bounds, read_plan(Pair(256, 256), Pair(256, 256)), everything(size), 0.5)
    assert grid.shape == (2, 3)
    assert grid.coords.dtype == np.int32
    assert grid.coords.tolist() == [
        [101, 57], [357, 57], [613, 57],
        [101, 313], [357, 313], [613, 313],
    ]  # fmt: skip
    assert grid.tissue.tolist() == [1.0] * 6


def test_bounds_that_leave_the_slide_are_cut_to_it():
    size = Size(600, 600)
    grid = plan_grid(
        size, Bounds(-50, 10, 9000, 9000), read_plan(Pair(200, 200), Pair(200, 200)),
        everything(size), 0.5,
    )  # fmt: skip
    assert grid.coords.min(0).tolist() == [0, 10]
    assert grid.shape == (2, 3)


def test_the_last_patch_is_as_well_placed_as_the_first():
    size = Size(100_000, 600)
    stride = 256 * 0.5 / 0.4991
    plan = read_plan(Pair(stride, stride), Pair(stride, stride))
    grid = plan_grid(size, Bounds(0, 0, *size), plan, everything(size), 0.5)
    exact = grid.cells[:, ::-1] * stride
    assert np.abs(grid.coords - exact).max() <= 0.5
    assert grid.shape[1] == math.floor(100_000 / stride)


@pytest.mark.parametrize("edge", [255, 256, 257])
def test_exactly_one_patch_fits_a_slide_of_its_size(edge):
    size = Size(edge, 256)
    grid = plan_grid(
        size, Bounds(0, 0, *size), read_plan(Pair(256, 256), Pair(256, 256)), everything(size), 0.0
    )
    assert grid.shape == ((0, 0) if edge < 256 else (1, 1))
    assert len(grid) == (edge >= 256)


def test_store_order_walks_blocks_of_16_cells():
    size = Size(40 * 8, 35 * 8)
    plan = read_plan(Pair(8, 8), Pair(8, 8))
    grid = plan_grid(size, Bounds(0, 0, *size), plan, everything(size), 0.5)
    expected = [
        (row, col)
        for block_row in range(0, 35, BLOCK_CELLS)
        for block_col in range(0, 40, BLOCK_CELLS)
        for row in range(block_row, min(block_row + BLOCK_CELLS, 35))
        for col in range(block_col, min(block_col + BLOCK_CELLS, 40))
    ]
    assert list(map(tuple, grid.cells.tolist())) == expected
    first_shard = grid.cells[:256]
    assert np.ptp(first_shard, axis=0).tolist() == [15, 15]


def test_without_tissue_nothing_is_kept_even_when_none_is_asked():
    size = Size(512, 512)
    mask = TissueMask(np.zeros((4, 4), np.bool_), Pair(128, 128), "none")
    grid = plan_grid(
        size, Bounds(0, 0, *size), read_plan(Pair(128, 128), Pair(128, 128)), mask, 0.0
    )
    assert len(grid) == 0
    assert grid.coords.shape == (0, 2)
    assert grid.shape == (4, 4)


def brute_tissue(mask: TissueMask, corner, footprint: Pair) -> float:
    """Area of the mask under a rectangle, mask px by mask px."""
    rows, cols = np.nonzero(mask.mask)
    left, top = cols * mask.downsample.x, rows * mask.downsample.y
    w = np.minimum(left + mask.downsample.x, corner[0] + footprint.x) - np.maximum(left, corner[0])
    h = np.minimum(top + mask.downsample.y, corner[1] + footprint.y) - np.maximum(top, corner[1])
    return float((w.clip(0) * h.clip(0)).sum() / (footprint.x * footprint.y))


@settings(max_examples=100)
@given(
    width=st.integers(20, 200),
    height=st.integers(20, 200),
    offset=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    patch=st.tuples(st.floats(16, 90), st.floats(16, 90)),
    step=st.tuples(st.floats(0.6, 1.6), st.floats(0.6, 1.6)),
    downsample=st.tuples(st.floats(3, 60), st.floats(3, 60)),
    min_tissue=st.floats(0, 1),
    max_artifact=st.sampled_from([0.0, 0.1, 0.25, 1.0]),
    seed=st.integers(0, 1000),
)
def test_grid_equals_brute_force(
    width, height, offset, patch, step, downsample, min_tissue, max_artifact, seed
):
    size = Size(width, height)
    bounds = Bounds(*offset, width - offset[0] - 3, height - offset[1] - 3)
    assume(bounds.w > 0)
    assume(bounds.h > 0)
    footprint, stride = Pair(*patch), Pair(patch[0] * step[0], patch[1] * step[1])
    shape = (math.ceil(height / downsample[1]), math.ceil(width / downsample[0]))
    codes = np.random.default_rng(seed).choice(
        np.array([MaskCode.BACKGROUND, MaskCode.TISSUE, MaskCode.PEN, MaskCode.FOLD], np.uint8),
        shape,
        p=[0.2, 0.6, 0.1, 0.1],
    )
    mask = TissueMask.from_codes(codes, Pair(*downsample), "random")
    spoilt = TissueMask(codes > MaskCode.TISSUE, Pair(*downsample), "spoilt")
    grid = plan_grid(size, bounds, read_plan(footprint, stride), mask, min_tissue, max_artifact)

    kept = {tuple(cell): i for i, cell in enumerate(grid.cells.tolist())}
    assert len(kept) == len(grid)
    for row in range(grid.shape[0] + 1):
        for col in range(grid.shape[1] + 1):
            x, y = bounds.x + col * stride.x, bounds.y + row * stride.y
            spare = min(
                bounds.x + bounds.w - x - footprint.x, bounds.y + bounds.h - y - footprint.y
            )
            if row < grid.shape[0] and col < grid.shape[1]:
                assert spare >= -1e-4, "every cell of the grid fits"
            elif 0 not in grid.shape:
                assert spare <= 1e-4, "and no other one does"
    for (row, col), i in kept.items():
        x, y = grid.coords[i].tolist()
        assert abs(x - (bounds.x + col * stride.x)) < 1
        assert abs(y - (bounds.y + row * stride.y)) < 1
        assert bounds.x <= x
        assert bounds.y <= y
        assert x + footprint.x <= bounds.x + bounds.w + 1e-4
        assert y + footprint.y <= bounds.y + bounds.h + 1e-4
        truth = brute_tissue(mask, (x, y), footprint)
        assert grid.tissue[i] == pytest.approx(truth, abs=1e-4)
        assert truth >= min_tissue - 1e-4
        damage = brute_tissue(spoilt, (x, y), footprint)
        assert grid.artifact[i] == pytest.approx(damage, abs=1e-4)
        assert damage <= max_artifact + 1e-4
    enough = kept_again(grid, size, bounds, footprint, stride, mask, min_tissue)
    least, most = max_artifact - 1e-4, max_artifact + 1e-4
    fine = kept_again(grid, size, bounds, footprint, stride, spoilt, least)
    spoilt_cells = kept_again(grid, size, bounds, footprint, stride, spoilt, most)
    assert enough - fine <= kept.keys()
    assert not spoilt_cells & kept.keys()
    lost = num_left_out(size, bounds, read_plan(footprint, stride), mask, grid, min_tissue)
    mended = TissueMask(codes > 0, Pair(*downsample), "mended")
    could = plan_grid(size, bounds, read_plan(footprint, stride), mended, min_tissue)
    assert lost == len({*map(tuple, could.cells.tolist())} - kept.keys()) == len(could) - len(grid)


def kept_again(
    grid: PatchGrid,
    size: Size,
    bounds: Bounds,
    footprint: Pair,
    stride: Pair,
    mask: TissueMask,
    min_tissue: float,
) -> set[tuple[int, int]]:
    """Cells that have clearly enough tissue, by brute force over the whole grid."""
    whole = plan_grid(size, bounds, read_plan(footprint, stride), everything(size), 0.0)
    assert len(whole) == grid.shape[0] * grid.shape[1]
    return {
        tuple(cell)
        for cell, corner in zip(whole.cells.tolist(), whole.coords.tolist(), strict=True)
        if brute_tissue(mask, corner, footprint) > max(min_tissue, 1e-6) + 1e-4
    }


def test_a_hundred_thousand_cells_are_planned_at_once():
    size = Size(100_000, 80_000)
    mask = TissueMask(np.ones((1250, 1562), np.bool_), Pair(100_000 / 1562, 64), "all")
    plan = read_plan(Pair(256, 256), Pair(256, 256))
    grid = plan_grid(size, Bounds(0, 0, *size), plan, mask, 0.25)
    assert len(grid) == 390 * 312
