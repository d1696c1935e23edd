"""Formats that only OpenSlide reads: by what they are known, and why they stop where it refuses.

Their files hold label, macro and overlapping or stitched parts of the scan as pages of a TIFF or
otherwise. Whoever does not know the format takes one of these for the slide.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import tifffile

from wsi_hr.errors import SlideError
from wsi_hr.slides.tiff_pages import damage_told, opened_tiff, walk

GENERIC_TIFF = "generic-tiff"
"""What OpenSlide calls a tiled TIFF of no vendor it knows; its mpp is only the TIFF's tags."""

PLAIN_PYRAMIDS = frozenset({"aperio", GENERIC_TIFF})
"""OpenSlide's names of formats whose levels are single pages of a TIFF, tile beside tile.

In others they overlap, or one level is put together from several pages.
"""

DICOM = "dicom"
"""OpenSlide's name of it."""

_FORMATS = {
    DICOM: "DICOM",
    "hamamatsu": "Hamamatsu NDPI, VMS or VMU",
    "leica": "Leica SCN",
    "mirax": "MIRAX",
    "philips": "Philips TIFF",
    "philips-tiff": "Philips TIFF",
    "sakura": "Sakura SVSLIDE",
    "trestle": "Trestle TIFF",
    "ventana": "Ventana BIF",
    "zeiss": "Zeiss CZI",
}
_SCN = re.compile(r"<scn[\s>]|leica-microsystems\.com/scn")
_BIF_LEVEL = re.compile(r"level=\d+ mag=")
_XMP = 700
_NDPI_FORMAT = 65420
_HEAD_CHARACTERS = 4096


def format_name(vendor: str) -> str:
    """What people call a format that OpenSlide calls ``vendor``."""
    return _FORMATS.get(vendor, vendor)


def recognised_tiff(path: Path) -> str | None:
    """The vendor's format that a TIFF is in, though OpenSlide does not know it; None: none."""
    try:
        with opened_tiff(path) as file, damage_told(path):
            for page in walk(file.pages):
                for name, is_so in _MARKS.items():
                    if is_so(page):
                        return name
    except SlideError:
        pass  # whoever reads it says what is wrong
    return None


def _is_bif(page: tifffile.TiffPage) -> bool:
    packet = page.tags.valueof(_XMP)
    if isinstance(packet, str):
        packet = packet.encode()
    told = isinstance(packet, bytes) and (b"<iScan" in packet or b"<EncodeInfo" in packet)
    return told or _BIF_LEVEL.match(page.description) is not None


_MARKS: dict[str, Callable[[tifffile.TiffPage], bool]] = {
    "Ventana BIF": _is_bif,
    "Leica SCN": lambda page: _SCN.search(page.description[:_HEAD_CHARACTERS]) is not None,
    "Philips TIFF": lambda page: page.software.startswith("Philips DP"),
    "Hamamatsu NDPI": lambda page: _NDPI_FORMAT in page.tags,
    "Trestle TIFF": lambda page: page.software.startswith("MedScan"),
}
