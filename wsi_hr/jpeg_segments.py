"""The segments of a JPEG stream: how it begins, and what of it a decoder needs.

Besides the picture a stream may hold comments, EXIF, XMP, IPTC and small pictures: who scanned
what, when, and for whom. They may stand between any two of its markers, and after its end.

Source: ISO/IEC 10918-1, annex B; JFIF and Adobe's APP14, which say what the components mean, as
ISO/IEC 10918-5 and 10918-6 describe them; ICC profiles in APP2 after ICC.1, annex B.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN, _NUM_LINES = 0xD8, 0xD9, 0xDA, 0xDC
_RESTART_INTERVAL, _FRAMES_OF_BLOCKS = 0xDD, frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_BLOCK_PX = 8
_LONGEST_FRAME = 8 + 3 * 255  # bytes of its segment, and of a scan's header less
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
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00]")


class _Segment(NamedTuple):
    """What follows one marker.

    Attributes:
        marker: second byte of the marker; ``_SCAN_DATA`` where the entropy-coded data of a scan
            stand.
        start: position of the segment behind its marker, its own length first.
        stop: position behind it.
        restarts: where restart markers stand in the data of a scan, with what fills the space
            before them.
    """

    marker: int
    start: int
    stop: int
    restarts: Sequence[int] = ()


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
    ICC profiles among them, bytes that stand between segments, what follows a restart marker that
    the scan has no blocks for, and what follows the end. Nothing is decoded, so bytes right behind
    the last block of a scan, with no marker before them, cannot be told from its data. A stream
    without an end, as a damaged one is, stays without.

    Raises:
        ValueError: the markers lead nowhere, or to one that no decoder knows.
    """
    parts: list[bytes | memoryview] = [_SOI]
    whole = memoryview(stream)
    restarts = _Restarts()
    for segment in _segments(stream):
        marker, start, stop, _ = segment
        if marker == _SCAN_DATA:
            parts.append(whole[start : restarts.end_of_blocks(stream, segment)])
            continue
        restarts.see(marker, stream[start + 2 : min(stop, start + _LONGEST_FRAME)])
        if marker in _NEEDED or (marker == _NUM_LINES and stop - start == 4):
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
        for marker, start, stop, _ in _segments(stream):
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
            end, restarts = _end_of_scan(stream, position)
            yield _Segment(_SCAN_DATA, position, end, restarts)
            if end == len(stream):
                return
            position = end


def _place_of_code(stream: bytes, position: int) -> int:
    """Where the second byte of a marker stands; FF may fill the space before it."""
    while position < len(stream) and stream[position] == 0xFF:
        position += 1
    return position


def _end_of_scan(stream: bytes, start: int) -> tuple[int, list[int]]:
    """Position of the marker that ends the entropy-coded data at ``start``; else of the end.

    Also where the restart markers are, which are part of the data. FF in them has 00 behind it.
    """
    position = start
    restarts: list[int] = []
    while (found := _MARKER_IN_SCAN.search(stream, position)) is not None:
        code = _place_of_code(stream, found.end() - 1)
        if code < len(stream) and 0xD0 <= stream[code] <= 0xD7:
            restarts.append(found.start())
        elif code < len(stream) and stream[code] != 0x00:
            return found.start(), restarts
        position = code
    return len(stream), restarts


class _Restarts:
    """How many restart markers the scans of a stream have blocks for.

    Source: ISO/IEC 10918-1, A.2 (order of the blocks), B.2.4.4, E.1.3.
    """

    def __init__(self) -> None:
        self._interval = 0
        self._size_px = (0, 0)
        self._sampling: dict[int, tuple[int, int]] = {}  # by component, across and down
        self._num: int | None = 0

    def see(self, marker: int, content: bytes) -> None:
        """Learn what a segment says of it."""
        if marker == _RESTART_INTERVAL:
            self._interval = int.from_bytes(content[:2], "big")
        elif marker in _FRAMES_OF_BLOCKS and len(content) >= 6:
            height, width = (int.from_bytes(content[k : k + 2], "big") for k in (1, 3))
            self._size_px = (width, height)
            self._sampling = {
                content[k]: (content[k + 1] >> 4, content[k + 1] & 15)
                for k in range(6, len(content) - 2, 3)
            }
        elif marker == _START_OF_SCAN and content:
            self._num = self._num_of(content[1 : 1 + 2 * content[0] : 2])

    def end_of_blocks(self, stream: bytes, data: _Segment) -> int:
        """Where the data of a scan end that a decoder looks at, at the latest."""
        num, at = self._num, data.restarts
        if num is None or len(at) <= num:
            return data.stop
        codes = (stream[_place_of_code(stream, position)] for position in at[:num])
        if any(code & 7 != number & 7 for number, code in enumerate(codes)):
            return data.stop  # one is lost, and decoders go on as they find the others
        return at[num]

    def _num_of(self, components: bytes) -> int | None:
        """Those of a scan; None where its blocks cannot be counted."""
        if not self._interval:
            return 0
        factors = list(self._sampling.values())
        if not all(self._size_px) or not {*components} <= self._sampling.keys():
            return None
        if not components or not all(map(all, factors)):
            return None
        units = 1
        for axis, px in enumerate(self._size_px):
            most = max(factor[axis] for factor in factors)
            own = self._sampling[components[0]][axis] if len(components) == 1 else 1
            units *= -(-px * own // (_BLOCK_PX * most))
        return -(-units // self._interval) - 1


def _told_of_colours(marker: int, content: bytes) -> bytes:
    """What an application segment says of the components, as a segment; else nothing."""
    if marker == _APP0 and content.startswith(_JFIF) and len(content) >= _JFIF_BYTES:
        content = content[: _JFIF_BYTES - 2] + b"\0\0"
    elif marker == _APP14 and content.startswith(_ADOBE) and len(content) >= _ADOBE_BYTES:
        content = content[:_ADOBE_BYTES]
    else:
        return b""
    return bytes((0xFF, marker)) + (2 + len(content)).to_bytes(2, "big") + content
