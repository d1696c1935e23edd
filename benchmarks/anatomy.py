"""Where the parts of a TIFF lie in the file, so that each can be damaged on purpose."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tifffile

_FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 13: "I", 16: "Q", 18: "Q"}


@dataclass(frozen=True)
class Entry:
    """One entry of a directory.

    Attributes:
        code: number of the tag.
        offset: where the entry begins.
        value_offset: where its values begin, in the entry or elsewhere.
        kind: number of the values' type.
        count: of values.
    """

    code: int
    offset: int
    value_offset: int
    kind: int
    count: int


@dataclass(frozen=True)
class Segment:
    """A tile or strip: where its bytes are, and where the file says so."""

    offset: int
    count: int
    offset_at: tuple[int, str]
    count_at: tuple[int, str]


@dataclass(frozen=True)
class Directory:
    """One directory of images.

    Attributes:
        offset: where it begins.
        next_at: where the offset of the following one is written.
        entries: by tag.
        segments: tiles or strips with bytes.
    """

    offset: int
    next_at: int
    entries: dict[int, Entry]
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Anatomy:
    """A whole little-endian TIFF.

    Attributes:
        big: whether it is a BigTIFF.
        directories: all of them, sub-images last.
    """

    big: bool
    directories: tuple[Directory, ...]

    @property
    def offset_format(self) -> str:
        """How the file writes an offset."""
        return "Q" if self.big else "I"


def dissect(path: Path) -> Anatomy:
    """Find the parts of a sound TIFF."""
    with tifffile.TiffFile(path) as file:
        tiff = file.tiff
        assert file.byteorder == "<", "victims are written little-endian"
        return Anatomy(
            tiff.offsetsize == 8,
            tuple(
                Directory(
                    page.offset,
                    page.offset + tiff.tagnosize + len(page.tags) * tiff.tagsize,
                    entries := {
                        tag.code: Entry(tag.code, tag.offset, tag.valueoffset, tag.dtype, tag.count)
                        for tag in page.tags
                    },
                    tuple(_segments(page, entries)),
                )
                for page in _pages(file)
            ),
        )


def put(data: bytearray, at: int, form: str, *values: int) -> None:
    """Write whole numbers into a little-endian file."""
    struct.pack_into("<" + form, data, at, *values)


def set_value(data: bytearray, entry: Entry, value: int, index: int = 0) -> None:
    """Overwrite one value of an entry, cut to its type."""
    form = _FORMATS[entry.kind][0]
    size = struct.calcsize("<" + form)
    put(data, entry.value_offset + index * size, form, value & ((1 << 8 * size) - 1))


def _pages(file: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage)]
    yield from pages
    for page in pages:
        for sub_image in page.pages or ():
            if isinstance(sub_image, tifffile.TiffPage):
                yield sub_image


def _segments(page: tifffile.TiffPage, entries: dict[int, Entry]) -> Iterator[Segment]:
    offsets, counts = (
        next(entries[code] for code in codes if code in entries)
        for codes in ((324, 273), (325, 279))
    )
    for index, (offset, count) in enumerate(
        zip(page.dataoffsets, page.databytecounts, strict=True)
    ):
        yield Segment(offset, count, _place(offsets, index), _place(counts, index))


def _place(entry: Entry, index: int) -> tuple[int, str]:
    form = _FORMATS[entry.kind]
    return entry.value_offset + index * struct.calcsize("<" + form), form
