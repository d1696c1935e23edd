"""The beginning of a JPEG stream, by which streams that were made alike are known again."""

from __future__ import annotations

_START_OF_IMAGE_BYTES = 2
_START_OF_SCAN = 0xDA


def jpeg_header(stream: bytes) -> bytes | None:
    """What stands before the entropy-coded data: tables, sizes, scan header.

    None where the markers do not lead to a scan. Source: ISO/IEC 10918-1, annex B.
    """
    position = _START_OF_IMAGE_BYTES
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        if marker == _START_OF_SCAN:
            return stream[:position]
    return None
