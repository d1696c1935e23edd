"""Patches of one slide held in memory: a ``PatchSource`` without slide or store."""

from __future__ import annotations

import math

import numpy as np

from wsi_hr.errors import StoreError
from wsi_hr.geometry import BoolArray, Int32Array, Int64Array, Pair, PatchGrid, Size, UInt8Array


class MemoryPatches:
    """What a patch store gives, over an array.

    Attributes:
        slide_id: name of the slide.
        grid: where the patches lie; the footprint of a patch is its own edge (level 0 is read).
        valid: bool[N], False for a patch that is refused as unreadable.
    """

    def __init__(
        self,
        patches: UInt8Array,
        *,
        slide_id: str = "memory",
        cells: Int32Array | None = None,
        shape: tuple[int, int] | None = None,
        valid: BoolArray | None = None,
    ):
        """Take ``patches`` u8[N, P, P, 3].

        Args:
            patches: the pixels, not copied.
            slide_id: name of the slide.
            cells: i32[N, 2] cells (row, col) for a grid with holes; default: rows filled one after
                the other, as near to a square as N allows.
            shape: (R, Q) of the whole grid; default: the smallest that holds ``cells``.
            valid: bool[N]; default: all True.

        Raises:
            ValueError: an argument has another length, or a cell lies outside ``shape``.
        """
        num = len(patches)
        if patches.ndim != 4 or patches.shape[1] != patches.shape[2] or patches.shape[3] != 3:
            raise ValueError(f"patches are u8[N, P, P, 3], got {patches.shape}")
        if cells is None:
            columns = max(1, math.isqrt(max(0, num - 1)) + 1)
            cells = np.stack(np.divmod(np.arange(num), columns), axis=1).astype(np.int32)
        if shape is None:
            rows, columns = (int(edge) + 1 for edge in cells.max(axis=0)) if num else (0, 0)
            shape = (rows, columns)
        if valid is None:
            valid = np.ones(num, dtype=np.bool_)
        if cells.shape != (num, 2) or valid.shape != (num,):
            raise ValueError(f"{num} patches, cells {cells.shape}, valid {valid.shape}")
        if (cells < 0).any() or (cells >= np.array(shape)).any():
            raise ValueError(f"a cell lies outside the grid {shape}")
        edge = patches.shape[1]
        self._patches = patches
        self.slide_id = slide_id
        self.valid = valid
        self.grid = PatchGrid(
            coords=np.ascontiguousarray(cells[:, ::-1] * edge, dtype=np.int32),
            cells=cells,
            shape=shape,
            tissue=np.ones(num, dtype=np.float32),
            patch_px0=Pair(edge, edge),
        )

    @property
    def level0_size(self) -> Size:
        """(w, h) of the whole grid, px."""
        edge = self._patches.shape[1]
        return Size(max(1, self.grid.shape[1] * edge), max(1, self.grid.shape[0] * edge))

    @property
    def thumbnail(self) -> UInt8Array:
        """The patches in their places, at full size, on white: u8[h, w, 3]."""
        size, edge = self.level0_size, self._patches.shape[1]
        picture = np.full((size.h, size.w, 3), 255, dtype=np.uint8)
        for (x, y), patch in zip(self.grid.coords.tolist(), self._patches, strict=True):
            picture[y : y + edge, x : x + edge] = patch
        return picture

    def read(self, indices: Int64Array) -> UInt8Array:
        """The patches u8[K, P, P, 3] at ``indices`` i64[K], a copy, in that order.

        Raises:
            StoreError: a patch is not valid.
            IndexError: an index is negative or past the end.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if (indices < 0).any() or (indices >= len(self._patches)).any():
            raise IndexError(f"{self.slide_id}: an index lies outside 0..{len(self._patches) - 1}")
        if not self.valid[indices].all():
            refused = indices[~self.valid[indices]][0]
            raise StoreError(f"{self.slide_id}: patch {refused} is not valid; read valid ones only")
        return self._patches[indices]


def numbered_pixels(numbers: Int64Array) -> UInt8Array:
    """Patches u8[K, 2, 2, 3] that spell ``numbers`` (below 2^24) in their first pixel."""
    patches = np.zeros((len(numbers), 2, 2, 3), np.uint8)
    for byte in range(3):
        patches[:, 0, 0, byte] = numbers >> (8 * byte) & 255
    return patches
