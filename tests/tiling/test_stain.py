"""Stains whose colours are known are found, and slides of one tissue come to look alike."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
from two_stains import HE_32, OTHER_32, concentrations, stained, unit

from wsi_hr.tiling.stain import (
    MIN_PX,
    REFERENCE_MAX_2,
    REFERENCE_MEAN_3,
    REFERENCE_STAINS_32,
    REFERENCE_STD_3,
    STAIN_METHODS,
    NotEstimableError,
    fit_macenko,
    fit_reinhard,
)

TISSUE = concentrations(256)
GLASS = np.full((20_000, 3), 240, np.uint8)


def pixels(picture) -> np.ndarray:
    return picture.reshape(-1, 3)


def degrees(a, b) -> float:
    return float(np.degrees(np.arccos(np.clip(unit(a) @ unit(b), -1, 1))))


@pytest.mark.parametrize("vectors", [HE_32, OTHER_32])
def test_macenko_finds_the_stains_the_tissue_was_made_of(vectors):
    picture = stained(TISSUE, vectors)
    facts = fit_macenko(np.concatenate([pixels(picture), GLASS])).facts
    for found, true in zip(facts["stains"], unit(vectors).T, strict=True):
        assert degrees(np.array(found), true) < 1.0
    strongest = np.percentile(TISSUE.reshape(-1, 2), 99, axis=0)
    assert facts["max_concentrations"] == pytest.approx(strongest, rel=0.03)
    assert facts["num_px"] <= 256 * 256 < facts["num_px"] + len(GLASS)


def test_macenko_gives_the_reference_stains_in_the_tissues_own_proportions():
    """The map is checked against what the same tissue looks like under the reference stains."""
    strongest = np.percentile(TISSUE.reshape(-1, 2), 99, axis=0)
    wanted = stained(TISSUE * (REFERENCE_MAX_2 / strongest), REFERENCE_STAINS_32)
    picture = stained(TISSUE, HE_32)
    made = fit_macenko(pixels(picture)).apply(picture)
    difference = np.abs(made.astype(int) - wanted.astype(int))
    assert difference.mean() < 2.5
    assert np.percentile(difference, 99) <= 8


def test_macenko_leaves_the_reference_and_glass_as_they_are():
    strongest = np.percentile(TISSUE.reshape(-1, 2), 99, axis=0)
    picture = stained(TISSUE * (REFERENCE_MAX_2 / strongest), REFERENCE_STAINS_32)
    made = fit_macenko(pixels(picture)).apply(picture)
    assert np.abs(made.astype(int) - picture.astype(int)).mean() < 2
    glass = np.full((8, 8, 3), 240, np.uint8)
    assert np.array_equal(fit_macenko(pixels(stained(TISSUE, HE_32))).apply(glass), glass)


def from_lab(lab_N3) -> np.ndarray:
    """Pixels u8[1, N, 3] of coordinates l alpha beta, straight from the paper's equations."""
    lightness, a, b = (lab_N3 / np.sqrt([3, 6, 2])).T
    lms = np.exp(np.stack([lightness + a + b, lightness + a - b, lightness - 2 * a], axis=-1))
    to_lms = [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
    return np.rint(np.linalg.solve(to_lms, lms.T).T).clip(0, 255).astype(np.uint8)[None]


def test_reinhard_undoes_a_known_change_of_mean_and_spread():
    rng = np.random.default_rng(0)
    z = rng.uniform(-(3**0.5), 3**0.5, (40_000, 3))
    z[:, 0] = np.where(np.arange(40_000) % 5 == 0, -2.0, 0.5)  # bright tissue, dark nuclei
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    lab = REFERENCE_MEAN_3 + REFERENCE_STD_3 * z
    gain, shift = np.array([0.8, 0.7, 1.2]), np.array([1.2, 0.05, -0.02])
    changed = from_lab(lab * gain + shift)
    found = fit_reinhard(pixels(changed))
    assert found.facts["mean"] == pytest.approx(REFERENCE_MEAN_3 * gain + shift, abs=0.01)
    assert found.facts["std"] == pytest.approx(REFERENCE_STD_3 * gain, rel=0.05)
    difference = np.abs(found.apply(changed).astype(int) - from_lab(lab).astype(int))
    assert difference.max() <= 3


@pytest.mark.parametrize("method", sorted(STAIN_METHODS))
def test_two_slides_of_one_tissue_under_different_stains_come_together(method):
    one, other = stained(TISSUE * 1.4, HE_32), stained(TISSUE * 1.7, OTHER_32, white=225)
    fit = STAIN_METHODS[method]
    made = [fit(pixels(picture)).apply(picture) for picture in (one, other)]
    before = np.abs(pixels(one).mean(axis=0) - pixels(other).mean(axis=0)).max()
    after = np.abs(pixels(made[0]).mean(axis=0) - pixels(made[1]).mean(axis=0)).max()
    assert after < 4 < 15 < before


def test_macenko_brings_the_same_tissue_together_pixel_by_pixel():
    """Also where one lab has more of the one stain and less of the other."""
    one, other = stained(TISSUE, HE_32), stained(TISSUE * (1.3, 0.8), OTHER_32)
    made = [fit_macenko(pixels(picture)).apply(picture) for picture in (one, other)]
    assert np.abs(made[0].astype(int) - made[1]).mean() < 2
    assert np.abs(one.astype(int) - other).mean() > 10


@pytest.mark.parametrize("method", sorted(STAIN_METHODS))
def test_too_little_tissue_is_said(method):
    few = np.full((MIN_PX - 1, 3), (160, 70, 140), np.uint8)
    with pytest.raises(NotEstimableError, match=f"too little stained tissue .*{MIN_PX - 1} of"):
        STAIN_METHODS[method](np.concatenate([few, GLASS]))
    with pytest.raises(NotEstimableError, match="too little stained tissue .*0 of"):
        STAIN_METHODS[method](GLASS)


@pytest.mark.parametrize("stain", [0, 1])
def test_one_stain_is_not_taken_for_two(stain):
    alone = TISSUE.sum(axis=-1)[..., None] * np.eye(2)[stain]
    noise = np.random.default_rng(0).normal(0, 2.5, (256, 256, 3))
    picture = np.clip(stained(alone, HE_32) + noise, 0, 255).astype(np.uint8)
    with pytest.raises(NotEstimableError, match="one stain, not two"):
        fit_macenko(pixels(picture))


def test_one_colour_has_no_spread_to_scale():
    with pytest.raises(NotEstimableError, match="all of one colour"):
        fit_reinhard(np.full((MIN_PX, 3), (180, 90, 150), np.uint8))


@pytest.mark.parametrize("method", sorted(STAIN_METHODS))
def test_the_darkest_and_the_brightest_pixels_stay_pixels(method):
    apply = STAIN_METHODS[method](pixels(stained(TISSUE, HE_32))).apply
    extremes = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    made = apply(extremes.astype(np.uint8))
    assert made.dtype == np.uint8
    assert made.shape == (1, 5, 3)
    assert made[0, 0].max() < 60
    assert made[0, 1].min() > 200


@pytest.mark.data
def test_real_tissue_has_two_stains(shared_data):
    slide = openslide.OpenSlide(shared_data / "slides/aperio/CMU-1-Small-Region.svs")
    region = np.array(slide.read_region((0, 0), 0, slide.dimensions))[::4, ::4, :3]
    slide.close()
    blue, pink = (np.array(vector) for vector in fit_macenko(pixels(region)).facts["stains"])
    assert degrees(blue, np.array([0.65, 0.70, 0.29])) < 20
    assert degrees(pink, np.array([0.21, 0.92, 0.33])) < 20
