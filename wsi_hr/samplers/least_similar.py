"""What looks least like the rest of the slide."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsi_hr.geometry import Float32Array, Int64Array
from wsi_hr.sampler_config import LeastSimilarConfig
from wsi_hr.samplers.draw import gumbel_top, num_kept
from wsi_hr.samplers.glance import Glance


class LeastSimilar:
    """Keeps patches by how little their colours resemble those of the others.

    Pen, folds and bubbles resemble tissue least of all, so patches with more artifact than the
    config allows neither count nor compete; they are drawn only where the others are too few.
    """

    def __init__(self, config: LeastSimilarConfig) -> None:
        self.config = config

    def select(self, glance: Glance, at_least: int, rng: np.random.Generator) -> Int64Array:
        """See :class:`wsi_hr.samplers.selector.PatchSelector`."""
        clean = glance.grid.artifact <= self.config.max_artifact
        count = num_kept(self.config.keep, len(glance), at_least)
        likeness = mean_similarity(glance.features[clean])
        if self.config.temperature > 0:
            order = gumbel_top(-likeness / self.config.temperature, count, rng)
        else:
            order = np.argsort(likeness, kind="stable")[:count]
        kept = np.flatnonzero(clean)[order]
        spoilt = rng.permutation(np.flatnonzero(~clean))
        return np.sort(np.concatenate([kept, spoilt[: count - len(kept)]])).astype(np.int64)


def mean_similarity(features_NF: Float32Array) -> npt.NDArray[np.float64]:
    """Mean cosine [N] of each patch to the N - 1 others: (e_i . sum e - 1) / (N - 1), in O(N F).

    Rows of ``features_NF`` have length 1. A patch without others has 0.
    """
    num = len(features_NF)
    if num < 2:
        return np.zeros(num)
    features = features_NF.astype(np.float64)
    own = (features**2).sum(axis=1)  # 1, but for rounding, and 0 for a patch without colour
    return (features @ features.sum(axis=0) - own) / (num - 1)
