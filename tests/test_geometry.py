"""The few things that geometry's types do, beyond holding numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.geometry import Mpp, Pair, PatchGrid, ReadPlan, TissueMask
from wsi_hr.slide_prediction import Role, SlidePrediction


def grid_of(num: int) -> PatchGrid:
    """A grid whose every field tells the patch's number."""
    numbers = np.arange(num, dtype=np.int32)
    return PatchGrid(
        coords=np.stack([10 * numbers, 20 * numbers], axis=1),
        cells=np.stack([numbers // 7, numbers % 7], axis=1),
        shape=(num // 7 + 1, 7),
        tissue=numbers.astype(np.float32),
        patch_px0=Pair(10.0, 20.5),
        artifact=numbers.astype(np.float32) / 100,
    )


@given(st.integers(0, 50), st.data())
def test_taking_twice_is_taking_once(num: int, data: st.DataObject) -> None:
    grid = grid_of(num)
    some = data.draw(st.lists(st.integers(0, num - 1), max_size=20)) if num else []
    first = np.array(some, dtype=np.int64)
    again = data.draw(st.lists(st.integers(0, len(some) - 1), max_size=20)) if some else []
    second = np.array(again, dtype=np.int64)
    once, twice = grid.take(first[second]), grid.take(first).take(second)
    assert len(twice) == len(second)
    for name in ("coords", "cells", "tissue", "artifact"):
        assert np.array_equal(getattr(once, name), getattr(twice, name))
        assert getattr(twice, name).dtype == getattr(grid, name).dtype
    assert (twice.coords[:, 0] == 10 * first[second]).all()
    assert (twice.shape, twice.patch_px0) == (grid.shape, grid.patch_px0)


def test_a_grid_without_artifacts_has_none() -> None:
    grid = PatchGrid(
        np.zeros((3, 2), np.int32),
        np.zeros((3, 2), np.int32),
        (1, 3),
        np.ones(3, np.float32),
        Pair(1, 1),
    )
    assert grid.artifact.tolist() == [0, 0, 0]
    assert grid.artifact.dtype == np.float32


@pytest.mark.parametrize("codes", [[[0, 1], [2, 5]], [[0, 1], [1, 1]]])
def test_a_mask_is_its_codes(codes: list[list[int]]) -> None:
    drawn = np.array(codes, np.uint8)
    mask = TissueMask.from_codes(drawn, Pair(32, 32), "x")
    assert np.array_equal(mask.codes, drawn)
    assert np.array_equal(mask.mask, drawn == 1)
    assert (mask.artifacts is None) == (drawn.max() <= 1)


def test_mpp_is_the_mean_of_both_axes() -> None:
    assert Mpp(0.25, 0.75, "test").mean == 0.5


@pytest.mark.parametrize(
    ("scale", "resampled"),
    [(Pair(1.0, 1.0), False), (Pair(1.0, 2.0), True), (Pair(1.0000001, 1.0), True)],
)
def test_only_a_scale_of_exactly_one_leaves_pixels_alone(scale: Pair, resampled: bool) -> None:
    plan = ReadPlan(0, Pair(1.0, 1.0), scale, Pair(256.0, 256.0), Pair(256.0, 256.0))
    assert plan.resampled is resampled


def prediction_of(saliency: list[float], role: list[Role]) -> SlidePrediction:
    return SlidePrediction(
        "a",
        np.array([0.25, 0.75], np.float32),
        np.array(saliency, np.float32),
        np.array(role, np.uint8),
        grid_of(4),
    )


def test_the_most_salient_patch_is_one_that_was_kept() -> None:
    """Scores are over all patches, the choice was the scan's: the best scored may not be chosen."""
    role = [Role.BACKGROUND, Role.SALIENT, Role.SUB_SALIENT, Role.SALIENT]
    prediction = prediction_of([0.9, 0.2, 0.8, 0.3], role)
    assert prediction.most_salient == 3
    assert prediction.positions(Role.SALIENT).tolist() == [1, 3]
    assert prediction.positions(Role.NOT_VISITED).tolist() == []


@pytest.mark.parametrize(("num_scores", "num_roles"), [(3, 4), (4, 5)])
def test_a_prediction_has_a_score_and_a_role_for_each_patch(num_scores, num_roles) -> None:
    with pytest.raises(ValueError, match="a: 4 patches"):
        prediction_of([0.0] * num_scores, [Role.SALIENT] * num_roles)
