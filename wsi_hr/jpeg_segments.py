"""The segments of a JPEG stream: how it begins, and what of it a decoder needs.

Besides the picture a stream may hold comments, EXIF, XMP, IPTC and small pictures: who scanned
what, when, and for whom. They may stand between any two of its markers, and after its end.

Source: ISO/IEC 10918-1, annex B; JFIF and Adobe's APP14, which say what the components mean, as
ISO/IEC 10918-5 and 10918-6 describe them; ICC profiles in APP2 after ICC.1, annex B.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN, _NUM_LINES = 0xD8, 0xD9, 0xDA, 0xDC
_APP0, _APP2, _APP14, _APP15, _COMMENT = 0xE0, 0xE2, 0xEE, 0xEF, 0xFE
# Frames, tables of quantisation and of codes, scans, restart intervals.
_NEEDED = frozenset({*range(0xC0, 0xD0), _START_OF_SCAN, 0xDB, 0xDD}) - {0xC8}
_WITHOUT_SEGMENT = frozenset({0x01, *range(0xD0, 0xD8)})
_SCAN_DATA = 0x00  # in place of a marker: no marker has this number
_JFIF, _JFIF_BYTES = b"JFIF\0", 14  # without a thumbnail, whose width and height are the last two
_ADOBE, _ADOBE_BYTES = b"Adobe", 12
_ICC, _ICC_HEAD_BYTES = b"ICC_PROFILE\0", 14

_MARKER = re.compile(rb"\xff[^\x00\xff]")
# A first byte that is fixed is searched for fast. FF that another FF follows is looked at again.
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")


class _Segment(NamedTuple):
    """What follows one marker.

    Attributes:
        marker: second byte of the marker; ``_SCAN_DATA`` where the entropy-coded data of a scan
            stand.
        start: position of the segment behind its marker, its own length first.
        stop: position behind it.
    """

    marker: int
    start: int
    stop: int


def jpeg_header(stream: bytes) -> bytes | None:
    """What stands before the entropy-coded data: tables, sizes, scan header.

    Streams that were made alike are known again by it. None where the markers do not lead to a
    scan.
    """
    try:
        for segment in _segments(stream):
            if segment.marker == _START_OF_SCAN:
                return stream[: segment.stop]
    except ValueError:
        return None
    return None


def num_markers(data: bytes | memoryview, *, restarts: bool = True) -> int:
    """How often FF stands in ``data`` with something else than 00 behind it, as in markers.

    Args:
        data: bytes of any streams.
        restarts: also count what looks like the restart markers among the data of a scan.
    """
    whole = np.frombuffer(data, np.uint8)
    behind = whole[1:]
    found = np.empty(len(behind), np.bool_)
    np.equal(whole[:-1], 0xFF, out=found)
    np.minimum(found.view(np.uint8), behind, out=found.view(np.uint8))
    num = int(np.count_nonzero(found))
    if not restarts:
        num -= int(np.count_nonzero((behind[found] & 0xF8) == 0xD0))
    return num


def bare_jpeg(stream: bytes) -> bytes:
    """``stream`` without what decoding does not need: it shows the same pixels, bit for bit.

    What stays are frames, tables and scans as they are, restart markers among their data; JFIF's
    mark without its thumbnail, and Adobe's. Comments go, all other application segments, EXIF and
    ICC profiles among them, bytes that stand between segments, and what follows the end. Nothing is
    decoded. A stream without an end, as a damaged one is, stays without.

    Raises:
        ValueError: the markers lead nowhere, or to one that no decoder knows.
    """
    parts: list[bytes | memoryview] = [_SOI]
    whole = memoryview(stream)
    for marker, start, stop in _segments(stream):
        if marker == _SCAN_DATA:
            parts.append(whole[start:stop])
        elif marker in _NEEDED or (marker == _NUM_LINES and stop - start == 4):
            parts += (bytes((0xFF, marker)), whole[start:stop])
        elif marker == _END_OF_IMAGE:
            parts.append(_EOI)
        elif _APP0 <= marker <= _APP15:
            parts.append(_told_of_colours(marker, stream[start + 2 : stop]))
        elif marker not in {_COMMENT, _NUM_LINES}:
            raise ValueError(f"no decoder knows its marker {marker:#04x}")
    return b"".join(parts)


def embedded_profile(stream: bytes) -> bytes | None:
    """The ICC profile that a stream holds before its first scan; None: none, or not all of one."""
    parts: dict[int, bytes] = {}
    expected = 0
    try:
        for marker, start, stop in _segments(stream):
            content = stream[start + 2 : stop]
            if marker == _SCAN_DATA:
                break
            if marker == _APP2 and content.startswith(_ICC) and len(content) > _ICC_HEAD_BYTES:
                number, expected = content[len(_ICC) : _ICC_HEAD_BYTES]
                parts[number] = content[_ICC_HEAD_BYTES:]
    except ValueError:
        return None
    if not parts or sorted(parts) != list(range(1, expected + 1)):
        return None
    return b"".join(parts[number] for number in sorted(parts))


def _segments(stream: bytes) -> Iterator[_Segment]:
    """The segments in their order, up to the end of the image, or of the data of a last scan.

    As decoders do, bytes between a segment and the next marker are passed over.

    Raises:
        ValueError: the stream does not begin as a JPEG does, or ends in a segment or before a scan.
    """
    if not stream.startswith(_SOI):
        raise ValueError("it does not begin as a JPEG does")
    position = len(_SOI)
    while True:
        found = _MARKER.search(stream, position)
        if found is None:
            raise ValueError("it ends before its picture does")
        marker, start = stream[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            yield _Segment(marker, start, start)
            return
        if marker == _START_OF_IMAGE:
            raise ValueError("it begins anew before its end")
        if marker in _WITHOUT_SEGMENT:
            position = start
            continue
        position = start + int.from_bytes(stream[start : start + 2], "big")
        if not start + 2 <= position <= len(stream):
            raise ValueError("it ends inside a segment")
        yield _Segment(marker, start, position)
        if marker == _START_OF_SCAN:
            end = _end_of_scan(stream, position)
            yield _Segment(_SCAN_DATA, position, end)
            if end == len(stream):
                return
            position = end


def _end_of_scan(stream: bytes, start: int) -> int:
    """Position of the marker that ends the entropy-coded data at ``start``; else of the end.

    FF in the data has 00 behind it; restart markers are part of them.
    """
    position = start
    while (found := _MARKER_IN_SCAN.search(stream, position)) is not None:
        code = found.end() - 1
        while code < len(stream) and stream[code] == 0xFF:  # FF may fill the space before a marker
            code += 1
        if code < len(stream) and stream[code] != 0x00 and not 0xD0 <= stream[code] <= 0xD7:
            return found.start()
        position = code
    return len(stream)


def _told_of_colours(marker: int, content: bytes) -> bytes:
    """What an application segment says of the components, as a segment; else nothing."""
    if marker == _APP0 and content.startswith(_JFIF) and len(content) >= _JFIF_BYTES:
        content = content[: _JFIF_BYTES - 2] + b"\0\0"
    elif marker == _APP14 and content.startswith(_ADOBE) and len(content) >= _ADOBE_BYTES:
        content = content[:_ADOBE_BYTES]
    else:
        return b""
    return bytes((0xFF, marker)) + (2 + len(content)).to_bytes(2, "big") + content
