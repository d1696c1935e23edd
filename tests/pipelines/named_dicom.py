"""A small DICOM series with a patient's name in every element that a scanner may fill in.

Explicit VR, little endian; elements after DICOM PS3.5 (chapter 7) and PS3.3 (A.32.8, C.8.12).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg

from .named_slides import EDGE, TILE, label, tissue
from .sentinel_search import NAME

_LONG = ("OB", "SQ", "UT")  # whose length takes four bytes
_ZERO_PADDED = ("OB", "UI")
_VL_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_MM_PER_PX = 0.0005

_PATIENT = {
    (0x0008, 0x0050): "SH", (0x0008, 0x0080): "LO", (0x0008, 0x0081): "ST", (0x0008, 0x0090): "PN",
    (0x0008, 0x1010): "SH", (0x0008, 0x1030): "LO", (0x0008, 0x103E): "LO", (0x0008, 0x1070): "PN",
    (0x0010, 0x0010): "PN", (0x0010, 0x0020): "LO", (0x0010, 0x1000): "LO", (0x0010, 0x1001): "PN",
    (0x0010, 0x1040): "LO", (0x0010, 0x4000): "LT", (0x0018, 0x1000): "LO", (0x0020, 0x0010): "SH",
    (0x0020, 0x4000): "LT", (0x0040, 0x0512): "LO", (0x0040, 0x0600): "LO", (0x0040, 0x0602): "UT",
    (0x2200, 0x0002): "UT", (0x2200, 0x0005): "LT", (0x0099, 0x0010): "LO", (0x0099, 0x1001): "UT",
}  # fmt: skip
"""Accession number to private elements: names, numbers, comments, label text, barcode, specimen."""


def write_dicom(folder: Path) -> None:
    """The volume, its label and its overview, three files of one series in ``folder``."""
    pixels = tissue("dicom")
    frames = [
        _frame(pixels[top : top + TILE, left : left + TILE])
        for top in range(0, EDGE, TILE)
        for left in range(0, EDGE, TILE)
    ]
    _write(folder / "dicom_volume.dcm", "VOLUME", frames, EDGE, TILE, number=1)
    for number, kind in ((2, "LABEL"), (3, "OVERVIEW")):
        edge = len(label())
        path = folder / f"dicom_{kind.lower()}.dcm"
        _write(path, kind, [_frame(label())], edge, edge, number=number)


def _write(
    path: Path, kind: str, frames: Sequence[bytes], edge: int, tile: int, *, number: int
) -> None:
    uid = f"1.2.826.0.1.3680043.9.9.{number}"
    about_file = b"".join((
        _element((0x0002, 0x0002), "UI", _VL_WHOLE_SLIDE),
        _element((0x0002, 0x0003), "UI", uid),
        _element((0x0002, 0x0010), "UI", _JPEG_BASELINE),
    ))  # fmt: skip
    spacing = _element((0x0028, 0x0030), "DS", f"{_MM_PER_PX}\\{_MM_PER_PX}")
    elements = {
        **{tag: _element(tag, vr, NAME) for tag, vr in _PATIENT.items()},
        **dict(
            (tag, _element(tag, vr, value))
            for tag, vr, value in (
                ((0x0008, 0x0008), "CS", f"ORIGINAL\\PRIMARY\\{kind}\\NONE"),
                ((0x0008, 0x0016), "UI", _VL_WHOLE_SLIDE),
                ((0x0008, 0x0018), "UI", uid),
                ((0x0020, 0x000D), "UI", "1.2.826.0.1.3680043.9.8"),
                ((0x0020, 0x000E), "UI", "1.2.826.0.1.3680043.9.7"),
                ((0x0020, 0x9311), "CS", "TILED_FULL"),
                ((0x0028, 0x0002), "US", 3),
                ((0x0028, 0x0004), "CS", "YBR_FULL_422"),
                ((0x0028, 0x0006), "US", 0),
                ((0x0028, 0x0008), "IS", str(len(frames))),
                ((0x0028, 0x0010), "US", tile),
                ((0x0028, 0x0011), "US", tile),
                ((0x0028, 0x0100), "US", 8),
                ((0x0028, 0x0101), "US", 8),
                ((0x0028, 0x0102), "US", 7),
                ((0x0028, 0x0103), "US", 0),
                ((0x0048, 0x0006), "UL", edge),
                ((0x0048, 0x0007), "UL", edge),
                ((0x0048, 0x0303), "UL", 1),
                ((0x5200, 0x9229), "SQ", _item(_element((0x0028, 0x9110), "SQ", _item(spacing)))),
            )
        ),
    }
    content = b"".join(elements[tag] for tag in sorted(elements))
    pictures = b"".join(map(_item, (b"", *frames))) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    path.write_bytes(
        NAME.encode().ljust(128, b"\0")  # the preamble is for whoever wants it
        + b"DICM"
        + _element((0x0002, 0x0000), "UL", len(about_file))
        + about_file
        + content
        + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
        + pictures
    )


def _element(tag: tuple[int, int], vr: str, value: str | int | bytes) -> bytes:
    if isinstance(value, int):
        value = struct.pack("<H" if vr == "US" else "<I", value)
    elif isinstance(value, str):
        value = value.encode()
    value += b"\0" * (len(value) % 2) if vr in _ZERO_PADDED else b" " * (len(value) % 2)
    length = struct.pack("<HI", 0, len(value)) if vr in _LONG else struct.pack("<H", len(value))
    return struct.pack("<HH", *tag) + vr.encode() + length + value


def _item(content: bytes) -> bytes:
    content += b"\0" * (len(content) % 2)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def _frame(pixels: np.ndarray) -> bytes:
    """A JPEG with the name in a comment and in EXIF."""
    stream = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=80, colorsubsampling="422"
    )
    comment = NAME.encode()
    exif = b"Exif\0\0" + comment
    said = b"".join(
        bytes((0xFF, marker)) + (len(text) + 2).to_bytes(2, "big") + text
        for marker, text in ((0xFE, comment), (0xE1, exif))
    )
    return stream[:2] + said + stream[2:]
