"""Rectangles out of one page of a TIFF: only the tiles or strips they touch are decoded."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import NamedTuple

import numpy as np
import tifffile

from wsi_hr.errors import SlideError
from wsi_hr.geometry import BoolArray, Bounds, Size, UInt8Array
from wsi_hr.slides.compositing import on_white

MAX_SEGMENT_BYTES = 1 << 30
"""A tile or strip that decodes to more than this is refused: one slide may not fill the memory."""

LARGEST_EDGE_PX = 4_000_000
"""A meter of glass at 0.25 um/px; more is damage, and would be read until the deadline."""

_CACHE_BYTES = 64 << 20
_BAND_BYTES = 1 << 20  # uncompressed strips are read in bands of about this many bytes

_PHOTOMETRICS = {0: "white-is-zero grey", 1: "grey", 2: "RGB", 6: "YCbCr"}
_UNCOMPRESSED = 1
_CONVERTED_FROM_YCBCR = frozenset({7, 33007, 34892})  # JPEG: its decoder gives RGB
_YCBCR_JPEG2000 = 33003
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2


class Segment(NamedTuple):
    """A tile, a strip, or a band of an uncompressed strip.

    Attributes:
        number: position in the page's tables; of the first plane where planes are apart.
        box: its rectangle, px of the page.
        skip: bytes to leave out before it; only in uncompressed strips.
    """

    number: int
    box: Bounds
    skip: int


class SegmentCache:
    """The decoded segments used last, 64 MB of them and always the very last one."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, UInt8Array | None] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> tuple[bool, UInt8Array | None]:
        """Whether the segment is here, and what it holds (None: the scan has nothing there)."""
        with self._lock:
            if key not in self._kept:
                return False, None
            self._kept.move_to_end(key)
            return True, self._kept[key]

    def put(self, key: Hashable, pixels: UInt8Array | None) -> None:
        """Keep a segment, and let go of those not used for longest."""
        with self._lock:
            self._bytes += _num_bytes(pixels) - _num_bytes(self._kept.get(key))
            self._kept[key] = pixels
            while self._bytes > _CACHE_BYTES and len(self._kept) > 1:
                self._bytes -= _num_bytes(self._kept.popitem(last=False)[1])


