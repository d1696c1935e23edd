"""Every other cell, the others in the next epoch."""

from __future__ import annotations

import numpy as np

from wsi_hr.geometry import Int64Array
from wsi_hr.runtime import rng_for
from wsi_hr.sampler_config import CheckerboardConfig
from wsi_hr.samplers.draw import top_up
from wsi_hr.samplers.glance import Glance


class Checkerboard:
    """Keeps the cells where row + column + epoch + a number of the slide's own is even.

    Two epochs see everything. The slide's number is 0 or 1 by its name, so that an epoch does not
    see the same colour of every board.
    """

    def __init__(self, config: CheckerboardConfig) -> None:
        self.config = config

    def select(self, glance: Glance, at_least: int, rng: np.random.Generator) -> Int64Array:
        """See :class:`wsi_hr.samplers.selector.PatchSelector`."""
        own = int(rng_for("checkerboard", glance.slide_id).integers(2))
        colour = glance.grid.cells.sum(axis=1, dtype=np.int64) + glance.epoch + own
        return top_up(np.flatnonzero(colour % 2 == 0), len(glance), at_least, rng)
