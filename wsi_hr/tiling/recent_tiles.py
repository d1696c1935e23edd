"""Tiles read and decoded a moment ago, for patches of another scale that lie on them too."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection
from typing import NamedTuple

from wsi_hr.geometry import ReadPlan, UInt8Array
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.tiling.tile_pixels import TilePatches


class Decoding(NamedTuple):
    """How tiles are decoded: scales of a slide for which it is the same see the same pixels.

    Attributes:
        level: the tiles are those of.
        decode_scale: see :class:`~wsi_hr.geometry.ReadPlan`.
        smooth_chroma: see :meth:`wsi_hr.slides.jpeg_tiles.JpegTiles.decode_into`.
    """

    level: int
    decode_scale: int
    smooth_chroma: bool


class _Known:
    """What one thread keeps."""

    def __init__(self) -> None:
        self.streams: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self.pixels: dict[Decoding, OrderedDict[tuple[int, int], UInt8Array | None]]
        self.pixels = defaultdict(OrderedDict)


class RecentTiles:
    """What was read and decoded last, for every thread apart; damaged tiles are known as such.

    Args:
        max_tiles: a thread keeps so many streams, and pixels of so many for each of ``shared``.
        shared: ways to decode a tile that several scales have.
    """

    def __init__(self, max_tiles: int, shared: Collection[Decoding]) -> None:
        self.shared = frozenset(shared)
        self._max_tiles = max_tiles
        self._of_thread = threading.local()

    def stream(self, col: int, row: int, read: Callable[[int, int], bytes]) -> bytes:
        """The tile's stream; ``read`` gives it where it is not known.

        Raises:
            SlideError: ``read`` does.
        """
        known = self._known().streams
        if (col, row) not in known:
            known[col, row] = read(col, row)
            if len(known) > self._max_tiles:
                known.popitem(last=False)
        return known[col, row]

    def put_into(
        self,
        out: UInt8Array,
        decoding: Decoding,
        col: int,
        row: int,
        decode: Callable[[int, int, UInt8Array], bool],
    ) -> bool:
        """Put the tile into ``out``; whether it is sound.

        Args:
            out: u8[h, w, 3] of a tile.
            decoding: one of ``shared``.
            col: of the tile.
            row: of the tile.
            decode: does the same for a tile that is not known.
        """
        known = self._known().pixels[decoding]
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

    def _known(self) -> _Known:
        return self._of_thread.__dict__.setdefault("known", _Known())


class SharingPatches(TilePatches):
    """Patches out of tiles that patches of other scales may have had read or decoded already.

    Args:
        recent: of all these scales.
        decoding: this scale's.
        tiles: see :class:`TilePatches`; so all others.
    """

    def __init__(
        self,
        recent: RecentTiles,
        decoding: Decoding,
        tiles: JpegTiles,
        plan: ReadPlan,
        patch_px: int,
        *,
        fast: bool,
    ) -> None:
        smooth = decoding.smooth_chroma
        super().__init__(tiles, plan, patch_px, fast=fast, smooth_chroma=smooth)
        self._recent = recent
        self._decoding = decoding

    def _stream(self, col: int, row: int) -> bytes:
        return self._recent.stream(col, row, super()._stream)

    def _decode(self, col: int, row: int, out: UInt8Array) -> bool:
        if self._decoding not in self._recent.shared:
            return super()._decode(col, row, out)
        return self._recent.put_into(out, self._decoding, col, row, super()._decode)
