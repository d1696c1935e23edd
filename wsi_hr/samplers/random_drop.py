"""Leave out a random part of the patches."""

from __future__ import annotations

import numpy as np

from wsi_hr.geometry import Int64Array, PatchGrid


class RandomDrop:
    """Keeps ``int(N * (1 - drop))`` of N patches, every set of that size equally likely.

    Attributes:
        drop: fraction left out, 0 <= drop < 1.
    """

    def __init__(self, drop: float) -> None:
        if not 0 <= drop < 1:
            raise ValueError(f"drop is a fraction below 1, not {drop}")
        self.drop = drop

    def select(self, grid: PatchGrid, at_least: int, rng: np.random.Generator) -> Int64Array:
        """See :class:`wsi_hr.samplers.selector.PatchSelector`."""
        num = len(grid)
        kept = max(int(num * (1 - self.drop)), min(num, at_least))
        return np.sort(rng.choice(num, size=kept, replace=False)).astype(np.int64)
