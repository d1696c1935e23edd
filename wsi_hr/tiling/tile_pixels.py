"""Pixels of patches put together from the slide's JPEG tiles, each decoded once.

Nothing lies between the file and the patch but the decoder: a tile is read by its offset, decoded,
and copied once into each patch that lies on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Int32Array, Pair, PatchGrid, Point, ReadPlan, Size, UInt8Array
from wsi_hr.pixel_memory import empty_pixels
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.tiling.decoded_tiles import Borders, DecodedTiles
from wsi_hr.tiling.passthrough import tiles_of
from wsi_hr.tiling.plan import BLOCK_CELLS
from wsi_hr.tiling.resample import covering, reduce_picture


class _Part(NamedTuple):
    """What a patch takes from one column or row of tiles.

    Attributes:
        tile: its number.
        to: px of the patch.
        of: px of the tile.
    """

    tile: int
    to: slice
    of: slice


class TilePatches:
    """Patches of one block after the other, read by one thread.

    Args:
        tiles: the tiles of ``plan.level``.
        plan: level and scale.
        patch_px: edge of a patch, px at the asked mpp.
        fast: see :func:`wsi_hr.tiling.resample.reduce_picture`.
        smooth_chroma: see :meth:`wsi_hr.slides.jpeg_tiles.JpegTiles.decode_into`.
    """

    def __init__(
        self,
        tiles: JpegTiles,
        plan: ReadPlan,
        patch_px: int,
        *,
        fast: bool,
        smooth_chroma: bool = True,
    ) -> None:
        self._tiles = tiles
        self._plan = plan
        self._patch = Size(patch_px, patch_px)
        self._fast = fast
        self._smooth_chroma = smooth_chroma
        self._residual = plan.residual
        self._window = covering(plan.residual, self._patch)
        self._tile = Size(
            tiles.tile_size.w // plan.decode_scale, tiles.tile_size.h // plan.decode_scale
        )
        self._decoded = DecodedTiles(self._tile)
        self._step = Pair(
            plan.stride_px0.x / plan.decoded_px0.x, plan.stride_px0.y / plan.decoded_px0.y
        )

    def read(self, grid: PatchGrid) -> Iterator[UInt8Array | None]:
        """The patches of one block in its order, u8[P, P, 3] each; None where a tile is damaged."""
        alike = tiles_of(grid, self._plan, self._patch.w, self._tiles)
        if alike is not None:  # then nothing else lies on a decoded tile
            yield from (self._read_tile(col, row) for col, row in alike.tolist())
            return
        corners = self._plan.decoded_corners(grid.coords)
        wanted = chain.from_iterable(map(self._under, corners))
        self._decoded.enter(wanted, self._borders(grid.cells, corners))
        yield from map(self._read, corners)

    def _borders(self, cells: Int32Array, corners: Sequence[Point]) -> Borders:
        """Where the block ends to which patches belong, some of it or all."""
        row, col = (cells[0] // BLOCK_CELLS * BLOCK_CELLS).tolist()
        x = corners[0].x - (cells[0, 1] - col) * self._step.x
        y = corners[0].y - (cells[0, 0] - row) * self._step.y
        return Borders(
            top=math.floor(y - 1) // self._tile.h,  # corners are rounded
            right=round(x + BLOCK_CELLS * self._step.x) // self._tile.w,
            bottom=round(y + BLOCK_CELLS * self._step.y) // self._tile.h,
        )

    def _read_tile(self, col: int, row: int) -> UInt8Array | None:
        """The patch that is a tile, decoded where it is wanted."""
        pixels = empty_pixels(self._tile.h, self._tile.w, 3)
        return pixels if self._decode(col, row, pixels) else None

    def _under(self, corner: Point) -> list[tuple[int, int]]:
        """The tiles on which the patch at ``corner`` lies."""
        cols = _parts(corner.x, self._window.w, self._tile.w)
        rows = _parts(corner.y, self._window.h, self._tile.h)
        return [(col, row) for row, _, _ in rows for col, _, _ in cols]

    def _read(self, corner: Point) -> UInt8Array | None:
        """The patch whose first decoded px is ``corner``."""
        width, height = self._window
        pixels: UInt8Array = np.empty((height, width, 3), np.uint8)
        sound = True
        cols = _parts(corner.x, width, self._tile.w)
        for row, to_y, of_y in _parts(corner.y, height, self._tile.h):
            for col, to_x, of_x in cols:
                tile = self._decoded.use((col, row), self._decode)
                if tile is None:
                    sound = False
                else:
                    pixels[to_y, to_x] = tile[of_y, of_x]
        if not sound:
            return None
        return reduce_picture(pixels, self._residual, self._patch, fast=self._fast)

    def _stream(self, col: int, row: int) -> bytes:
        return self._tiles.stream(col, row)

    def _decode(self, col: int, row: int, out: UInt8Array) -> bool:
        try:
            self._tiles.decode_into(
                self._stream(col, row),
                out,
                self._plan.decode_scale,
                smooth_chroma=self._smooth_chroma,
            )
        except SlideError:
            return False
        return True


@lru_cache(maxsize=1024)
def _parts(start: int, length: int, edge: int) -> tuple[_Part, ...]:
    """How ``length`` px from ``start`` on lie on columns of tiles of ``edge`` px."""
    parts = []
    for col in range(start // edge, (start + length - 1) // edge + 1):
        first = col * edge - start  # of the tile, px of the patch
        to = slice(max(first, 0), min(first + edge, length))
        parts.append(_Part(col, to, slice(to.start - first, to.stop - first)))
    return tuple(parts)
