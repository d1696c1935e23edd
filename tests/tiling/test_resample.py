"""Reduced pictures against the integral over every footprint, px by px."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.geometry import Pair, Size
from wsi_hr.tiling.resample import covering, reduce_picture


def brute_force(rgb: np.ndarray, scale: Pair, size: Size) -> np.ndarray:
    out = np.zeros((size.h, size.w, 3))
    for row in range(size.h):
        for col in range(size.w):
            top, left = row * scale.y, col * scale.x
            for y in range(math.floor(top), min(math.ceil(top + scale.y), len(rgb))):
                for x in range(math.floor(left), min(math.ceil(left + scale.x), rgb.shape[1])):
                    h = min(y + 1, top + scale.y) - max(y, top)
                    w = min(x + 1, left + scale.x) - max(x, left)
                    out[row, col] += rgb[y, x] * max(h, 0) * max(w, 0)
    return out / (scale.x * scale.y)


def noise(scale: Pair, size: Size, seed: int = 0) -> np.ndarray:
    need = covering(scale, size)
    return np.random.default_rng(seed).integers(0, 256, (need.h, need.w, 3), dtype=np.uint8)


@settings(max_examples=60)
@given(
    scale=st.tuples(*[st.floats(1, 1.01) | st.floats(1, 9)] * 2),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 100),
)
def test_exact_equals_brute_force(scale, size, seed):
    asked = Pair(*scale), Size(*size)
    rgb = noise(*asked, seed)
    out = reduce_picture(rgb, *asked, fast=False)
    assert out.dtype == np.uint8
    assert out.shape == (size[1], size[0], 3)
    # OpenCV leaves out a px of which a footprint covers less than a thousandth
    assert np.abs(out - brute_force(rgb, *asked)).max() <= 0.5 + 4 * 255 / 1000


@pytest.mark.parametrize("scale", [(2, 2), (3, 1), (2, 4), (4, 1), (16, 16), (49, 49)])
@pytest.mark.parametrize("fast", [True, False])
def test_whole_factors_are_exact_also_when_fast(scale, fast):
    asked = Pair(*map(float, scale)), Size(11, 8)
    rgb = noise(*asked)
    out = reduce_picture(rgb, *asked, fast=fast)
    assert np.abs(out - brute_force(rgb, *asked)).max() <= 0.51


@pytest.mark.parametrize("scale", [1.02, 1.25, 1.5, 1.978])
def test_fast_stays_in_place_and_near_the_averages(scale):
    """A ramp tells where a pixel comes from: a shift of a tenth of a px would show."""
    asked = Pair(scale, scale), Size(200, 150)
    need = covering(*asked)
    x, y = np.meshgrid(np.linspace(0, 250, need.w), np.linspace(0, 250, need.h))
    rgb = np.stack([x, y, x], axis=-1).round().astype(np.uint8)
    out = reduce_picture(rgb, *asked, fast=True)
    assert np.abs(out - brute_force(rgb, *asked)).max() <= 1.0


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("fast", [True, False])
def test_a_flat_picture_stays_as_it_is(value, fast):
    rgb = np.full((50, 50, 3), value, np.uint8)
    assert (reduce_picture(rgb, Pair(1.37, 3.01), Size(30, 15), fast=fast) == value).all()


def test_a_factor_next_to_one_gives_the_size_that_was_asked():
    asked = Pair(1.00005, 1.00005), Size(224, 200)
    rgb = noise(*asked)
    assert rgb.shape == (201, 225, 3)
    assert np.array_equal(reduce_picture(rgb, *asked, fast=True), rgb[:200, :224])


def test_scale_one_copies():
    rgb = noise(Pair(1, 1), Size(30, 20))
    assert np.array_equal(reduce_picture(rgb, Pair(1.0, 1.0), Size(30, 20), fast=True), rgb)


def test_a_footprint_outside_the_picture_is_our_mistake():
    with pytest.raises(AssertionError):
        reduce_picture(np.zeros((50, 50, 3), np.uint8), Pair(2.0, 2.0), Size(26, 10), fast=False)


@pytest.mark.data
@pytest.mark.parametrize("scale", [1.25, 1.49, 1.978, 2.0, 3.7])
def test_decibels_on_real_tissue(shared_data, scale):
    import tifffile

    with tifffile.TiffFile(shared_data / "slides/aperio/TCGA-CR-7395-01A-01-TS1.svs") as tif:
        rgb = tif.pages.first.asarray()[600:1600, 400:1400]
    asked = Pair(scale, scale), Size(224, 224)
    truth = averages(rgb, *asked)
    assert psnr(reduce_picture(rgb, *asked, fast=False), truth) >= 58
    assert psnr(reduce_picture(rgb, *asked, fast=True), truth) >= 52


def averages(rgb: np.ndarray, scale: Pair, size: Size) -> np.ndarray:
    """The integrals over the footprints, by matrices: exact and quick enough for a patch."""

    def weights(factor: float, count: int, length: int) -> np.ndarray:
        edges = np.arange(count + 1) * factor
        px = np.arange(length)
        covered = np.minimum(px + 1, edges[1:, None]) - np.maximum(px, edges[:-1, None])
        return covered.clip(0, 1) / factor

    rows = weights(scale.y, size.h, len(rgb))
    cols = weights(scale.x, size.w, rgb.shape[1])
    return np.einsum("ij,jkc,lk->ilc", rows, rgb.astype(float), cols, optimize=True)


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return 10 * math.log10(255**2 / np.mean((image - truth) ** 2))
