"""Decoded tiles, each from the first patch that lies on it to the last.

A tile is decoded once, also where patches of several blocks lie on it: blocks of 16 x 16 patches
rarely end where tiles do. What is let go of is decoded into next, so memory holds few of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from wsi_hr.geometry import Size, UInt8Array
from wsi_hr.pixel_memory import empty_pixels

MAX_TILE_BYTES = 32 << 20
"""Memory for those that patches of the block in hand still need, and for those that later blocks
do; what does not fit is decoded again."""

Place = tuple[int, int]
"""Column and row of a tile; a plain tuple, as each patch asks for several."""

Decode = Callable[[int, int, UInt8Array], bool]
"""Puts the tile of a column and row into u8[h, w, 3]; says whether it is sound."""


class Borders(NamedTuple):
    """Where a block ends, in tiles.

    Attributes:
        top: neither this block nor a later one has patches on rows above this one.
        right: first column on which patches of the block to the right may lie.
        bottom: first row on which patches of the block below may lie.
    """

    top: int
    right: int
    bottom: int


class DecodedTiles:
    """The tiles under one block of patches after the other, in store order, for one thread.

    In any other order they are the same tiles, some of them decoded again.

    Args:
        tile: size of a decoded tile.
    """

    def __init__(self, tile: Size) -> None:
        self._tile = tile
        self._most = max(1, MAX_TILE_BYTES // (tile.w * tile.h * 3))
        self._uses: Counter[Place] = Counter()
        self._of_block: dict[Place, UInt8Array] = {}
        self._of_later: dict[Place, UInt8Array] = {}
        self._damaged: set[Place] = set()
        self._free: list[UInt8Array] = []
        self._num_made = 0

    def enter(self, places: Iterable[Place], borders: Borders) -> None:
        """Go on to a block.

        Args:
            places: of a tile as often as :meth:`use` will be asked for it.
            borders: of the block.
        """
        self._uses = Counter(places)
        self._borders = borders
        self._damaged.clear()
        self._free += self._of_block.values()
        self._of_block.clear()
        passed = [place for place in self._of_later if place[1] < borders.top]
        self._free += map(self._of_later.pop, passed)

    def use(self, place: Place, decode: Decode) -> UInt8Array | None:
        """A tile u8[h, w, 3], to be looked at before the next is asked for; None: it is damaged."""
        pixels = self._of_block.get(place)
        if pixels is None:
            pixels = self._found(place, decode)
            if pixels is None:
                return None
            self._of_block[place] = pixels
        self._uses[place] -= 1
        if self._uses[place] == 0:
            self._let_go(place)
        return pixels

    def _found(self, place: Place, decode: Decode) -> UInt8Array | None:
        """A tile that an earlier block left here, or else a decoded one."""
        if place in self._of_later:
            return self._of_later.pop(place)
        if place in self._damaged:
            return None
        pixels = self._space()
        if decode(*place, pixels):
            return pixels
        self._damaged.add(place)
        self._free.append(pixels)
        return None

    def _space(self) -> UInt8Array:
        """Where to decode a tile."""
        if self._free:
            return self._free.pop()
        if self._num_made < self._most:
            self._num_made += 1
            return empty_pixels(self._tile.h, self._tile.w, 3)
        if self._of_later:
            return self._of_later.popitem()[1]
        return self._of_block.pop(next(iter(self._of_block)))

    def _let_go(self, place: Place) -> None:
        """This block is done with a tile."""
        later = place[0] >= self._borders.right or place[1] >= self._borders.bottom
        pixels = self._of_block.pop(place)
        if later:
            self._of_later[place] = pixels
        else:
            self._free.append(pixels)
