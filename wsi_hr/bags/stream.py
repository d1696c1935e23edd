"""Patches of several slides in chunks of one size: small slides do not leave it half empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.read_ahead import read_ahead
from wsi_hr.geometry import Int64Array, UInt8Array
from wsi_hr.pixel_memory import join_pixels
from wsi_hr.store.jpeg_patches import Patches, join_patches


@dataclass(frozen=True)
class Piece:
    """Some patches of one of the bags: positions i64[K] in bag number ``bag``."""

    bag: int
    positions: Int64Array


def pack(
    bags: Sequence[Bag], chunk: int, wanted: Sequence[Int64Array] | None = None
) -> Iterator[tuple[list[Piece], UInt8Array]]:
    """Read the patches of ``bags``, one bag after the other, ``chunk`` at a time.

    The next chunks are read meanwhile in the background; memory holds the chunk in use and at most
    two more.

    Args:
        bags: slides whose patches have one size.
        chunk: patches at a time; only the last chunk may have fewer.
        wanted: positions i64[J] of each bag, in the order wanted; all of them if not given.

    Yields:
        What a chunk is made of, in order, and its pixels u8[K, P, P, 3].

    Raises:
        ValueError: ``chunk`` is not positive.
    """

    def read(pieces: list[Piece]) -> UInt8Array:
        return join_pixels([bags[piece.bag].read(piece.positions) for piece in pieces])

    yield from read_ahead(read, _chunks(bags, chunk, wanted))


def pack_encoded(
    bags: Sequence[Bag], chunk: int, wanted: Sequence[Int64Array] | None = None
) -> Iterator[tuple[list[Piece], Patches]]:
    """As :func:`pack`, but chunks come as JPEG streams where all of their patches can."""

    def fetch(pieces: list[Piece]) -> Patches:
        parts = [bags[piece.bag].fetch(piece.positions, encoded=True) for piece in pieces]
        return join_patches(parts)

    yield from read_ahead(fetch, _chunks(bags, chunk, wanted))


def _chunks(
    bags: Sequence[Bag], chunk: int, wanted: Sequence[Int64Array] | None
) -> Iterator[list[Piece]]:
    if chunk < 1:
        raise ValueError(f"a chunk has at least one patch, not {chunk}")
    if wanted is None:
        wanted = [np.arange(len(bag), dtype=np.int64) for bag in bags]
    pieces: list[Piece] = []
    free = chunk
    for bag, positions in enumerate(wanted):
        first = 0
        while first < len(positions):
            piece = positions[first : first + free]
            pieces.append(Piece(bag, piece))
            first += len(piece)
            free -= len(piece)
            if not free:
                yield pieces
                pieces, free = [], chunk
    if pieces:
        yield pieces
