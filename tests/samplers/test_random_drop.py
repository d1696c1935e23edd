from __future__ import annotations

import numpy as np
import pytest
from glances import glance, patchy
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wsi_hr.runtime import rng_for
from wsi_hr.sampler_config import RandomDropConfig
from wsi_hr.samplers.random_drop import RandomDrop


@given(num=st.integers(0, 300), drop=st.floats(0, 0.999), at_least=st.integers(0, 400))
def test_as_many_as_promised(num: int, drop: float, at_least: int) -> None:
    seen = glance(patchy(num))
    kept = RandomDrop(RandomDropConfig(drop=drop)).select(seen, at_least, rng_for("test"))
    assert len(kept) == max(int(num * (1 - drop)), min(num, at_least))


def test_nothing_is_dropped_when_nothing_shall_be() -> None:
    kept = RandomDrop(RandomDropConfig(drop=0)).select(glance(patchy(50)), 0, rng_for(1))
    assert kept.tolist() == list(range(50))


def test_every_patch_has_the_same_chance() -> None:
    sampler, seen, counts = RandomDrop(RandomDropConfig(drop=0.3)), glance(patchy(20)), np.zeros(20)
    for epoch in range(2000):
        counts[sampler.select(seen, 1, rng_for(0, epoch, "slide"))] += 1
    # 14 of 20 are kept: binomial, sigma = sqrt(2000 * .7 * .3) = 20.5
    assert np.abs(counts - 1400).max() < 5 * 20.5


@pytest.mark.parametrize("drop", [-0.1, 1.0, 1.5, float("nan")])
def test_a_drop_that_is_no_fraction_is_refused(drop: float) -> None:
    with pytest.raises(ValidationError):
        RandomDropConfig(drop=drop)
