"""Tiles decoded a moment ago, for patches of another scale that lie on them too."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from wsi_hr.geometry import ReadPlan, UInt8Array
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.tiling.tile_pixels import TilePatches


class RecentTiles:
    """What was decoded last, for every thread apart; damaged tiles are remembered as such.

    Args:
        max_tiles: a thread keeps so many.
    """

    def __init__(self, max_tiles: int) -> None:
        self._max_tiles = max_tiles
        self._of_thread = threading.local()

    def put_into(
        self, out: UInt8Array, col: int, row: int, decode: Callable[[int, int, UInt8Array], bool]
    ) -> bool:
        """Put the tile into ``out``; whether it is sound.

        Args:
            out: u8[h, w, 3] of a tile.
            col: of the tile.
            row: of the tile.
            decode: does the same for a tile that is not known.
        """
        known: OrderedDict[tuple[int, int], UInt8Array | None]
        known = self._of_thread.__dict__.setdefault("known", OrderedDict())
        if (col, row) in known:
            known.move_to_end((col, row))
            pixels = known[col, row]
            if pixels is None:
                return False
            out[...] = pixels
            return True
        sound = decode(col, row, out)
        known[col, row] = out.copy() if sound else None
        if len(known) > self._max_tiles:
            known.popitem(last=False)
        return sound


class SharingPatches(TilePatches):
    """Patches out of tiles that patches of other scales may have had decoded already.

    Args:
        recent: of all these scales, which decode tiles the same way.
        tiles: see :class:`TilePatches`; so all others.
    """

    def __init__(
        self,
        recent: RecentTiles,
        tiles: JpegTiles,
        plan: ReadPlan,
        patch_px: int,
        *,
        fast: bool,
        smooth_chroma: bool = True,
    ) -> None:
        super().__init__(tiles, plan, patch_px, fast=fast, smooth_chroma=smooth_chroma)
        self._recent = recent

    def _decode(self, col: int, row: int, out: UInt8Array) -> bool:
        return self._recent.put_into(out, col, row, super()._decode)
