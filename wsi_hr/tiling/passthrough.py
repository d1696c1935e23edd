"""Patches that are the slide's own tiles: their JPEG streams go into the store as they are.

Nothing is decoded, so nothing is lost: the store shows the very pixels the scanner's file does.
What else a stream may hold, comments and EXIF, stays behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Int64Array, PatchGrid, ReadPlan
from wsi_hr.jpeg_segments import bare_jpeg, jpeg_header, num_markers
from wsi_hr.pixel_memory import empty_pixels
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.tiling.resample import is_copied

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_AT_A_TIME = 16  # tiles: a row of a block, which stays in the processor's cache
_BUFFER_BYTES = 1 << 20  # what is larger is looked at by itself


def coincides(grid: PatchGrid, plan: ReadPlan, patch_px: int, tiles: JpegTiles) -> bool:
    """Whether every patch of ``grid`` is exactly one tile."""
    return not plan.resampled and tiles_of(grid, plan, patch_px, tiles) is not None


def tiles_of(grid: PatchGrid, plan: ReadPlan, patch_px: int, tiles: JpegTiles) -> Int64Array | None:
    """The tile (col, row) i64[N, 2] that each patch is, decoded; None where one is not a tile."""
    edges = {px / plan.decode_scale for px in tiles.tile_size}
    if edges != {patch_px} or not is_copied(plan.residual):
        return None
    corners = plan.decoded_corner_table(grid.coords)
    return None if (corners % patch_px).any() else corners // patch_px


class TileStreams:
    """The streams of patches that coincide with tiles, without what is no picture.

    Nothing of them is decoded but what proves that they can be: the tables and headers before the
    entropy-coded data, which all tiles of a level share. A stream that begins otherwise than the
    one decoded last, or has no end as a JPEG has, is decoded once.
    """

    def __init__(self, tiles: JpegTiles, plan: ReadPlan) -> None:
        self._tiles = tiles
        self._plan = plan
        self._pixels = empty_pixels(tiles.tile_size.h, tiles.tile_size.w, 3)
        self._buffer = bytearray(_BUFFER_BYTES)
        self._known: _Headers | None = None  # those of the tile that was proven last

    def read(self, grid: PatchGrid) -> Iterator[bytes | None]:
        """The streams of the patches of ``grid`` in its order; None where a tile is damaged."""
        corners = self._plan.decoded_corner_table(grid.coords)
        places = corners // np.array(self._tiles.tile_size)
        num_bytes = self._tiles.byte_counts[places[:, 1], places[:, 0]]
        for together in _batches(places.tolist(), num_bytes.tolist()):
            yield from self._alike(together) or map(self._bare, together)

    def _alike(self, places: list[list[int]]) -> list[bytes] | None:
        """The streams of tiles (col, row), if they all are as the one that was proven last.

        They are if they begin as it does, end as a JPEG does, and have no marker more. Asked of
        many at once that costs a tenth of looking at each.

        Returns:
            The streams; None: they are to be looked at one by one.
        """
        known, view = self._known, memoryview(self._buffer)
        if known is None:
            return None
        try:
            stops = self._tiles.read_into(places, view)
        except SlideError:
            return None
        bodies, start = [], 0
        for stop in stops:
            body = start + len(known.in_file)
            if not (
                body + len(_EOI) <= stop
                and self._buffer.startswith(known.in_file, start)
                and self._buffer.endswith(_EOI, start, stop)
            ):
                return None
            bodies.append(view[body:stop])
            start = stop
        expected = len(places) * (known.num_markers + 1)
        if num_markers(view[:start]) != expected + len(places) * known.num_restarts:
            return None
        if known.num_restarts and num_markers(view[:start], restarts=False) != expected:
            return None
        return [b"".join((known.in_store, body)) for body in bodies]

    def _bare(self, place: list[int]) -> bytes | None:
        """What of a tile goes into the store, see :func:`bare_jpeg`; None: it is damaged."""
        try:
            stream = self._tiles.stream(*place)
            bare = bare_jpeg(stream)
            if not (self._tiles.begins_as_proven(bare) and bare.endswith(_EOI)):
                self._tiles.decode_into(bare, self._pixels, 1)
        except (SlideError, ValueError):
            return None
        self._known = _headers(stream, bare, self._tiles.prefix)
        return bare


def _batches(places: list[list[int]], num_bytes: list[int]) -> Iterator[list[list[int]]]:
    """Tiles (col, row) in their order, as many at a time as are read together."""
    batch: list[list[int]] = []
    room = _BUFFER_BYTES
    for place, count in zip(places, num_bytes, strict=True):
        if batch and (len(batch) == _AT_A_TIME or count > room):
            yield batch
            batch, room = [], _BUFFER_BYTES
        batch.append(place)
        room -= count
    if batch:
        yield batch


class _Headers(NamedTuple):
    """How tiles begin, up to the data of their first scan.

    Attributes:
        in_file: as a tile lies in the file.
        in_store: as its stream does in the store.
        num_markers: see :func:`num_markers`, of ``in_file``.
        num_restarts: restart markers among the data of a tile.
    """

    in_file: bytes
    in_store: bytes
    num_markers: int
    num_restarts: int


def _headers(stream: bytes, bare: bytes, prefix: bytes) -> _Headers | None:
    """Those of a tile; None: they are not fit for finding out what else a tile holds."""
    header, in_store = jpeg_header(stream), jpeg_header(bare)
    if header is None or in_store is None:
        return None
    in_file = _SOI + header[len(prefix) :]
    num = num_markers(in_file)
    if num != num_markers(in_file, restarts=False):
        return None  # what looks like a restart marker would stand for one that is none
    data = memoryview(bare)[len(in_store) :]
    restarts = num_markers(data) - num_markers(data, restarts=False)
    return _Headers(in_file, in_store, num, restarts)
