"""Attention becomes weights as computed by hand, and weights become draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from glances import glance, patchy

from wsi_hr.runtime import rng_for
from wsi_hr.sampler_config import AttentionConfig
from wsi_hr.samplers.attention import Attention, attention_weights

# two rows over four patches: softmax (1/2, 1/4, 1/8, 1/8) and (1/4, 1/4, 1/4, 1/4)
LOGITS = np.log(np.array([[4, 2, 1, 1], [3, 3, 3, 3]], dtype=np.float32))
BITS = math.log(2)


def test_entropy_by_hand() -> None:
    quarter = 0.25 * 2 * BITS
    expected = [0.5 * BITS + quarter, quarter + quarter, *[0.125 * 3 * BITS + quarter] * 2]
    assert attention_weights(LOGITS, "entropy") == pytest.approx(expected, rel=1e-6)
    # they are parts of the rows' entropies: 1.75 and 2 bits
    assert attention_weights(LOGITS, "entropy").sum() == pytest.approx(3.75 * BITS, rel=1e-6)


def test_mean_and_sum_by_hand() -> None:
    assert attention_weights(LOGITS, "mean") == pytest.approx([3 / 8, 1 / 4, 3 / 16, 3 / 16])
    assert attention_weights(LOGITS, "sum") == pytest.approx([3 / 4, 1 / 2, 3 / 8, 3 / 8])


def test_a_patch_without_attention_has_no_entropy() -> None:
    logits = np.array([[0, 0, -np.inf]], np.float32)
    for aggregate in ("entropy", "mean", "sum"):
        weights = attention_weights(logits, aggregate)
        assert weights[0] == weights[1] > 0 == weights[2]


@pytest.mark.parametrize("aggregate", ["entropy", "mean", "sum"])
def test_what_was_not_looked_at_weighs_as_the_others_on_average(aggregate) -> None:
    logits = np.full((2, 6), np.nan, np.float32)
    logits[:, 1:5] = LOGITS
    weights = attention_weights(logits, aggregate)
    known = attention_weights(LOGITS, aggregate)
    assert weights[1:5] == pytest.approx(known)
    assert weights[[0, 5]] == pytest.approx([known.mean()] * 2)
    nothing = attention_weights(np.full((2, 6), np.nan, np.float32), aggregate)
    assert nothing.tolist() == [1] * 6


def test_mean_and_sum_draw_the_same() -> None:
    grid = patchy(80)
    for seed in range(5):
        kept = [
            Attention(AttentionConfig(aggregate=aggregate)).select(glance(grid), 1, rng_for(seed))
            for aggregate in ("mean", "sum")
        ]
        assert np.array_equal(*kept)


def test_draws_follow_the_attention() -> None:
    """One of four at a time: how often each comes is its share."""
    grid, counts = patchy(4), np.zeros(4)
    sampler = Attention(AttentionConfig(keep=0.25, aggregate="mean"))
    for seed in range(4000):
        counts[sampler.select(glance(grid, attention=LOGITS), 1, rng_for(seed))] += 1
    shares = np.array([6, 4, 3, 3]) / 16
    assert np.abs(counts - 4000 * shares).max() < 5 * np.sqrt(4000 * 0.24)


def test_the_first_epoch_draws_evenly() -> None:
    grid, counts = patchy(10), np.zeros(10)
    sampler = Attention(AttentionConfig(keep=0.5))
    for seed in range(2000):
        counts[sampler.select(glance(grid, attention=None), 1, rng_for(seed))] += 1
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(2000 * 0.25)
