"""Samplers by the settings that name them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wsi_hr.sampler_config import (
    AttentionConfig,
    CheckerboardConfig,
    LearnedConfig,
    LeastSimilarConfig,
    RandomDropConfig,
    SamplerConfig,
    SamplerSettings,
    WindowsConfig,
)
from wsi_hr.samplers.attention import Attention
from wsi_hr.samplers.chain import Chain
from wsi_hr.samplers.checkerboard import Checkerboard
from wsi_hr.samplers.learned import Learned
from wsi_hr.samplers.least_similar import LeastSimilar
from wsi_hr.samplers.random_drop import RandomDrop
from wsi_hr.samplers.selector import PatchSelector
from wsi_hr.samplers.windows import WindowSampler

SAMPLERS: dict[type[SamplerSettings], Callable[..., PatchSelector]] = {
    RandomDropConfig: RandomDrop,
    WindowsConfig: WindowSampler,
    CheckerboardConfig: Checkerboard,
    LeastSimilarConfig: LeastSimilar,
    AttentionConfig: Attention,
    LearnedConfig: Learned,
}


def build_sampler(configs: Sequence[SamplerConfig]) -> PatchSelector:
    """Make the samplers a config names, applied one after the other."""
    return Chain([SAMPLERS[type(config)](config) for config in configs])
