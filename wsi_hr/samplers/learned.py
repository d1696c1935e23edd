"""What a small network expects the model to look at."""

from __future__ import annotations

import numpy as np

from wsi_hr.geometry import Int64Array
from wsi_hr.sampler_config import LearnedConfig
from wsi_hr.samplers.draw import num_kept
from wsi_hr.samplers.glance import Glance


class Learned:
    """Keeps the patches with the highest scores, and some of the others at random.

    Without the random ones a patch that was once scored low would never be looked at again, and
    the network would only hear its own opinion. Where there are no scores yet, all are random.
    """

    def __init__(self, config: LearnedConfig) -> None:
        self.config = config

    def select(self, glance: Glance, at_least: int, rng: np.random.Generator) -> Int64Array:
        """See :class:`wsi_hr.samplers.selector.PatchSelector`."""
        num, scores_N = len(glance), glance.scores
        count = num_kept(self.config.keep, num, at_least)
        if scores_N is None:
            return np.sort(rng.choice(num, count, replace=False)).astype(np.int64)
        order = np.argsort(-scores_N, kind="stable")
        num_random = round(self.config.random * count)
        best, rest = order[: count - num_random], order[count - num_random :]
        drawn = rng.choice(rest, num_random, replace=False)
        return np.sort(np.concatenate([best, drawn])).astype(np.int64)
