"""The JPEG tiles of one level as they lie in a TIFF: found by offset, completed, decoded.

Most slides are such TIFFs. Their tiles are abbreviated: the tables they share stand once in the
page's tag JPEGTables and are put in front of each (TIFF Technical Note 2). This is the shortest way
from file to pixels; whoever opened the slide remains the judge of what it shows
(:mod:`wsi_hr.slides.self_check`).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Bounds, Int64Array, Size, UInt8Array
from wsi_hr.jpeg_segments import bare_jpeg, embedded_profile, jpeg_header
from wsi_hr.pixel_memory import empty_pixels

_JPEG = 7
_RGB, _YCBCR = 2, 6
_LARGEST_TILE_PX = 4096
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
# An Adobe APP14 segment that says "no colour transform": without it a decoder takes three
# components for YCbCr. Source: ISO/IEC 10918-6, 6.5.3.
_APP14_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


class JpegTiles:
    """The tiles of one level; thread-safe.

    Attributes:
        path: the file.
        level_size: px of the level.
        tile_size: px of a tile; those at the right and bottom border reach beyond the level.
        grid_size: tiles across and down.
        byte_counts: i64[down, across] bytes of every tile as it lies in the file.
        prefix: what a tile's stream has in place of the tile's own start of image.
    """

    def __init__(self, path: Path, page: tifffile.TiffPage) -> None:
        """Take the tiles of ``page``, for which :func:`has_jpeg_tiles` holds.

        Raises:
            SlideError: its tables are damaged, or the file cannot be opened.
        """
        self.path = path
        self.level_size = Size(page.imagewidth, page.imagelength)
        self.tile_size = Size(page.tilewidth, page.tilelength)
        across, down = (
            -(-whole // edge) for whole, edge in zip(self.level_size, self.tile_size, strict=True)
        )
        self.grid_size = Size(across, down)
        if not len(page.dataoffsets) == len(page.databytecounts) == across * down:
            raise SlideError(f"{path}: its table of tiles does not fit its size")
        if not {*map(type, page.dataoffsets), *map(type, page.databytecounts)} <= {int}:
            raise SlideError(f"{path}: its table of tiles holds something else than whole numbers")
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        self.byte_counts: Int64Array = np.array(page.databytecounts, np.int64).reshape(down, across)
        self._tables = b"" if page.jpegtables is None else bytes(page.jpegtables)
        self.prefix = _prefix(page, self._tables)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as cause:
            raise SlideError(f"{path}: cannot be opened ({cause.strerror})") from cause
        self._finalizer = weakref.finalize(self, os.close, self._fd)
        self._file_bytes = os.fstat(self._fd).st_size
        self._proven: bytes | None = None

    def close(self) -> None:
        """Let go of the file."""
        self._finalizer()

    def box(self, col: int, row: int) -> Bounds:
        """The part of a tile that lies on the level, px of the level."""
        left, top = col * self.tile_size.w, row * self.tile_size.h
        right = min(left + self.tile_size.w, self.level_size.w)
        bottom = min(top + self.tile_size.h, self.level_size.h)
        return Bounds(left, top, right - left, bottom - top)

    def stream(self, col: int, row: int) -> bytes:
        """A tile as a JPEG stream that needs nothing else.

        Raises:
            SlideError: the file has no such bytes, or they do not begin as a JPEG does.
        """
        offset, count = self._place(col, row)
        data = os.pread(self._fd, count, offset)
        if len(data) < count or not data.startswith(_SOI):
            raise SlideError(f"{self.path}: tile ({col}, {row}) is no JPEG")
        return b"".join((self.prefix, memoryview(data)[len(_SOI) :]))

    def read_into(self, places: Sequence[Sequence[int]], out: memoryview) -> list[int]:
        """Read tiles (col, row) as they lie in the file, without :attr:`prefix`, end to end.

        What lies side by side in the file is read at once.

        Returns:
            Where each ends in ``out``.

        Raises:
            SlideError: the file has no such bytes, or ``out`` is too short for them.
        """
        stops: list[int] = []
        stop = 0
        runs: list[tuple[int, int]] = []  # where each begins, in the file and in ``out``
        end_in_file = -1
        for col, row in places:
            offset, count = self._place(col, row)
            if offset != end_in_file:
                runs.append((offset, stop))
            stop += count
            end_in_file = offset + count
            stops.append(stop)
        if stop > len(out):
            raise SlideError(f"{self.path}: {len(stops)} tiles need more than {len(out)} bytes")
        ends = [start for _, start in runs[1:]] + [stop]
        for (offset, start), end in zip(runs, ends, strict=True):
            if os.preadv(self._fd, (out[start:end],), offset) < end - start:
                raise SlideError(f"{self.path}: the file became shorter while it was read")
        return stops

    def _place(self, col: int, row: int) -> tuple[int, int]:
        """Offset and length of a tile in the file, bytes."""
        place = row * self.grid_size.w + col
        offset, count = self._offsets[place], self._counts[place]
        # Asked before reading: a damaged count may claim more bytes than there is memory.
        if offset <= 0 or count <= len(_SOI) or offset + count > self._file_bytes:
            raise SlideError(f"{self.path}: the file has no bytes for tile ({col}, {row})")
        return offset, count

    def embedded_profile(self) -> bytes | None:
        """The ICC profile that tiles hold: that of their tables, or else of the first tile.

        None where they have none, or the first tile is damaged.
        """
        of_tables = embedded_profile(self._tables)
        if of_tables is not None:
            return of_tables
        present = self.byte_counts.ravel().nonzero()[0]
        if not len(present):
            return None
        row, col = divmod(int(present[0]), self.grid_size.w)
        try:
            return embedded_profile(self.stream(col, row))
        except SlideError:
            return None

    def decode_into(
        self, stream: bytes, out: UInt8Array, decode_scale: int, *, smooth_chroma: bool = True
    ) -> None:
        """Decode a tile's stream, reduced by the decoder itself.

        Args:
            stream: see :meth:`stream`.
            out: u8[tile h / decode_scale, tile w / decode_scale, 3], contiguous.
            decode_scale: 1, 2, 4 or 8: px of the level per px of ``out``. Above 1 only the low
                frequencies of each 8 x 8 block are transformed.
            smooth_chroma: interpolate colours that lie in the file at half the resolution, as every
                viewer does; False: repeat them, an eighth faster.

        Raises:
            SlideError: the stream is damaged, or of another size than the tiles are.
        """
        height, width = out.shape[:2]
        try:
            known = self.begins_as_proven(stream)
            if not known:
                rows, cols, _, _ = simplejpeg.decode_jpeg_header(stream)
                if (cols, rows) != self.tile_size:
                    raise SlideError(f"{self.path}: a tile announces {cols} x {rows} px")
            simplejpeg.decode_jpeg(
                stream, "RGB", False, not smooth_chroma, height, width, decode_scale, out
            )
            if not known:
                self._proven = jpeg_header(stream)
        except ValueError as cause:
            raise SlideError(f"{self.path}: a tile is damaged ({cause})") from cause

    def begins_as_proven(self, stream: bytes) -> bool:
        """Whether tables, sizes and scan header are those of a tile that was decoded before."""
        return self._proven is not None and stream.startswith(self._proven)

    def read(self, region: Bounds, decode_scale: int) -> UInt8Array:
        """A rectangle of the level, reduced by the decoder.

        Args:
            region: px of the level, inside it; its corner is a multiple of ``decode_scale``.
            decode_scale: see :meth:`decode_into`.

        Returns:
            u8[h / decode_scale, w / decode_scale, 3], rounded up: a last px may lie on the level
            in part.

        Raises:
            SlideError: one of its tiles is absent or damaged.
        """
        step = Size(self.tile_size.w // decode_scale, self.tile_size.h // decode_scale)
        left, top = region.x // decode_scale, region.y // decode_scale
        right = -(-(region.x + region.w) // decode_scale)
        bottom = -(-(region.y + region.h) // decode_scale)
        pixels = np.empty((bottom - top, right - left, 3), np.uint8)
        tile = empty_pixels(step.h, step.w, 3)
        for row in range(top // step.h, (bottom - 1) // step.h + 1):
            y = row * step.h
            rows = slice(max(top, y), min(bottom, y + step.h))
            for col in range(left // step.w, (right - 1) // step.w + 1):
                x = col * step.w
                cols = slice(max(left, x), min(right, x + step.w))
                self.decode_into(self.stream(col, row), tile, decode_scale)
                pixels[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left] = (
                    tile[rows.start - y : rows.stop - y, cols.start - x : cols.stop - x]
                )
        return pixels


def has_jpeg_tiles(page: tifffile.TiffPage) -> bool:
    """Whether a page consists of baseline 8-bit colour JPEG tiles, each decodable on its own."""
    return (
        page.is_tiled
        and page.compression == _JPEG
        and page.photometric in (_RGB, _YCBCR)
        and page.bitspersample == 8
        and page.samplesperpixel == 3
        and page.planarconfig == 1
        and page.fillorder == 1
        and page.imagedepth == page.tiledepth == 1
        and 0 < max(page.tilewidth, page.tilelength) <= _LARGEST_TILE_PX
        and page.tilewidth % 16 == page.tilelength % 16 == 0
    )


def _prefix(page: tifffile.TiffPage, tables: bytes) -> bytes:
    """What goes in front of a tile, in place of its own start marker."""
    colour = _APP14_RGB if page.photometric == _RGB else b""
    if not tables:
        return _SOI + colour
    try:
        bare = bare_jpeg(tables)
    except ValueError as cause:
        raise SlideError(
            f"{page.parent.filename}: its JPEG tables are damaged ({cause})"
        ) from cause
    if not bare.endswith(_EOI):
        raise SlideError(f"{page.parent.filename}: its JPEG tables have no end")
    return _SOI + colour + bare[len(_SOI) : -len(_EOI)]
