"""Leave out a random part of the patches."""

from __future__ import annotations

import numpy as np

from wsi_hr.geometry import Int64Array
from wsi_hr.sampler_config import RandomDropConfig
from wsi_hr.samplers.draw import num_kept
from wsi_hr.samplers.glance import Glance


class RandomDrop:
    """Keeps ``int(N * (1 - drop))`` of N patches, every set of that size equally likely."""

    def __init__(self, config: RandomDropConfig) -> None:
        self.config = config

    def select(self, glance: Glance, at_least: int, rng: np.random.Generator) -> Int64Array:
        """See :class:`wsi_hr.samplers.selector.PatchSelector`."""
        num = len(glance)
        kept = num_kept(1 - self.config.drop, num, at_least)
        return np.sort(rng.choice(num, size=kept, replace=False)).astype(np.int64)
