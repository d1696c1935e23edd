from __future__ import annotations

import numpy as np
import pytest
from glances import glance, grid_at, patchy, unit

from wsi_hr.runtime import rng_for
from wsi_hr.sampler_config import LeastSimilarConfig
from wsi_hr.samplers.least_similar import LeastSimilar, mean_similarity


@pytest.mark.parametrize("num", [1, 2, 3, 200])
def test_the_formula_is_the_mean_of_the_gram_matrix(num: int) -> None:
    features = unit(np.random.default_rng(num).normal(size=(num, 6)))
    gram = features.astype(np.float64) @ features.T.astype(np.float64)
    others = (gram.sum(axis=1) - np.diag(gram)) / max(1, num - 1)
    assert mean_similarity(features) == pytest.approx(others, abs=1e-12)


def odd_ones(num: int = 100, num_odd: int = 5) -> np.ndarray:
    """Features that are nearly alike, but for the first few."""
    rng = np.random.default_rng(0)
    features = np.array([9.0, 6, 8, 1, 1, 1]) + rng.normal(size=(num, 6)) * 0.1
    features[:num_odd] = np.array([3.0, 6, 3, 1, 1, 1]) + rng.normal(size=(num_odd, 6)) * 0.1
    return unit(features)


def test_the_lowest_are_kept() -> None:
    grid = patchy(100)
    grid.artifact[:] = 0
    sampler = LeastSimilar(LeastSimilarConfig(temperature=0, keep=0.05))
    kept = sampler.select(glance(grid, features=odd_ones()), 1, rng_for(0))
    assert kept.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("temperature", [0, 0.02])
def test_artifacts_are_taken_last_and_do_not_count(temperature: float) -> None:
    """Pen is what resembles tissue least; it must neither be kept nor make tissue look odd."""
    artifact = np.zeros(100)
    artifact[:5] = 0.3
    grid = grid_at(np.argwhere(np.ones((10, 10))), (10, 10), artifact)
    for seed in range(20):
        sampler = LeastSimilar(LeastSimilarConfig(temperature=temperature, keep=0.9))
        kept = sampler.select(glance(grid, features=odd_ones()), 1, rng_for(seed))
        assert len(kept) == 90
        assert kept.min() >= 5
        needed = sampler.select(glance(grid, features=odd_ones()), 98, rng_for(seed))
        assert len(needed) == 98
        assert set(range(5, 100)) <= set(needed.tolist())


def test_a_higher_temperature_draws_more_evenly() -> None:
    grid = patchy(100)
    grid.artifact[:] = 0
    odd_kept = []
    for temperature in (0.005, 0.05, 100):
        sampler = LeastSimilar(LeastSimilarConfig(temperature=temperature, keep=0.2))
        kept = [
            np.sum(sampler.select(glance(grid, features=odd_ones()), 1, rng_for(seed)) < 5)
            for seed in range(100)
        ]
        odd_kept.append(np.mean(kept))
    assert odd_kept[0] > odd_kept[1] > odd_kept[2]
    assert odd_kept[0] == pytest.approx(5, abs=0.1)
    assert odd_kept[2] == pytest.approx(1, abs=0.4)  # a fifth of five
