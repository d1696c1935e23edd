"""Area averages against the integral over every footprint, px by px."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.geometry import Pair, Size
from wsi_hr.tiling.area import average_areas


def brute_force(rgb: np.ndarray, corner: Pair, scale: Pair, size: Size) -> np.ndarray:
    out = np.zeros((size.h, size.w, 3))
    for row in range(size.h):
        for col in range(size.w):
            top, left = corner.y + row * scale.y, corner.x + col * scale.x
            for y in range(math.floor(top), min(math.ceil(top + scale.y), len(rgb))):
                for x in range(math.floor(left), min(math.ceil(left + scale.x), rgb.shape[1])):
                    h = min(y + 1, top + scale.y) - max(y, top)
                    w = min(x + 1, left + scale.x) - max(x, left)
                    out[row, col] += rgb[y, x] * max(h, 0) * max(w, 0)
    return out / (scale.x * scale.y)


@settings(max_examples=40, deadline=None)
@given(
    scale=st.tuples(st.floats(1, 5), st.floats(1, 5)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 100),
)
def test_equals_brute_force(scale, corner, size, seed):
    shape = [math.ceil(corner[k] + size[k] * scale[k]) for k in (1, 0)]
    rgb = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    given_ = (Pair(*corner), Pair(*scale), Size(*size))
    out = average_areas(rgb, *given_)
    assert out.dtype == np.uint8
    assert np.abs(out - brute_force(rgb, *given_)).max() <= 0.501


@pytest.mark.parametrize("scale", [(2, 2), (3, 1), (2, 4), (4, 1)])
def test_whole_factors_equal_brute_force_too(scale):
    rgb = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    given_ = (Pair(1.0, 2.0), Pair(*map(float, scale)), Size(11, 8))
    out = average_areas(rgb, *given_)
    assert np.abs(out - brute_force(rgb, *given_)).max() <= 0.501


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_flat_picture_stays_as_it_is(value):
    rgb = np.full((50, 50, 3), value, np.uint8)
    out = average_areas(rgb, Pair(0.3, 0.7), Pair(1.37, 3.01), Size(30, 15))
    assert (out == value).all()


def test_scale_one_on_whole_pixels_copies():
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(average_areas(rgb, Pair(0, 0), Pair(1, 1), Size(30, 20)), rgb)
