"""A function of a pixel's colour alone, tabulated once it has been worth it.

There are 2^24 colours: computing a map for all of them costs what 256 patches of 256 px cost, and
looking colours up afterwards gives the same pixels several times as fast.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from wsi_hr.geometry import UInt8Array

PixelMap = Callable[[UInt8Array], UInt8Array]
"""Pixels u8[h, w, 3] to pixels of the same shape, each from its own colour only."""

_NUM_COLOURS = 1 << 24


class TabulatedMap:
    """A pixel map that becomes a table after as many pixels as there are colours.

    Threads may call it at the same time. The table takes 64 MB.

    Args:
        compute: the map; may be slow. Threads may call it at the same time.
    """

    def __init__(self, compute: PixelMap) -> None:
        self._compute = compute
        self._num_seen = 0
        self._table: npt.NDArray[np.uint32] | None = None
        self._lock = threading.Lock()

    def __call__(self, rgb: UInt8Array) -> UInt8Array:
        """Map pixels u8[h, w, 3]."""
        if self._table is None:
            with self._lock:
                self._num_seen += rgb.shape[0] * rgb.shape[1]
                if self._table is None and self._num_seen > _NUM_COLOURS:
                    self._table = _tabulate(self._compute)
        if self._table is None:
            return self._compute(rgb)
        # R, G, B and a zero as the bytes of one little-endian number: its place in the table.
        index = cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA).view("<u4")[..., 0] & np.uint32(0xFFFFFF)
        mapped = np.take(self._table, index)
        pixels = mapped.view(np.uint8).reshape(*index.shape, 4)
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), np.uint8)


def _tabulate(compute: PixelMap) -> npt.NDArray[np.uint32]:
    """The map of every colour, ``table[r + 256 g + 65536 b]`` with the same bytes."""
    table = np.zeros((256, 256, 256, 4), np.uint8)
    slab = np.empty((256, 256, 3), np.uint8)
    slab[..., 0] = np.arange(256)
    slab[..., 1] = np.arange(256)[:, None]
    for blue in range(256):
        slab[..., 2] = blue
        table[blue, ..., :3] = compute(slab)
    return table.reshape(-1).view("<u4")
