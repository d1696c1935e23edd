"""Colours of patches on a thumbnail, against cutting each patch out."""

from __future__ import annotations

import numpy as np
import pytest
from glances import grid_at

from wsi_hr.geometry import Size, patch_boxes
from wsi_hr.samplers.features import NUM_FEATURES, colour_features


@pytest.mark.parametrize("size", [Size(96, 72), Size(301, 190), Size(12, 9)])
def test_each_patch_has_the_colours_of_its_box(size: Size) -> None:
    rng = np.random.default_rng(size.w)
    thumbnail = rng.integers(0, 256, (size.h, size.w, 3), dtype=np.uint8)
    grid, level0 = grid_at(np.argwhere(np.ones((9, 12))), (9, 12)), Size(96, 72)
    found = colour_features(grid, thumbnail, level0)
    assert found.shape == (108, NUM_FEATURES)
    assert found.dtype == np.float32
    for row, (left, top, right, bottom) in zip(
        found, patch_boxes(grid, level0, size).tolist(), strict=True
    ):
        patch = thumbnail[top:bottom, left:right].reshape(-1, 3).astype(np.float64)
        six = np.concatenate([patch.mean(axis=0), patch.std(axis=0)])
        assert row == pytest.approx(six / np.linalg.norm(six), abs=2e-6)


def test_black_has_no_direction() -> None:
    grid = grid_at(np.array([[0, 0], [0, 1]]), (1, 2))
    thumbnail = np.zeros((8, 16, 3), np.uint8)
    thumbnail[:, 8:] = 200
    found = colour_features(grid, thumbnail, Size(16, 8))
    assert found[0].tolist() == [0] * 6
    assert found[1] == pytest.approx([3**-0.5] * 3 + [0] * 3)
