from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.geometry import Bounds, Pair, Point, Size
from wsi_hr.slides.levels import downsamples_of, nearest, read_clipped, to_level

EDGE = st.integers(512, 200_000)


@given(EDGE, EDGE, st.sampled_from([1, 2, 4, 8, 16, 32]), st.booleans())
def test_whole_factors_are_found_whichever_way_sizes_were_rounded(w, h, factor, up):
    size = Size(-(-w // factor), -(-h // factor)) if up else Size(w // factor, h // factor)
    assert downsamples_of([Size(w, h), size])[1] == Pair(factor, factor)


def test_a_factor_that_is_no_power_of_two_is_found():
    assert downsamples_of([Size(3001, 1502), Size(1000, 500)])[1] == Pair(3.0, 3.0)


def test_without_a_whole_factor_the_ratio_of_the_sizes_is_taken_per_axis():
    assert downsamples_of([Size(1000, 500), Size(400, 210)])[1] == Pair(2.5, 500 / 210)


@given(EDGE, EDGE, st.floats(1.0, 64.0), st.floats(1.0, 64.0), st.data())
def test_a_level_px_is_found_again_by_its_level0_corner(w, h, factor_x, factor_y, data):
    size = Size(max(1, int(w / factor_x)), max(1, int(h / factor_y)))
    downsample = downsamples_of([Size(w, h), size])[1]
    at = Point(data.draw(st.integers(0, size.w - 1)), data.draw(st.integers(0, size.h - 1)))
    xy0 = Point(nearest(at.x * downsample.x), nearest(at.y * downsample.y))
    assert to_level(xy0, downsample) == at


@given(st.integers(-12, 12), st.integers(-12, 12), st.integers(1, 20), st.integers(1, 20))
def test_what_lies_outside_a_level_is_white_and_not_valid(x, y, w, h):
    level = np.random.default_rng(0).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    padded = np.full((60, 60, 3), 255, np.uint8)
    padded[20:27, 20:29] = level
    inside = np.zeros((60, 60), np.bool_)
    inside[20:27, 20:29] = True

    def read(box: Bounds):
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.w <= 9
        assert box.y + box.h <= 7
        pixels = level[box.y : box.y + box.h, box.x : box.x + box.w]
        return pixels, np.ones(pixels.shape[:2], np.bool_)

    rgb, valid = read_clipped(read, Size(9, 7), Point(x, y), Size(w, h))
    there = (slice(20 + y, 20 + y + h), slice(20 + x, 20 + x + w))
    assert np.array_equal(rgb, padded[there])
    assert np.array_equal(valid, inside[there])


def test_a_region_without_pixels_is_a_wrong_argument():
    with pytest.raises(ValueError, match="at least one px"):
        read_clipped(lambda box: pytest.fail("read"), Size(9, 7), Point(0, 0), Size(0, 3))
