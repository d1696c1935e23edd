"""Samplers by the name that a config gives them."""

from __future__ import annotations

from collections.abc import Callable

from wsi_hr.sampler_config import RandomDropConfig
from wsi_hr.samplers.random_drop import RandomDrop
from wsi_hr.samplers.selector import PatchSelector

SAMPLERS: dict[str, Callable[..., PatchSelector]] = {"random_drop": RandomDrop}


def build_sampler(config: RandomDropConfig) -> PatchSelector:
    """Make the sampler a config names; its other settings are the sampler's arguments."""
    return SAMPLERS[config.name](**config.model_dump(exclude={"name"}))
