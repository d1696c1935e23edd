"""A few square windows of the grid, with all the tissue in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_hr.geometry import BoolArray, Int64Array
from wsi_hr.sampler_config import WindowsConfig
from wsi_hr.samplers.draw import top_up
from wsi_hr.samplers.glance import Glance

_TRIES = 8  # sets of centres drawn; where one leaves no room for the windows, another does
_CLOSE = 0.1  # of the patches wanted: near enough


@dataclass(frozen=True)
class Windows:
    """Squares of ``edge`` x ``edge`` cells around ``centres`` i64[k, 2] (row, col).

    A window reaches from ``centre - edge // 2``, that many cells, beyond the grid too.
    """

    centres: Int64Array
    edge: int

    def inside(self, cells_N2: Int64Array) -> BoolArray:
        """bool[N], True for the cells that lie in a window."""
        offset = cells_N2[:, None] - (self.centres - self.edge // 2)[None]
        in_each_NK = np.asarray(((offset >= 0) & (offset < self.edge)).all(axis=2))
        return np.asarray(in_each_NK.any(axis=1))


class WindowSampler:
    """Keeps the patches in windows that do not overlap, about ``keep`` of all.

    Source: Win-Win (Leroy et al., ICLR 2024): two windows beat one, and beat random tokens.
    """

    def __init__(self, config: WindowsConfig) -> None:
        self.config = config

    def select(self, glance: Glance, at_least: int, rng: np.random.Generator) -> Int64Array:
        """See :class:`wsi_hr.samplers.selector.PatchSelector`."""
        windows = draw_windows(
            glance.grid.cells.astype(np.int64), glance.grid.shape, self.config, rng
        )
        if windows is None:
            kept = np.arange(len(glance), dtype=np.int64)
        else:
            kept = np.flatnonzero(windows.inside(glance.grid.cells.astype(np.int64)))
        return top_up(kept, len(glance), at_least, rng)


def draw_windows(
    cells_N2: Int64Array, shape: tuple[int, int], config: WindowsConfig, rng: np.random.Generator
) -> Windows | None:
    """Draw windows that hold about ``keep`` of the patches, centres on patches.

    The first centre is any patch, the next one any at a Chebyshev distance of at least the edge
    from those before, so that no two windows share a cell; the edge is found by bisection. What
    lies inside is read off an integral image. Of a few such draws the first that is within a tenth
    of what is wanted stands, or else the best. Where tissue is small or compact, windows that hold
    so much do not fit, and fewer patches are kept.

    Args:
        cells_N2: i64[N, 2] (row, col) of the patches.
        shape: (R, Q) of the grid.
        config: how much, in how many windows.
        rng: all randomness.

    Returns:
        The windows; None where there are fewer patches than windows, or all are wanted.
    """
    num, wanted = len(cells_N2), config.keep * len(cells_N2)
    if num <= config.num_windows or config.keep == 1:
        return None
    integral = _integral(cells_N2, shape)
    best, least = None, np.inf
    for _ in range(_TRIES):
        order = cells_N2[rng.permutation(num)]
        windows = _fit(order, integral, config.num_windows, wanted)
        off = abs(_count(integral, windows) - wanted)
        if off < least:
            best, least = windows, off
        if off <= _CLOSE * wanted:
            break
    return best


def _fit(order_N2: Int64Array, integral: Int64Array, num_windows: int, wanted: float) -> Windows:
    """The edge whose windows come nearest to ``wanted``, centres taken in the order given."""
    low = _place(order_N2, 1, num_windows)
    assert low is not None, "there are more patches than windows"
    high = max(integral.shape)  # too much, or no room
    upper = None
    while high - low.edge > 1:
        middle = _place(order_N2, (low.edge + high) // 2, num_windows)
        if middle is not None and _count(integral, middle) <= wanted:
            low = middle
        else:
            upper, high = middle, (low.edge + high) // 2
    if upper is None:
        return low
    return min(low, upper, key=lambda windows: abs(_count(integral, windows) - wanted))


def _place(order_N2: Int64Array, edge: int, num_windows: int) -> Windows | None:
    """Take as centres the first cells of the order that keep their distance; None: too few do."""
    free = np.ones(len(order_N2), np.bool_)
    centres = []
    for _ in range(num_windows):
        first = int(free.argmax())
        if not free[first]:
            return None
        centres.append(order_N2[first])
        free &= np.abs(order_N2 - order_N2[first]).max(axis=1) >= edge
    return Windows(np.array(centres), edge)


def _integral(cells_N2: Int64Array, shape: tuple[int, int]) -> Int64Array:
    """i64[R + 1, Q + 1]: how many patches lie above and left of each corner of the grid."""
    counts = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)
    np.add.at(counts, (cells_N2[:, 0] + 1, cells_N2[:, 1] + 1), 1)
    return counts.cumsum(axis=0).cumsum(axis=1)


def _count(integral: Int64Array, windows: Windows) -> int:
    """Patches inside; no two windows overlap."""
    limit = np.array(integral.shape) - 1
    first = windows.centres - windows.edge // 2
    top, left = np.clip(first, 0, limit).T
    bottom, right = np.clip(first + windows.edge, 0, limit).T
    parts = integral[bottom, right] - integral[top, right] - integral[bottom, left]
    return int((parts + integral[top, left]).sum())
