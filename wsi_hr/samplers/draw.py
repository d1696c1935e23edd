"""How samplers draw: without replacement, reproducibly, and never fewer than the method needs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsi_hr.geometry import Int64Array


def num_kept(keep: float, num: int, at_least: int) -> int:
    """``int(keep * num)`` of ``num`` patches, but ``at_least`` where there are as many."""
    return max(int(keep * num), min(num, at_least))


def top_up(kept: Int64Array, num: int, at_least: int, rng: np.random.Generator) -> Int64Array:
    """Sort ``kept``, and add random others of ``num`` patches until there are ``at_least``."""
    missing = min(num, at_least) - len(kept)
    if missing > 0:
        others = np.setdiff1d(np.arange(num), kept)
        kept = np.concatenate([kept, rng.choice(others, missing, replace=False)])
    return np.sort(kept).astype(np.int64)


def gumbel_top(
    log_weights: npt.NDArray[np.floating], count: int, rng: np.random.Generator
) -> Int64Array:
    """Draw ``count`` places of ``log_weights`` [N] one by one, without replacement.

    A place is drawn with a probability in proportion to the exponential of its weight among those
    left: what a multinomial draw without replacement does, in one sort. Places of weight -inf come
    last, in random order. Source: Kool, van Hoof, Welling, ICML 2019 (Gumbel-top-k).

    Returns:
        i64[count], in the order drawn.
    """
    noise = rng.gumbel(size=len(log_weights))
    keys = np.asarray(log_weights, np.float64) + noise
    order = np.lexsort((-noise, -keys))  # equal keys, such as -inf, by noise
    return order[:count].astype(np.int64)
