"""Pixels of patches put together from the slide's JPEG tiles, each decoded once per block.

Nothing lies between the file and the patch but the decoder: a tile is read by its offset, decoded
into a buffer that is used again, and copied once into the patches that lie on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from wsi_hr.errors import SlideError
from wsi_hr.geometry import PatchGrid, Point, ReadPlan, Size, UInt8Array
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.tiling.resample import covering, reduce_picture

MAX_STRIP_BYTES = 24 << 20
"""Decoded tiles that a row of patches may keep; broader rows are read in parts."""


class TilePatches:
    """Patches of one block after the other, read by one thread.

    Args:
        tiles: the tiles of ``plan.level``.
        plan: level and scale.
        patch_px: edge of a patch, px at the asked mpp.
        fast: see :func:`wsi_hr.tiling.resample.reduce_picture`.
    """

    def __init__(self, tiles: JpegTiles, plan: ReadPlan, patch_px: int, *, fast: bool) -> None:
        self._tiles = tiles
        self._plan = plan
        self._patch = Size(patch_px, patch_px)
        self._fast = fast
        self._window = covering(plan.residual, self._patch)
        self._tile = Size(
            tiles.tile_size.w // plan.decode_scale, tiles.tile_size.h // plan.decode_scale
        )
        self._decoded: dict[Point, UInt8Array | None] = {}
        self._spare: list[UInt8Array] = []

    def read(self, grid: PatchGrid) -> Iterator[UInt8Array | None]:
        """The patches of one block in its order, u8[P, P, 3] each; None where a tile is damaged."""
        for part in self._parts(grid):
            for corner in self._plan.decoded_corners(grid.coords[part]):
                self._forget_above(corner.y // self._tile.h)
                yield self._read(corner)
            self._forget_above(self._tiles.grid_size.h)

    def _parts(self, grid: PatchGrid) -> list[slice]:
        """The block whole, or patch by patch where the tiles of a row would fill the memory."""
        corners = grid.coords / np.array(self._plan.decoded_px0)
        width = corners[:, 0].max() - corners[:, 0].min() + self._window.w
        rows = math.ceil(self._window.h / self._tile.h) + 1
        if width * rows * self._tile.h * 3 <= MAX_STRIP_BYTES:
            return [slice(None)]
        return [slice(k, k + 1) for k in range(len(grid))]

    def _read(self, corner: Point) -> UInt8Array | None:
        """The patch whose first decoded px is ``corner``."""
        try:
            window = self._assembled(corner)
        except SlideError:
            return None
        return reduce_picture(window, self._plan.residual, self._patch, fast=self._fast)

    def _assembled(self, corner: Point) -> UInt8Array:
        """The decoded px u8[h, w, 3] of a patch.

        Raises:
            SlideError: one of its tiles is damaged.
        """
        width, height = self._window
        if corner.x % self._tile.w == corner.y % self._tile.h == 0 and self._window == self._tile:
            # the patch is a tile: nothing else lies on it, so it is decoded where it is wanted
            pixels = np.empty((height, width, 3), np.uint8)
            self._decode(Point(corner.x // width, corner.y // height), pixels)
            return pixels
        pixels = np.empty((height, width, 3), np.uint8)
        for row in range(corner.y // self._tile.h, (corner.y + height - 1) // self._tile.h + 1):
            top = row * self._tile.h - corner.y  # of the tile, px of the patch
            rows = slice(max(top, 0), min(top + self._tile.h, height))
            for col in range(corner.x // self._tile.w, (corner.x + width - 1) // self._tile.w + 1):
                left = col * self._tile.w - corner.x
                cols = slice(max(left, 0), min(left + self._tile.w, width))
                pixels[rows, cols] = self._tile_at(Point(col, row))[
                    rows.start - top : rows.stop - top, cols.start - left : cols.stop - left
                ]
        return pixels

    def _tile_at(self, tile: Point) -> UInt8Array:
        """The px of a tile; decoded when it is asked for first."""
        if tile not in self._decoded:
            self._decoded[tile] = None  # stays, should it turn out to be damaged
            buffer = (
                self._spare.pop()
                if self._spare
                else np.empty((self._tile.h, self._tile.w, 3), np.uint8)
            )
            self._decode(tile, buffer)
            self._decoded[tile] = buffer
        pixels = self._decoded[tile]
        if pixels is None:
            raise SlideError(f"{self._tiles.path}: tile ({tile.x}, {tile.y}) is damaged")
        return pixels

    def _decode(self, tile: Point, out: UInt8Array) -> None:
        self._tiles.decode_into(self._tiles.stream(*tile), out, self._plan.decode_scale)

    def _forget_above(self, row: int) -> None:
        """Use the buffers of tiles above ``row`` again; the patches to come lie below them."""
        for tile in [tile for tile in self._decoded if tile.y < row]:
            pixels = self._decoded.pop(tile)
            if pixels is not None:
                self._spare.append(pixels)
