"""JPEG streams that tell a name beside their picture, wherever a stream has room for it."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import simplejpeg
from PIL import Image

NAME = b"DOE_JANE_1961"
SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + (2 + len(content)).to_bytes(2, "big") + content


COMMENT = segment(0xFE, NAME)
EXIF = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + NAME)


def profile_segments(profile: bytes, part: int = 60_000) -> bytes:
    """An ICC profile in APP2, in as many parts as it takes."""
    parts = [profile[first : first + part] for first in range(0, len(profile), part)]
    return b"".join(
        segment(0xE2, b"ICC_PROFILE\0" + bytes((number, len(parts))) + content)
        for number, content in enumerate(parts, 1)
    )


def first(stream: bytes, *segments: bytes) -> bytes:
    return SOI + b"".join(segments) + stream[2:]


def before(stream: bytes, marker: bytes, *segments: bytes) -> bytes:
    """Segments in front of the end of the image, or of the first of another ``marker``."""
    at = stream.rindex(EOI) if marker == EOI else stream.index(marker)
    return stream[:at] + b"".join(segments) + stream[at:]


def _jfif(thumbnail: bytes, width: int) -> bytes:
    return segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1" + bytes((width, 1)) + thumbnail)


TOLD: dict[str, Callable[[bytes], bytes]] = {
    "COM": lambda stream: first(stream, COMMENT),
    "EXIF in APP1": lambda stream: first(stream, EXIF),
    "XMP in APP1": lambda stream: first(
        stream, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>" + NAME)
    ),
    "ICC in APP2": lambda stream: first(stream, profile_segments(NAME * 9, 50)),
    "IPTC in APP13": lambda stream: first(stream, segment(0xED, b"Photoshop 3.0\0" + NAME)),
    "APP14 that is not Adobe's": lambda stream: first(stream, segment(0xEE, NAME)),
    "behind Adobe's fields": lambda stream: first(
        stream, segment(0xEE, b"Adobe\0\x64\0\0\0\0\1" + NAME)
    ),
    "JFIF thumbnail": lambda stream: first(stream, _jfif((NAME * 3)[:39], 13)),
    "JFXX": lambda stream: first(stream, segment(0xE0, b"JFXX\0\x10" + SOI + NAME + EOI)),
    "APP5 twice": lambda stream: first(stream, segment(0xE5, NAME), segment(0xE5, NAME)),
    "behind the tables": lambda stream: before(stream, b"\xff\xda", COMMENT, EXIF),
    "behind fill bytes": lambda stream: before(stream, b"\xff\xda", b"\xff\xff\xff", COMMENT),
    "before the end": lambda stream: before(stream, EOI, COMMENT),
    "before the end, filled": lambda stream: before(stream, EOI, b"\xff", EXIF, b"\xff\xff"),
    "behind a restart marker": lambda stream: before(stream, EOI, b"\xff\xd3", NAME),
    "behind two, filled": lambda stream: before(stream, EOI, b"\xff\xff\xd0\xff\xd1", NAME),
    "behind the end": lambda stream: stream + NAME,
    "behind the end, as a picture": lambda stream: stream + first(stream, COMMENT),
    "everywhere": lambda stream: before(first(stream, COMMENT, EXIF), EOI, COMMENT) + EXIF,
}
"""How a stream comes to tell the name; it shows the same picture."""

WARNED_OF = ("behind a restart marker", "behind two, filled")
"""Those that decoders warn of: a slide whose tiles are all so is decoded, not copied."""


def tissue(edge: int, seed: int = 0) -> np.ndarray:
    """Blobs of colour u8[edge, edge, 3], with fine grain."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(40, 200, (edge // 8, edge // 8, 3)), np.ones((8, 8, 1)))
    return (coarse + rng.integers(0, 30, (edge, edge, 3))).astype(np.uint8)


def baseline(pixels: np.ndarray, subsampling: str = "444") -> bytes:
    return simplejpeg.encode_jpeg(pixels, quality=85, colorsubsampling=subsampling)


def by_pil(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85, **options)
    return file.getvalue()


def scan_per_component(pixels: np.ndarray) -> bytes:
    """A baseline stream with three scans: those of three grey pictures, whose tables are alike."""
    planes = [by_pil(np.ascontiguousarray(pixels[..., k])) for k in range(3)]
    frame, scan = planes[0].index(b"\xff\xc0"), planes[0].index(b"\xff\xda")
    after_frame = frame + 2 + int.from_bytes(planes[0][frame + 2 : frame + 4], "big")
    edge = len(pixels).to_bytes(2, "big")
    parts = [planes[0][:frame]]
    parts.append(segment(0xC0, b"\x08" + edge * 2 + b"\x03\1\x11\0\2\x11\0\3\x11\0"))
    parts.append(planes[0][after_frame:scan])
    for number, plane in enumerate(planes, 1):
        data = plane.index(b"\xff\xda") + 10
        parts += [segment(0xDA, bytes((1, number, 0, 0, 63, 0))), plane[data:-2]]
    return b"".join([*parts, EOI])


STREAMS: dict[str, Callable[[np.ndarray], bytes]] = {
    "baseline": baseline,
    "halved colours": lambda pixels: baseline(pixels, "420"),
    "RGB": lambda pixels: by_pil(pixels, keep_rgb=True, subsampling=0),
    "grey": lambda pixels: by_pil(np.ascontiguousarray(pixels[..., 0])),
    "restart markers": lambda pixels: by_pil(pixels, restart_marker_blocks=3),
    "progressive": lambda pixels: by_pil(pixels, progressive=True),
    "progressive, restart markers": lambda pixels: by_pil(
        pixels, progressive=True, restart_marker_blocks=2
    ),
    "a scan per component": scan_per_component,
}
"""Kinds of streams that a decoder takes."""


def between_scans(stream: bytes) -> bytes:
    """A comment, EXIF and a repeated table of quantisation right in front of the second scan."""
    second = stream.index(b"\xff\xda", stream.index(b"\xff\xda") + 2)
    start = stream.index(b"\xff\xdb")
    table = stream[start : start + 2 + int.from_bytes(stream[start + 2 : start + 4], "big")]
    return stream[:second] + COMMENT + b"\xff\xff" + table + EXIF + stream[second:]


def shown(stream: bytes) -> np.ndarray:
    """The pixels of a stream, whatever a decoder has to mend."""
    grey = simplejpeg.decode_jpeg_header(stream, strict=False)[2] == "Gray"
    return simplejpeg.decode_jpeg(stream, "GRAY" if grey else "RGB", strict=False)
