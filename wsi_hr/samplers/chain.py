"""Samplers applied one after the other, each to what the one before kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsi_hr.geometry import Int64Array
from wsi_hr.samplers.glance import Glance
from wsi_hr.samplers.selector import PatchSelector


class Chain:
    """Several samplers as one; ``Chain([])`` keeps everything."""

    def __init__(self, samplers: Sequence[PatchSelector]) -> None:
        self.samplers = tuple(samplers)

    def select(self, glance: Glance, at_least: int, rng: np.random.Generator) -> Int64Array:
        """See :class:`wsi_hr.samplers.selector.PatchSelector`."""
        kept = np.arange(len(glance), dtype=np.int64)
        for sampler in self.samplers:
            among = glance if len(kept) == len(glance) else glance.take(kept)
            kept = kept[sampler.select(among, at_least, rng)]
        return kept
