"""Patches that are the slide's own tiles: their JPEG streams go into the store as they are.

Nothing is decoded, so nothing is lost: the store shows the very pixels the scanner's file does.
"""

from __future__ import annotations

from collections.abc import Iterator

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Int64Array, PatchGrid, ReadPlan, Size
from wsi_hr.pixel_memory import empty_pixels
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.tiling.resample import is_copied


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
    """The streams of patches that coincide with tiles.

    Nothing of them is decoded but what proves that they can be: the tables and headers before the
    entropy-coded data, which all tiles of a level share. A stream that begins otherwise than the
    one decoded last, or does not end as a JPEG does, is decoded once.
    """

    def __init__(self, tiles: JpegTiles, plan: ReadPlan) -> None:
        self._tiles = tiles
        self._plan = plan
        self._pixels = empty_pixels(tiles.tile_size.h, tiles.tile_size.w, 3)

    def read(self, grid: PatchGrid) -> Iterator[bytes | None]:
        """The streams of the patches of ``grid`` in its order; None where a tile is damaged."""
        edge = Size(*self._tiles.tile_size)
        for corner in self._plan.decoded_corners(grid.coords):
            try:
                stream = self._tiles.stream(corner.x // edge.w, corner.y // edge.h)
                self._prove(stream)
            except SlideError:
                yield None
            else:
                yield stream

    def _prove(self, stream: bytes) -> None:
        """Make sure that a stream can be decoded.

        Raises:
            SlideError: it cannot.
        """
        if not (self._tiles.begins_as_proven(stream) and stream.endswith(b"\xff\xd9")):
            self._tiles.decode_into(stream, self._pixels, 1)
