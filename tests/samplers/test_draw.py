"""Drawing without replacement has the distribution it should have."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.runtime import rng_for
from wsi_hr.samplers.draw import gumbel_top, num_kept, top_up


def test_gumbel_top_draws_as_a_multinomial_without_replacement() -> None:
    """All 60 ordered outcomes of 3 out of 5, against their probabilities: chi-square."""
    weights, draws, rng = np.array([8.0, 4.0, 2.0, 1.0, 1.0]), 30_000, rng_for("gumbel")
    outcomes = {order: 0 for order in itertools.permutations(range(5), 3)}
    for _ in range(draws):
        outcomes[tuple(gumbel_top(np.log(weights), 3, rng).tolist())] += 1
    chi2 = 0.0
    for order, count in outcomes.items():
        left, probability = weights.sum(), 1.0
        for place in order:
            probability *= weights[place] / left
            left -= weights[place]
        chi2 += (count - draws * probability) ** 2 / (draws * probability)
    # 59 degrees of freedom: mean 59, deviation sqrt(118) = 10.9
    assert chi2 < 59 + 5 * 10.9


def test_what_has_no_weight_comes_last_and_in_random_order() -> None:
    weights = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf])
    orders = {tuple(gumbel_top(weights, 5, rng_for(seed)).tolist()) for seed in range(200)}
    assert all(set(order[:2]) == {1, 3} for order in orders)
    assert len(orders) == 2 * 6


@given(num=st.integers(0, 300), keep=st.floats(0, 1), at_least=st.integers(0, 400))
def test_as_many_as_promised(num: int, keep: float, at_least: int) -> None:
    assert num_kept(keep, num, at_least) == max(int(num * keep), min(num, at_least))


@given(num=st.integers(1, 60), at_least=st.integers(0, 80), seed=st.integers(0, 99))
def test_topping_up_adds_what_is_missing_and_takes_nothing_away(
    num: int, at_least: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    kept = rng.permutation(num)[: rng.integers(0, num + 1)]
    full = top_up(kept, num, at_least, rng)
    assert set(kept.tolist()) <= set(full.tolist())
    assert len(full) == max(len(kept), min(num, at_least))
    assert (np.diff(full) > 0).all()
