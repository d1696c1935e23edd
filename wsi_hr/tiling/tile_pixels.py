"""Pixels of patches put together from the slide's JPEG tiles, each decoded once per block.

Nothing lies between the file and the patch but the decoder: a tile is read by its offset, decoded
under the tile above it, and copied once into the patches that lie on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from wsi_hr.errors import SlideError
from wsi_hr.geometry import PatchGrid, Point, ReadPlan, Size, UInt8Array
from wsi_hr.pixel_memory import empty_pixels
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.tiling.passthrough import tiles_of
from wsi_hr.tiling.resample import covering, reduce_picture

MAX_STRIP_BYTES = 24 << 20
"""Decoded tiles that a row of patches may keep; broader rows are read in parts."""

_SPARE_ROWS = 6  # of tiles, below those that a row of patches needs


class _Part(NamedTuple):
    """What a patch takes from one column of tiles.

    Attributes:
        col: the column.
        to: px of the patch.
        of: px of the tile.
    """

    col: int
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
        self._rows_needed = math.ceil(self._window.h / self._tile.h) + 1
        self._memory = empty_pixels(0)
        self._start([])

    def read(self, grid: PatchGrid) -> Iterator[UInt8Array | None]:
        """The patches of one block in its order, u8[P, P, 3] each; None where a tile is damaged."""
        alike = tiles_of(grid, self._plan, self._patch.w, self._tiles)
        if alike is not None:  # then nothing else lies on a decoded tile
            yield from (self._read_tile(col, row) for col, row in alike.tolist())
            return
        corners = self._plan.decoded_corners(grid.coords)
        for part in self._parts(corners):
            self._start(part)
            yield from map(self._read, part)

    def _read_tile(self, col: int, row: int) -> UInt8Array | None:
        """The patch that is a tile, decoded where it is wanted."""
        pixels = empty_pixels(self._tile.h, self._tile.w, 3)
        return pixels if self._decode(col, row, pixels) else None

    def _parts(self, corners: list[Point]) -> Iterator[list[Point]]:
        """The block whole, or patch by patch where the tiles of a row would fill the memory."""
        if self._row_bytes(corners) * self._rows_needed <= MAX_STRIP_BYTES:
            yield corners
        else:
            yield from ([corner] for corner in corners)

    def _row_bytes(self, corners: Sequence[Point]) -> int:
        """Bytes of one row of all tiles that patches lie on."""
        return len(self._cols(corners)) * self._tile.h * self._tile.w * 3

    def _cols(self, corners: Sequence[Point]) -> range:
        """The columns of tiles that patches lie on."""
        first = min(corner.x for corner in corners) // self._tile.w
        last = (max(corner.x for corner in corners) + self._window.w - 1) // self._tile.w
        return range(first, last + 1)

    def _start(self, corners: Sequence[Point]) -> None:
        """Make room for the tiles of some patches: column beside column, each of one piece."""
        cols = self._cols(corners) if corners else range(0)
        row_bytes = len(cols) * self._tile.h * self._tile.w * 3
        spare = (MAX_STRIP_BYTES - self._rows_needed * row_bytes) // max(1, row_bytes)
        self._num_rows = self._rows_needed + min(max(spare, 0), _SPARE_ROWS)
        num_bytes = self._num_rows * row_bytes
        if self._memory.size < num_bytes:
            self._memory = empty_pixels(num_bytes)
        self._left, self._top = cols.start, 0
        self._columns = self._memory[:num_bytes].reshape(
            len(cols), self._num_rows * self._tile.h, self._tile.w, 3
        )
        # per column: which rows have been decoded, and whether they are sound
        self._sound: list[dict[int, bool]] = [{} for _ in cols]

    def _read(self, corner: Point) -> UInt8Array | None:
        """The patch whose first decoded px is ``corner``."""
        width, height = self._window
        rows = range(corner.y // self._tile.h, (corner.y + height - 1) // self._tile.h + 1)
        parts = _parts(corner.x, width, self._tile.w)
        if rows.start < self._top or rows.stop > self._top + self._num_rows:
            self._move_to(rows.start)
        pixels = np.empty((height, width, 3), np.uint8)
        top = corner.y - self._top * self._tile.h
        for col, to, of in parts:
            for row in rows:
                if not self._has(col, row):
                    return None
            pixels[:, to] = self._columns[col - self._left, top : top + height, of]
        return reduce_picture(pixels, self._residual, self._patch, fast=self._fast)

    def _move_to(self, row: int) -> None:
        """Let the memory begin with tiles of ``row``: the patches to come mostly lie below it."""
        gone = (row - self._top) * self._tile.h
        for column, pixels in enumerate(self._columns):
            kept = {known: sound for known, sound in self._sound[column].items() if known >= row}
            if gone < 0:  # what was asked in no order may lie higher than what came before
                kept = {}
            if kept:
                pixels[:-gone] = pixels[gone:]
            self._sound[column] = kept
        self._top = row

    def _has(self, col: int, row: int) -> bool:
        """Whether a tile is sound; it is decoded when that is asked first."""
        column = col - self._left
        sound = self._sound[column].get(row)
        if sound is None:
            top = (row - self._top) * self._tile.h
            sound = self._decode(col, row, self._columns[column, top : top + self._tile.h])
            self._sound[column][row] = sound
        return sound

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
