"""What is wrong with a TIFF that no reader opens: most often its end is missing."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

_OFFSETS, _COUNTS = (273, 324), (279, 325)  # of strips, of tiles
_SIZE_OF_TYPE = {3: 2, 4: 4, 13: 4, 16: 8, 18: 8}  # SHORT, LONG, IFD, LONG8, IFD8
_MOST_DIRECTORIES = 1000
_MOST_SEGMENTS = 4_000_000  # level 0 of 500,000 x 500,000 px in tiles of 256


class TiffDamage(NamedTuple):
    """What is wrong with a file.

    Attributes:
        what: one clause.
        fatal: whether its directory of images is broken, not only some of their pixels.
    """

    what: str
    fatal: bool


class _Layout(NamedTuple):
    """How numbers are written: byte order, and sizes of classic TIFF or BigTIFF."""

    order: str
    big: bool

    def offset(self, data: bytes) -> int:
        return struct.unpack(self.order + ("Q" if self.big else "I"), data)[0]

    @property
    def offset_size(self) -> int:
        return 8 if self.big else 4


def tiff_damage(path: Path) -> TiffDamage | None:
    """What is damaged in a TIFF; None where nothing is, or it is none.

    The chain of directories is followed, and the first image's tiles or strips are held against
    the length of the file. Pixel data is not read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            header = handle.read(16)
            layout = _layout(header)
            if layout is None or (path.suffix.lower() == ".ndpi" and size > 2**32):
                return None  # NDPI beyond 4 GiB has its own kind of offsets
            first = layout.offset(header[8:16] if layout.big else header[4:8])
            return _follow(handle, layout, first, size)
    except (OSError, struct.error, OverflowError, ValueError):
        return TiffDamage("its directory of images is damaged", fatal=True)


def _layout(header: bytes) -> _Layout | None:
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None or len(header) < 16:
        return None
    version = struct.unpack(order + "H", header[2:4])[0]
    return {42: _Layout(order, False), 43: _Layout(order, True)}.get(version)


def _follow(handle: BinaryIO, layout: _Layout, offset: int, size: int) -> TiffDamage | None:
    seen: set[int] = set()
    missing = None
    while offset:
        if offset in seen or len(seen) > _MOST_DIRECTORIES:
            return TiffDamage("its directories of images lead round in a circle", fatal=True)
        seen.add(offset)
        tables: dict[int, Float64Array] = {}
        next_offset = _directory(handle, layout, offset, size, tables)
        if next_offset is None:
            return TiffDamage(
                f"it is cut off: a directory of images at byte {offset} of {size} is missing",
                fatal=True,
            )
        if len(seen) == 1:
            missing = _missing(tables, size)
        offset = next_offset
    return missing


def _directory(
    handle: BinaryIO, layout: _Layout, offset: int, size: int, tables: dict[int, Float64Array]
) -> int | None:
    """Offset of the next directory, with the segment tables put into ``tables``; None: cut off."""
    count_size, entry_size = (8, 20) if layout.big else (2, 12)
    if offset + count_size > size:
        return None
    handle.seek(offset)
    count = struct.unpack(layout.order + ("Q" if layout.big else "H"), handle.read(count_size))[0]
    end = offset + count_size + count * entry_size + layout.offset_size
    if end > size:
        return None
    entries = handle.read(end - offset - count_size)
    for start in range(0, count * entry_size, entry_size):
        entry = entries[start : start + entry_size]
        tag, kind = struct.unpack(layout.order + "HH", entry[:4])
        if tag in (*_OFFSETS, *_COUNTS) and kind in _SIZE_OF_TYPE:
            tables[tag] = _numbers(handle, layout, entry, kind)
    return layout.offset(entries[-layout.offset_size :])


def _numbers(handle: BinaryIO, layout: _Layout, entry: bytes, kind: int) -> Float64Array:
    """The whole numbers of a directory's entry."""
    num_values = layout.offset(entry[4 : 4 + layout.offset_size])
    if num_values > _MOST_SEGMENTS:
        raise ValueError("more tiles than a slide has")
    field = entry[4 + layout.offset_size :]
    num_bytes = num_values * _SIZE_OF_TYPE[kind]
    if num_bytes > len(field):
        handle.seek(layout.offset(field))
        field = handle.read(num_bytes)
    numbers = np.frombuffer(field[:num_bytes], f"{layout.order}u{_SIZE_OF_TYPE[kind]}")
    return numbers.astype(np.float64)  # sums of damaged numbers must not wrap round


def _missing(tables: dict[int, Float64Array], size: int) -> TiffDamage | None:
    offsets = next((tables[tag] for tag in _OFFSETS if tag in tables), np.zeros(0))
    counts = next((tables[tag] for tag in _COUNTS if tag in tables), np.zeros(0))
    if len(offsets) != len(counts):
        return None
    behind = int(np.count_nonzero((offsets > 0) & (offsets + counts > size)))
    if not behind:
        return None
    return TiffDamage(
        f"{behind} of the {len(offsets)} tiles or strips of its largest image lie behind its end "
        f"at byte {size}: it is cut off",
        fatal=False,
    )
