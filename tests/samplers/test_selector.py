"""What every sampler promises; a new one is tested as soon as it is in ``SAMPLERS``."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.config import Config
from wsi_hr.runtime import rng_for
from wsi_hr.samplers import SAMPLERS
from wsi_hr.testing.memory_patches import MemoryPatches

SETTINGS = {"random_drop": {"drop": 0.4}}


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@given(num=st.integers(0, 200), at_least=st.integers(0, 250), seed=st.integers(0, 2**32))
def test_sorted_unique_enough_and_repeatable(name: str, num: int, at_least: int, seed: int) -> None:
    sampler = SAMPLERS[name](**SETTINGS[name])
    grid = MemoryPatches(np.zeros((num, 8, 8, 3), dtype=np.uint8)).grid
    kept = sampler.select(grid, at_least, rng_for(seed, 0, "slide"))
    assert kept.dtype == np.int64
    assert (np.diff(kept) > 0).all()
    assert len(kept) >= min(num, at_least)
    assert not len(kept) or (kept[0] >= 0 and kept[-1] < num)
    assert np.array_equal(kept, sampler.select(grid, at_least, rng_for(seed, 0, "slide")))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_another_epoch_sees_other_patches(name: str) -> None:
    sampler = SAMPLERS[name](**SETTINGS[name])
    grid = MemoryPatches(np.zeros((200, 8, 8, 3), dtype=np.uint8)).grid
    kept = [sampler.select(grid, 1, rng_for(0, epoch, "slide")).tolist() for epoch in range(2)]
    assert kept[0] != kept[1]


def test_every_sampler_of_the_config_exists() -> None:
    config = Config.model_fields["sampler"].annotation
    models = get_args(config) or (config,)
    assert {model.model_fields["name"].default for model in models} == set(SAMPLERS)  # pyright: ignore
