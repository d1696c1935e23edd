"""What every sampler promises; a new one is tested as soon as it is in ``SAMPLERS``."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from glances import glance, patchy
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.runtime import rng_for
from wsi_hr.sampler_config import (
    SAMPLER_CONFIGS,
    AttentionConfig,
    CheckerboardConfig,
    LearnedConfig,
    LeastSimilarConfig,
    RandomDropConfig,
    SamplerConfig,
    WindowsConfig,
)
from wsi_hr.samplers import SAMPLERS, build_sampler

CONFIGS = {
    "random_drop": [RandomDropConfig(drop=0.4)],
    "windows": [WindowsConfig()],
    "one window": [WindowsConfig(num_windows=1, keep=0.3)],
    "five windows": [WindowsConfig(num_windows=5, keep=0.7)],
    "checkerboard": [CheckerboardConfig()],
    "least_similar": [LeastSimilarConfig()],
    "lowest": [LeastSimilarConfig(temperature=0)],
    "attention": [AttentionConfig()],
    "attention entropy": [AttentionConfig(aggregate="entropy", source="thumbnail")],
    "learned": [LearnedConfig()],
    "windows, then some": [WindowsConfig(keep=0.6), RandomDropConfig(drop=0.4)],
    "all of them": [model() for model in SAMPLER_CONFIGS.values()],
}
ATTENTIONS = ("all", "some", "none")


def seen_by(kind: str, num: int) -> dict[str, np.ndarray | None]:
    """Attention of an epoch before that looked at all patches, at some, or was not there."""
    if kind == "none":
        return {"attention": None, "scores": None}
    logits = np.random.default_rng(num).normal(size=(4, num)).astype(np.float32)
    if kind == "some":
        logits[:, ::3] = np.nan
    return {"attention": logits}


def test_every_sampler_is_covered() -> None:
    assert {type(config) for configs in CONFIGS.values() for config in configs} == set(SAMPLERS)
    assert set(SAMPLER_CONFIGS.values()) == set(SAMPLERS)
    assert {model for model in get_args(get_args(SamplerConfig)[0])} == set(SAMPLERS)
    for name, model in SAMPLER_CONFIGS.items():
        assert model.model_fields["name"].default == name


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=60)
@given(
    num=st.integers(0, 200),
    at_least=st.integers(0, 250),
    seed=st.integers(0, 2**32),
    attention=st.sampled_from(ATTENTIONS),
)
def test_sorted_unique_enough_and_repeatable(
    name: str, num: int, at_least: int, seed: int, attention: str
) -> None:
    sampler, facts = build_sampler(CONFIGS[name]), seen_by(attention, num)
    kept = sampler.select(glance(patchy(num), **facts), at_least, rng_for(seed, 0, "slide"))
    assert kept.dtype == np.int64
    assert kept.ndim == 1
    assert (np.diff(kept) > 0).all()
    assert len(kept) >= min(num, at_least)
    assert not len(kept) or (kept[0] >= 0 and kept[-1] < num)
    again = sampler.select(glance(patchy(num), **facts), at_least, rng_for(seed, 0, "slide"))
    assert np.array_equal(kept, again)


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - {"lowest"}))
def test_another_epoch_sees_other_patches_and_fewer_than_there_are(name: str) -> None:
    kept = [
        build_sampler(CONFIGS[name])
        .select(glance(patchy(200), epoch=epoch), 1, rng_for(0, epoch, "slide"))
        .tolist()
        for epoch in range(2)
    ]
    assert kept[0] != kept[1]
    assert 0 < len(kept[0]) < 200


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        (RandomDropConfig(), []),
        (WindowsConfig(), []),
        (CheckerboardConfig(), []),
        (LeastSimilarConfig(), ["features"]),
        (AttentionConfig(), ["attention"]),
        (AttentionConfig(source="thumbnail"), ["thumbnail_attention"]),
        (LearnedConfig(), ["scores"]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_only_what_is_asked_for_is_computed(config, asked: list[str]) -> None:
    seen = glance(patchy(50))
    build_sampler([config]).select(seen, 1, rng_for(0))
    assert seen.sight.asked == asked  # pyright: ignore[reportAttributeAccessIssue]


def test_a_chain_gives_each_what_the_one_before_kept() -> None:
    """Windows, then the lowest of what is in them: both conditions hold, by brute force."""
    windows, lowest = WindowsConfig(keep=0.6), LeastSimilarConfig(temperature=0, keep=0.5)
    grid = patchy(150)
    grid.artifact[:] = 0
    whole = glance(grid)
    inside = build_sampler([windows]).select(whole, 1, rng_for(4))
    kept = build_sampler([windows, lowest]).select(whole, 1, rng_for(4))
    features = whole.features[inside].astype(np.float64)
    gram = features @ features.T
    likeness = (gram.sum(1) - np.diag(gram)) / (len(inside) - 1)
    expected = inside[np.argsort(likeness, kind="stable")[: len(inside) // 2]]
    assert np.array_equal(kept, np.sort(expected))


def test_a_part_of_a_glance_sees_its_part() -> None:
    whole = glance(patchy(40))
    part = whole.take(np.array([30, 2, 7])).take(np.array([2, 0]))
    at = [7, 30]
    assert np.array_equal(part.grid.cells, whole.grid.cells[at])
    assert np.array_equal(part.features, whole.features[at])
    assert np.array_equal(part.attention, whole.attention[:, at])
    assert np.array_equal(part.thumbnail_attention, whole.thumbnail_attention[:, at])
    assert np.array_equal(part.scores, whole.scores[at])
    nothing = glance(patchy(40), attention=None).take(np.array([1]))
    assert nothing.attention is None
