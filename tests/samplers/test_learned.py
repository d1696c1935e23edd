from __future__ import annotations

import numpy as np
from glances import glance, patchy

from wsi_hr.runtime import rng_for
from wsi_hr.sampler_config import LearnedConfig
from wsi_hr.samplers.learned import Learned


def test_the_top_is_kept_and_some_of_the_rest() -> None:
    scores = np.random.default_rng(0).permutation(100).astype(np.float32)
    sampler = Learned(LearnedConfig(keep=0.4, random=0.25))
    counts = np.zeros(100)
    for seed in range(300):
        kept = sampler.select(glance(patchy(100), scores=scores), 1, rng_for(seed))
        assert len(kept) == 40
        counts[kept] += 1
    order = np.argsort(-scores)
    assert (counts[order[:30]] == 300).all()
    # 10 of the other 70, each as likely: binomial, mean 42.9, sigma 6.1
    assert np.abs(counts[order[30:]] - 300 / 7).max() < 5 * 6.1


def test_without_random_ones_it_is_the_top() -> None:
    scores = np.arange(50, dtype=np.float32)
    sampler = Learned(LearnedConfig(keep=0.2, random=0))
    kept = sampler.select(glance(patchy(50), scores=scores), 1, rng_for(0))
    assert kept.tolist() == list(range(40, 50))


def test_all_are_random_before_anything_is_learned() -> None:
    sampler, counts = Learned(LearnedConfig(keep=0.5)), np.zeros(20)
    for seed in range(1000):
        counts[sampler.select(glance(patchy(20), scores=None), 1, rng_for(seed))] += 1
    assert np.abs(counts - 500).max() < 5 * np.sqrt(250)
