"""Small slides with a patient's name in every place a scanner may write one, and on the label."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tifffile
from PIL import Image, ImageCms

from .sentinel_search import NAME, mark

EDGE, TILE = 1024, 256

_TEXT_TAGS = {
    "DocumentName": 269, "Make": 271, "Model": 272, "PageName": 285, "Artist": 315,
    "HostComputer": 316, "Copyright": 33432, "private": 65001,
}  # fmt: skip
_EXIF, _GPS, _JPEG_TABLES = 34665, 34853, 347
_DIRECTORIES = {_EXIF: 0x9286, _GPS: 0x001C}
"""Directories of their own, and a field of each that holds free text."""
_BYTE_TAGS = {"XMP": 700, "IPTC": 33723, "photoshop": 34377, "MakerNote": 37500, "private": 65002}


def write_svs(path: Path) -> None:
    """Aperio: levels of JPEG tiles with comments, a thumbnail, a label and a macro picture."""
    told = "|".join(f"{field} = {NAME}" for field in ("Filename", "Title", "User", "Date", "Time",
                                                       "Patient", "Barcode"))  # fmt: skip
    scan = "AppMag = 20|MPP = 0.5000"
    frame = f"Aperio Image Library v11.2.1\r\n{EDGE}x{EDGE}"
    with tifffile.TiffWriter(path) as writer:
        window = f"{frame} [0,0 {EDGE}x{EDGE}] ({TILE}x{TILE}) JPEG/RGB Q=80"
        _write_levels(writer, "aperio", f"{window}|{scan}|{told}", f"{frame} -> |{told}")
        for what in ("label", "macro"):
            text = f"Aperio Image Library v11.2.1\r\n{what} {len(label())}x{len(label())}|{told}"
            writer.write(label(), rowsperstrip=16, compression="lzw", photometric="rgb",
                         subfiletype=1 if what == "label" else 9, **tags(text))  # fmt: skip
    _fill_directories(path)


def write_tiff(path: Path) -> None:
    """A generic pyramid whose every free tag is filled in, and a label page at its end."""
    with tifffile.TiffWriter(path) as writer:
        _write_levels(
            writer, "generic", NAME, NAME, resolution=(20000, 20000), resolutionunit="CENTIMETER"
        )
        writer.write(label(), rowsperstrip=16, photometric="rgb", **tags("label " + NAME))
    _fill_directories(path)


def write_ome(path: Path) -> None:
    """OME-TIFF: people, files and free text in its XML, and a label as an image of its own."""
    people = (
        f'<Experimenter ID="Experimenter:0" UserName="{NAME}" LastName="{NAME}"/>'
        f'<StructuredAnnotations><CommentAnnotation ID="Annotation:0"><Value>{NAME}</Value>'
        "</CommentAnnotation></StructuredAnnotations>"
    )
    image = (
        '<Image ID="Image:{n}" Name="{name}"><Pixels ID="Pixels:{n}" DimensionOrder="XYCZT" '
        'Type="uint8" SizeX="{edge}" SizeY="{edge}" SizeC="3" SizeZ="1" SizeT="1" {scale}>'
        '<Channel ID="Channel:{n}:0" SamplesPerPixel="3"/><TiffData IFD="{ifd}" PlaneCount="1">'
        '<UUID FileName="{name}.ome.tif">urn:uuid:0</UUID></TiffData></Pixels></Image>'
    )
    scale = 'PhysicalSizeX="0.5" PhysicalSizeY="0.5"'
    images = [
        image.format(n=0, name=NAME, edge=EDGE, ifd=0, scale=scale),
        image.format(n=1, name=f"label {NAME}", edge=len(label()), ifd=1, scale=""),
    ]
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME '
        'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f"{images[0]}{images[1]}{people}</OME>"
    )
    with tifffile.TiffWriter(path) as writer:
        pixels = tissue("ome")
        writer.write(iter(_tiles(pixels)), shape=pixels.shape, dtype=np.uint8, tile=(TILE, TILE),
                     photometric="ycbcr", subsampling=(2, 2), compression="jpeg", subifds=1,
                     **tags(xml))  # fmt: skip
        small = np.asarray(Image.fromarray(pixels).reduce(4))
        writer.write(iter(_tiles(small)), shape=small.shape, dtype=np.uint8, tile=(TILE, TILE),
                     photometric="ycbcr", subsampling=(2, 2), compression="jpeg", subfiletype=1,
                     metadata=None)  # fmt: skip
        writer.write(label(), rowsperstrip=16, photometric="rgb", **tags(NAME))


def tags(description: str) -> dict[str, Any]:
    """Arguments of tifffile that write ``description`` and the name into all tags there are."""
    blob = NAME.encode() + NAME.encode("utf-16-le")
    texts = [(code, 2, 0, NAME, False) for code in _TEXT_TAGS.values()]
    blobs = [(code, 1, len(blob), blob, False) for code in _BYTE_TAGS.values()]
    icc = profile()
    return {
        "description": description,
        "software": NAME,
        "datetime": f"{NAME}:01:01"[:19].ljust(19, "0"),
        "metadata": None,
        "extratags": [*texts, *blobs, (34675, 7, len(icc), icc, False)],
    }


def profile() -> bytes:
    """An ICC profile of sRGB whose description is the name."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb.replace("sRGB built-in".encode("utf-16-be"), NAME.encode("utf-16-be"))


