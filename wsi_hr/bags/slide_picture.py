"""A slide as one picture: its patches side by side on their cells, white where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.stream import pack
from wsi_hr.geometry import Float32Array, Int32Array, UInt8Array

# Letters: N patches, P patch edge, E edge of the picture, T px of the picture that a cell touches.

_WHITE = 255
_CHUNK = 64  # patches read at a time


@dataclass(frozen=True)
class PictureScale:
    """How cells of a grid map onto a square picture of the slide.

    The grid's longest side fills the picture, but is never enlarged; it begins in the top left
    corner.

    Attributes:
        shape: (R, Q) of the grid.
        patch_px: P.
        edge_px: E.
    """

    shape: tuple[int, int]
    patch_px: int
    edge_px: int

    @property
    def factor(self) -> float:
        """Picture px per patch px, at most 1."""
        return min(1.0, self.edge_px / (max(self.shape) * self.patch_px))

    def place(self, cell: int) -> tuple[slice, Float32Array]:
        """Where row (or column) ``cell`` of the grid lies in the picture.

        Returns:
            The T rows of the picture that it touches, and f32[T, P]: the part of each that each of
            the cell's P rows covers.
        """
        return _place(cell, self.patch_px, self.factor, self.edge_px)

    def share_by_cell(self, map_EE: Float32Array, cells_N2: Int32Array) -> Float32Array:
        """How much of a map over the picture lies on each of the cells i32[N, 2]: f32[N]."""
        shares = np.empty(len(cells_N2), np.float32)
        for k, (row, col) in enumerate(cells_N2.tolist()):
            (rows, down), (cols, across) = self.place(row), self.place(col)
            shares[k] = down.sum(1) @ map_EE[rows, cols] @ across.sum(1)
        return shares


def slide_picture(bag: Bag, edge_px: int) -> tuple[UInt8Array, PictureScale]:
    """Draw the slide into u8[E, E, 3]; every pixel is the average over the area that it covers.

    Memory holds the picture and a few patches, never the slide at its own size. Patches that
    overlap on the slide lie side by side.
    """
    canvas = np.full((edge_px, edge_px, 3), _WHITE, np.float32)
    cells_N2 = bag.grid.cells
    scale: PictureScale | None = None
    for (piece,), patches in pack([bag], _CHUNK):
        scale = scale or PictureScale(bag.grid.shape, patches.shape[1], edge_px)
        for (row, col), patch in zip(cells_N2[piece.positions].tolist(), patches, strict=True):
            (rows, down), (cols, across) = scale.place(row), scale.place(col)
            darker = patch.astype(np.float32) - _WHITE
            canvas[rows, cols] += np.einsum(
                "tpc,sp->tsc", np.tensordot(down, darker, 1), across, optimize=True
            )
    assert scale is not None, f"{bag.slide_id} is a bag without patches"
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), scale


@lru_cache(4096)
def _place(cell: int, patch_px: int, factor: float, edge_px: int) -> tuple[slice, Float32Array]:
    edges = (cell * patch_px + np.arange(patch_px + 1)) * factor
    first, last = int(edges[0]), min(int(np.ceil(edges[-1])), edge_px)
    pixel = np.arange(first, last)[:, None]
    covered = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return slice(first, last), np.maximum(covered, 0).astype(np.float32)
