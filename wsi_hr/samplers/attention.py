"""Where attention was, or where a vision transformer would look."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_hr.geometry import Float32Array, Int64Array
from wsi_hr.sampler_config import AttentionConfig
from wsi_hr.samplers.draw import gumbel_top, num_kept
from wsi_hr.samplers.glance import Glance

FloatArray = npt.NDArray[np.float64]


class Attention:
    """Draws patches without replacement, in proportion to their share of the attention.

    Where there is no attention yet, as in the first epoch, all patches are equally likely.
    """

    def __init__(self, config: AttentionConfig) -> None:
        self.config = config

    def select(self, glance: Glance, at_least: int, rng: np.random.Generator) -> Int64Array:
        """See :class:`wsi_hr.samplers.selector.PatchSelector`."""
        scan = self.config.source == "scan"
        logits_JN = glance.attention if scan else glance.thumbnail_attention
        if logits_JN is None:
            weights = np.ones(len(glance))
        else:
            weights = attention_weights(logits_JN, self.config.aggregate)
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights)
        count = num_kept(self.config.keep, len(glance), at_least)
        return np.sort(gumbel_top(log_weights, count, rng))


def attention_weights(
    logits_JN: Float32Array, aggregate: Literal["entropy", "mean", "sum"]
) -> FloatArray:
    """Weight [N] of each patch, from the attention a(j, n) of each row: a softmax over patches.

    ``mean`` and ``sum`` over rows j; ``entropy``: the patch's part of the rows' entropies, the sum
    over j of -a(j, n) log a(j, n), which grows more slowly than attention itself: a row that looks
    at one patch alone does not decide the draw.

    Patches that were not looked at (NaN) get the mean weight of the others, so that they come up
    again; if none was looked at, all weigh 1.
    """
    seen = ~np.isnan(logits_JN).any(axis=0)
    weights = np.ones(logits_JN.shape[1])
    if not seen.any():
        return weights
    logits = logits_JN[:, seen].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    attention = np.exp(logits)
    attention /= attention.sum(axis=1, keepdims=True)
    if aggregate == "entropy":
        logs = np.log(attention, out=np.zeros_like(attention), where=attention > 0)
        found = -(attention * logs).sum(axis=0)
    elif aggregate == "mean":
        found = attention.mean(axis=0)
    else:
        found = attention.sum(axis=0)
    weights[seen] = found
    weights[~seen] = found.mean()
    return weights