def label() -> np.ndarray:
    """The picture of a glass label: a code, and white paper around it."""
    paper = np.full((160, 160, 3), 250, np.uint8)
    paper[32:128, 32:128] = mark()[..., None]
    return paper


def tissue(slide: str) -> np.ndarray:
    """Pink noise on glass, another one for each ``slide``."""
    rng = np.random.default_rng(list(slide.encode()))
    pixels = np.full((EDGE, EDGE, 3), 244, np.uint8)
    noise = np.kron(rng.integers(0, 60, (96, 96, 1)), np.ones((8, 8, 3)))
    pixels[128:896, 128:896] = np.array([215, 120, 170]) - noise
    return pixels


def _write_levels(
    writer: tifffile.TiffWriter, slide: str, first: str, others: str, **scale: object
) -> None:
    for number, reduced in enumerate((1, 4)):
        pixels = np.asarray(Image.fromarray(tissue(slide)).reduce(reduced))
        shared, tiles = _abbreviated(_tiles(pixels))
        told = tags(others if number else first)
        told["extratags"].append((_JPEG_TABLES, 7, len(shared), shared, False))
        if not number:
            told["extratags"] += [(code + 1, 4, 1, 0, False) for code in _DIRECTORIES]
        writer.write(iter(tiles), shape=pixels.shape, dtype=np.uint8, tile=(TILE, TILE),
                     photometric="ycbcr", subsampling=(2, 2), compression="jpeg", subfiletype=0,
                     **({} if number else scale), **told)  # fmt: skip
        if not number and "Aperio" in first:
            thumbnail = np.asarray(Image.fromarray(tissue(slide)).reduce(4))
            writer.write(thumbnail, photometric="rgb", compression="jpeg", rowsperstrip=16,
                         **tags(others))  # fmt: skip


def _tiles(pixels: np.ndarray) -> list[bytes]:
    """JPEG tiles, each with the name in a comment, in EXIF and behind its end."""
    found = []
    for top in range(0, len(pixels), TILE):
        for left in range(0, pixels.shape[1], TILE):
            tile = np.ascontiguousarray(pixels[top : top + TILE, left : left + TILE])
            stream = simplejpeg.encode_jpeg(tile, quality=80, colorsubsampling="420")
            said = _segment(0xFE, NAME.encode()) + _segment(0xE1, b"Exif\0\0" + NAME.encode())
            found.append(stream[:2] + said + stream[2:] + NAME.encode())
    return found


def _abbreviated(streams: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Tables that all share, the name among them, and what is left of each (TIFF Tech Note 2)."""
    tables, rest = zip(*map(_without_tables, streams), strict=True)
    assert len(set(tables)) == 1
    said = _segment(0xFE, NAME.encode()) + _segment(0xE1, b"Exif\0\0" + NAME.encode())
    return b"\xff\xd8" + said + tables[0] + b"\xff\xd9", list(rest)


def _without_tables(stream: bytes) -> tuple[bytes, bytes]:
    tables, kept, at = b"", stream[:2], 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at + 1] in (0xC4, 0xDB):
            tables += stream[at:end]
        else:
            kept += stream[at:end]
        at = end
    return tables, kept + stream[at:]


def _fill_directories(path: Path) -> None:
    """Write the EXIF and the GPS directory of the first page, each of one text, at the end."""
    text = NAME.encode() + b"\0"
    text += b"\0" * (len(text) % 2)
    with tifffile.TiffFile(path, mode="r+") as file:
        handle = file.filehandle
        for tag, field in _DIRECTORIES.items():
            handle.seek(0, 2)
            handle.write(b"\0" * (handle.tell() % 2) + text)
            begin = handle.tell()
            handle.write(struct.pack("<HHHII", 1, field, 2, len(text), begin - len(text)))
            handle.write(bytes(4))
            entry = file.pages.first.tags[tag + 1]  # tifffile does not write `tag` itself
            entry.overwrite(begin)
            handle.seek(entry.offset)
            handle.write(struct.pack("<H", tag))


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content