class TiffPageReader:
    """One page as a level.

    Attributes:
        page: the page.
        size: px of the page.
        tile_size: px that are decoded at a time.
    """

    def __init__(self, file: tifffile.TiffFile, page: tifffile.TiffPage, cache: SegmentCache):
        self._file = file
        self.page = page
        self._cache = cache
        self.size = Size(page.imagewidth, page.imagelength)
        row_bytes = page.imagewidth * page.samplesperpixel
        # Uncompressed rows can be had one by one; so a file that is one single strip is no burden.
        self._banded = (
            page.compression == _UNCOMPRESSED
            and not page.is_tiled
            and page.planarconfig == 1
            and page.predictor == 1
            and page.fillorder == 1
        )
        self._strip_rows = min(page.rowsperstrip or page.imagelength, page.imagelength)
        if page.is_tiled:
            self.tile_size = Size(page.tilewidth, page.tilelength)
        elif self._banded:
            rows = max(1, min(self._strip_rows, _BAND_BYTES // row_bytes))
            self.tile_size = Size(page.imagewidth, rows)
        else:
            self.tile_size = Size(page.imagewidth, self._strip_rows)

    def read(self, region: Bounds) -> tuple[UInt8Array, BoolArray]:
        """Read a rectangle that lies wholly inside the page.

        Returns:
            Pixels u8[h, w, 3] and validity bool[h, w]; a segment without bytes holds nothing.

        Raises:
            SlideError: a segment is damaged or lies behind the end of the file.
        """
        channels = self.page.samplesperpixel
        pixels = np.full((region.h, region.w, channels), 255, np.uint8)
        valid = np.zeros((region.h, region.w), np.bool_)
        for segment in self._segments(region):
            box = segment.box
            left, top = max(region.x, box.x), max(region.y, box.y)
            right = min(region.x + region.w, box.x + box.w)
            bottom = min(region.y + region.h, box.y + box.h)
            decoded = self._decoded(segment)
            if decoded is None:
                continue
            here = (
                slice(top - region.y, bottom - region.y),
                slice(left - region.x, right - region.x),
            )
            pixels[here] = decoded[top - box.y : bottom - box.y, left - box.x : right - box.x]
            valid[here] = True
        return self._coloured(pixels, valid)

    def _segments(self, region: Bounds) -> Iterator[Segment]:
        step = self.tile_size
        across = -(-self.size.w // step.w)
        for row in range(region.y // step.h, -(-(region.y + region.h) // step.h)):
            for col in range(region.x // step.w, -(-(region.x + region.w) // step.w)):
                if not self._banded:
                    box = Bounds(col * step.w, row * step.h, step.w, step.h)
                    yield Segment(row * across + col, box, 0)
                    continue
                yield from self._bands(row * step.h, min(step.h, self.size.h - row * step.h))

    def _bands(self, first: int, num_rows: int) -> Iterator[Segment]:
        """Rows of uncompressed strips; a band that spans two strips comes in two parts."""
        row_bytes = self.size.w * self.page.samplesperpixel
        row = first
        while row < first + num_rows:
            strip, inside = divmod(row, self._strip_rows)
            rows = min(first + num_rows - row, self._strip_rows - inside)
            yield Segment(strip, Bounds(0, row, self.size.w, rows), inside * row_bytes)
            row += rows

    def _decoded(self, segment: Segment) -> UInt8Array | None:
        """Pixels u8[>= h, >= w, samples] of a segment; None where the file has no bytes for it."""
        key = (self.page.offset, segment)
        known, pixels = self._cache.get(key)
        if known:
            return pixels
        try:
            pixels = self._decode(segment)
        except (SlideError, MemoryError):
            raise
        except Exception as cause:  # decoders raise whatever they like on damaged bytes
            raise SlideError(f"a tile or strip is damaged ({cause})") from cause
        self._cache.put(key, pixels)
        return pixels

    def _decode(self, segment: Segment) -> UInt8Array | None:
        page, box = self.page, segment.box
        if self._banded:
            length = box.h * self.size.w * page.samplesperpixel
            data = self._bytes(segment.number, segment.skip, length)
            if data is None:
                return None
            return np.frombuffer(data, np.uint8).reshape(box.h, self.size.w, -1)
        if page.planarconfig == 1:
            return self._decode_plane(segment.number)
        across, down = -(-self.size.w // box.w), -(-self.size.h // box.h)
        planes = [
            self._decode_plane(segment.number + plane * across * down)
            for plane in range(page.samplesperpixel)
        ]
        present = [plane for plane in planes if plane is not None]
        if len(present) < len(planes):
            return None
        return np.concatenate(present, axis=2)

    def _decode_plane(self, index: int) -> UInt8Array | None:
        data = self._bytes(index, 0, None)
        if data is None:
            return None
        page = self.page
        pixels, _, _ = page.decode(
            data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader
        )
        if pixels is None or pixels.dtype != np.uint8:
            raise SlideError("a tile or strip does not hold 8-bit pixels")
        return pixels[0]

    def _bytes(self, index: int, skip: int, length: int | None) -> bytes | None:
        """Encoded bytes of a segment, or a part of them; None where the file has none for it."""
        offset = self.page.dataoffsets[index]
        count = self.page.databytecounts[index]
        if offset == 0 or count == 0:
            return None
        offset, count = offset + skip, count - skip if length is None else length
        # Asked before reading: a damaged count may claim more bytes than there is memory.
        if offset + count > self._file.filehandle.size:
            raise SlideError("a tile or strip lies behind the end of the file")
        data = os.pread(self._file.filehandle.fileno(), count, offset)
        if len(data) < count:
            raise SlideError("the file became shorter while it was read")
        return data

    def _coloured(self, pixels: UInt8Array, valid: BoolArray) -> tuple[UInt8Array, BoolArray]:
        page = self.page
        colours = 1 if page.photometric in (0, 1) else 3
        rgb = pixels[..., :colours]
        if page.photometric == 0:
            rgb = 255 - rgb
        rgb = np.repeat(rgb, 3, axis=2) if colours == 1 else np.ascontiguousarray(rgb)
        alpha = page.extrasamples[0] if page.extrasamples else 0
        if alpha in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA):
            rgba = np.concatenate([rgb, pixels[..., colours : colours + 1]], axis=2)
            rgb, opaque = on_white(rgba, premultiplied=alpha == _ASSOCIATED_ALPHA)
            valid = valid & opaque
        rgb[~valid] = 255
        return rgb, valid


def why_refused(page: tifffile.TiffPage) -> str | None:
    """Why the pixels of a page cannot be shown as colours without guessing; None if they can."""
    colours = {0: 1, 1: 1, 2: 3, 6: 3}.get(int(page.photometric))
    alpha = len(page.extrasamples) > 0 and page.extrasamples[0] in (1, 2)
    if page.imagewidth < 1 or page.imagelength < 1:
        return f"its image of {page.imagewidth} x {page.imagelength} px has no pixels"
    if page.is_tiled and min(page.tilewidth, page.tilelength) < 1:
        return f"its tiles of {page.tilewidth} x {page.tilelength} px have no pixels"
    if max(page.imagewidth, page.imagelength) > LARGEST_EDGE_PX:
        return why_too_long(Size(page.imagewidth, page.imagelength))
    if page.imagedepth != 1 or page.tiledepth > 1:
        return "it is a volume, not one plane"
    if colours is None:
        known = ", ".join(_PHOTOMETRICS.values())
        name = getattr(page.photometric, "name", str(page.photometric))
        return f"its colours are {name}; known are {known}"
    if page.bitspersample != 8 or page.dtype != np.uint8:
        return (
            f"it has {page.bitspersample}-bit samples, as fluorescence has; 8-bit brightfield "
            "is needed"
        )
    if page.samplesperpixel not in {colours, colours + 1} or (
        page.samplesperpixel == colours + 1 and colours == 1 and not alpha
    ):
        return (
            f"it has {page.samplesperpixel} channels, as fluorescence has; RGB or one grey "
            "channel is needed"
        )
    if page.compression == _YCBCR_JPEG2000 or (
        page.photometric == 6 and page.compression not in _CONVERTED_FROM_YCBCR
    ):
        return "its YCbCr colours are compressed in a way that leaves them so"
    if page.compression not in tifffile.TIFF.DECOMPRESSORS and page.compression != _UNCOMPRESSED:
        return f"its compression {int(page.compression)} is unknown"
    return None


def why_too_long(size: Size) -> str | None:
    """Why a slide of that size cannot be one; None if it can."""
    if max(size) <= LARGEST_EDGE_PX:
        return None
    return f"it declares {size.w} x {size.h} px, which no scanner makes; its header is damaged"


def why_too_large(tile_size: Size, channels: int) -> str | None:
    """Why decoding one tile would take too much memory; None if it would not."""
    if tile_size.w * tile_size.h * channels <= MAX_SEGMENT_BYTES:
        return None
    return (
        f"one tile or strip has {tile_size.w} x {tile_size.h} px, more than can be decoded in "
        "bounded memory; save it with tiles of 256 or 512 px, e.g. with vips tiffsave --tile "
        "--pyramid"
    )


def _num_bytes(pixels: UInt8Array | None) -> int:
    return 0 if pixels is None else pixels.nbytes
