"""Which DICOM files are one slide: those of one folder with the same SeriesInstanceUID.

Also which of them are pictures beside it. Only the few header elements up to the UID are walked;
pixel data is never touched.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from wsi_hr.slides.beside import named_beside

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})

_IMAGE_TYPE = 0x0008_0008
_SERIES_INSTANCE_UID = 0x0020_000E
_TRANSFER_SYNTAX_UID = 0x0002_0010
_IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
_UNREADABLE_SYNTAXES = frozenset({"1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_UNDEFINED = 0xFFFF_FFFF
_LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_LONGEST_TEXT = 128  # characters: a UID has 64 at most, an image type 16 a value
_FLAVOUR = 2  # the value of the image type that says VOLUME, LABEL, OVERVIEW or THUMBNAIL
_MAX_DEPTH = 16


def series_uid(path: Path) -> str | None:
    """The SeriesInstanceUID of a DICOM file; None where it is not one or is damaged."""
    return _text_of(path, _SERIES_INSTANCE_UID)


def beside_series(path: Path) -> str | None:
    """Which picture beside a slide a DICOM file holds by its ImageType; None: none, or not told."""
    values = (_text_of(path, _IMAGE_TYPE) or "").split("\\")
    return named_beside(values[_FLAVOUR]) if len(values) > _FLAVOUR else None


def series_members(path: Path) -> list[Path]:
    """All files of the folder of ``path`` that belong to its series, sorted; ``path`` among them.

    Where the series cannot be told, ``path`` alone.
    """
    uid = series_uid(path)
    if uid is None:
        return [path]
    siblings = [
        other
        for other in path.parent.iterdir()
        if other.suffix.lower() in DICOM_SUFFIXES and other.is_file()
    ]
    return sorted({path, *(other for other in siblings if series_uid(other) == uid)})


def _text_of(path: Path, wanted: int) -> str | None:
    """The text of an element; None where there is none, or the file is no DICOM or damaged."""
    try:
        with path.open("rb") as handle:
            handle.seek(128)
            if handle.read(4) != b"DICM":
                return None
            return _find(handle, wanted)
    except (OSError, struct.error, ValueError):
        return None


def _find(handle: BinaryIO, wanted: int) -> str | None:
    implicit = False
    while True:
        start = handle.tell()
        # The file's own header, group 2, is explicit whatever the data set is.
        tag, length = _element(handle, implicit=False)
        if tag >> 16 != 2:
            handle.seek(start)
            tag, length = _element(handle, implicit=implicit)
        if tag in (_TRANSFER_SYNTAX_UID, wanted):
            if length > _LONGEST_TEXT:
                return None
            text = handle.read(length).rstrip(b"\0 ").decode("ascii")
            if tag == wanted:
                return text or None
            if text in _UNREADABLE_SYNTAXES:
                return None
            implicit = text == _IMPLICIT_LITTLE_ENDIAN
        elif tag > wanted:
            return None  # elements are in ascending order
        elif length == _UNDEFINED:
            _skip_sequence(handle, implicit=implicit, depth=0)
        else:
            handle.seek(length, 1)


def _element(handle: BinaryIO, *, implicit: bool) -> tuple[int, int]:
    """Tag and value length of the element at the handle, which is left at the value."""
    group, number = struct.unpack("<HH", handle.read(4))
    tag = group << 16 | number
    if implicit or group == 0xFFFE:
        return tag, struct.unpack("<I", handle.read(4))[0]
    vr = handle.read(2)
    if vr in _LONG_VRS:
        handle.seek(2, 1)
        return tag, struct.unpack("<I", handle.read(4))[0]
    return tag, struct.unpack("<H", handle.read(2))[0]


def _skip_sequence(handle: BinaryIO, *, implicit: bool, depth: int) -> None:
    """Go past a sequence of undefined length."""
    if depth > _MAX_DEPTH:
        raise ValueError("sequences nested too deeply")
    while True:
        tag, length = _element(handle, implicit=implicit)
        if tag == _SEQUENCE_END:
            return
        if tag != _ITEM:
            raise ValueError("not a sequence item")
        if length != _UNDEFINED:
            handle.seek(length, 1)
            continue
        while True:
            tag, length = _element(handle, implicit=implicit)
            if tag == _ITEM_END:
                break
            if length == _UNDEFINED:
                _skip_sequence(handle, implicit=implicit, depth=depth + 1)
            else:
                handle.seek(length, 1)
