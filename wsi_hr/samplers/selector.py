"""What every sampler of patches promises."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from wsi_hr.geometry import Int64Array
from wsi_hr.samplers.glance import Glance


class PatchSelector(Protocol):
    """Chooses the patches of a slide that an epoch sees."""

    def select(self, glance: Glance, at_least: int, rng: np.random.Generator) -> Int64Array:
        """Choose patches.

        Args:
            glance: the N patches there are.
            at_least: how many the method needs; fewer come only where N is smaller.
            rng: all randomness; an equal generator gives an equal choice.

        Returns:
            i64[K] positions in ``glance``, sorted, each once.
        """
        ...
