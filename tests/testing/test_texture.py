from __future__ import annotations

import sys

import numpy as np
import pytest
import skimage.data

from wsi_hr.testing import texture
from wsi_hr.testing.texture import TEXTURE_PX, tissue_texture


@pytest.fixture(scope="module")
def torus() -> np.ndarray:
    return tissue_texture()


def test_the_picture_needs_no_pooch(monkeypatch):
    expected = skimage.data.immunohistochemistry()
    monkeypatch.setitem(sys.modules, "pooch", None)
    np.testing.assert_array_equal(texture._picture(), expected)


def test_it_is_shared_and_cannot_be_written(torus):
    assert torus.shape == (TEXTURE_PX, TEXTURE_PX, 3)
    assert tissue_texture() is torus
    with pytest.raises(ValueError, match="read-only"):
        torus[0, 0] = 0


def test_it_is_the_same_in_every_process(torus):
    np.testing.assert_array_equal(tissue_texture.__wrapped__(), torus)


@pytest.mark.parametrize("axis", [0, 1])
def test_it_has_no_seam(torus, axis):
    """Neighbouring rows differ across the border as they do elsewhere."""
    steps = np.abs(torus.astype(int) - np.roll(torus, 1, axis=axis)).mean(axis=(1 - axis, 2))
    assert steps[0] < 1.3 * np.median(steps)
    assert steps.max() < 1.6 * np.median(steps)


def test_it_holds_gland_and_stroma_and_little_glass(torus):
    brown = torus[..., 0].astype(int) - torus[..., 2] > 40
    assert 0.3 < brown.mean() < 0.75
    assert (torus.min(axis=2) > 240).mean() < 0.1


def test_a_cut_is_connected_and_cheapest():
    rng = np.random.default_rng(5)
    cost = rng.random((7, 5)).astype(np.float32)
    cut = texture._before_cut(cost).sum(axis=1)
    assert np.abs(np.diff(cut)).max() <= 1

    def cheapest_from(row: int, col: int) -> float:
        if row == 6:
            return float(cost[row, col])
        below = [cheapest_from(row + 1, c) for c in (col - 1, col, col + 1) if 0 <= c < 5]
        return float(cost[row, col]) + min(below)

    found = sum(float(cost[row, col]) for row, col in enumerate(cut))
    assert found == pytest.approx(min(cheapest_from(0, col) for col in range(5)))
