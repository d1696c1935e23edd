"""Aperio-like slides: tiled JPEG pyramids that OpenSlide opens as vendor ``aperio``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile
from PIL import Image

from wsi_hr.geometry import Point, Size, UInt8Array
from wsi_hr.runtime import atomic_path

TILE_PX = 256

_LEVELS = (4, 16)  # downsamples after level 0
_QUALITY = 80
_THUMBNAIL_PX = 768
_SOFTWARE = "Aperio Image Library v11.2.1"
_TENFOLD_MPP = 1.0  # um/px of a 10x objective: AppMag = 10 * _TENFOLD_MPP / mpp


def write_svs(
    path: Path,
    *,
    size: Size,
    mpp: float,
    tile_at: Callable[[Point], UInt8Array | None],
    glass: UInt8Array,
) -> None:
    """Write levels 1, 4 and 16 and a thumbnail; the file appears whole or not at all.

    Level-0 tiles are asked for once each, row by row, and not kept: memory is bounded by level 1.

    Args:
        path: file to write, suffix ``.svs``.
        size: level-0 px; multiples of ``TILE_PX``.
        mpp: um per level-0 px.
        tile_at: gives the tile u8[TILE_PX, TILE_PX, 3] whose top-left level-0 px is given, or
            ``None`` for bare glass.
        glass: u8[K, TILE_PX, TILE_PX, 3] tiles of bare glass, used in turn.

    Raises:
        ValueError: ``size`` is not made of whole tiles.
    """
    if min(size) < TILE_PX or size.w % TILE_PX or size.h % TILE_PX:
        raise ValueError(f"size {tuple(size)}: a whole number of {TILE_PX} px tiles is needed")
    first = _LEVELS[0]
    level1 = np.empty((size.h // first, size.w // first, 3), dtype=np.uint8)
    with (
        atomic_path(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=False) as writer,
    ):
        frame = f"{_SOFTWARE}\r\n{size.w}x{size.h}"
        window = f"{frame} [0,0 {size.w}x{size.h}] ({TILE_PX}x{TILE_PX})"
        scan = f"AppMag = {10 * _TENFOLD_MPP / mpp:g}|MPP = {mpp:.4f}"
        _write_level(
            writer,
            size,
            _level0_tiles(size, tile_at, glass, level1),
            f"{window} JPEG/RGB Q={_QUALITY}|{scan}",
        )
        thumbnail = Image.fromarray(level1)
        thumbnail.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
        writer.write(
            np.asarray(thumbnail),
            photometric="rgb",
            compression="jpeg",
            compressionargs={"level": _QUALITY},
            rowsperstrip=16,
            description=f"{frame} -> {thumbnail.width}x{thumbnail.height} - |{scan}",
            metadata=None,
            software=False,
        )
        for downsample in _LEVELS:
            image = Image.fromarray(level1).reduce(downsample // first)
            _write_level(
                writer,
                Size(*image.size),
                _tiles(np.asarray(image)),
                f"{window} -> {image.width}x{image.height} JPEG/RGB Q={_QUALITY}",
            )


def _write_level(
    writer: tifffile.TiffWriter, size: Size, tiles: Iterable[bytes], description: str
) -> None:
    writer.write(
        iter(tiles),
        shape=(size.h, size.w, 3),
        dtype=np.uint8,
        tile=(TILE_PX, TILE_PX),
        photometric="ycbcr",
        subsampling=(2, 2),
        compression="jpeg",
        subfiletype=0,  # Aperio tells its levels from label and macro by the tiles alone
        description=description,
        metadata=None,
        software=False,
    )


def _level0_tiles(
    size: Size,
    tile_at: Callable[[Point], UInt8Array | None],
    glass: UInt8Array,
    level1: UInt8Array,
) -> Iterator[bytes]:
    """Encoded tiles, row by row; ``level1`` is painted on the way."""
    encoded_glass = [(_encode(tile), _reduce(tile)) for tile in glass]
    edge = TILE_PX // _LEVELS[0]
    for row in range(size.h // TILE_PX):
        for col in range(size.w // TILE_PX):
            tile = tile_at(Point(col * TILE_PX, row * TILE_PX))
            if tile is None:
                encoded, small = encoded_glass[(7 * row + 3 * col) % len(glass)]
            else:
                encoded, small = _encode(tile), _reduce(tile)
            level1[row * edge : (row + 1) * edge, col * edge : (col + 1) * edge] = small
            yield encoded


def _tiles(image: UInt8Array) -> Iterator[bytes]:
    """Encoded tiles of a level, row by row; those at the border repeat their last px."""
    height, width = image.shape[:2]
    padding = ((0, -height % TILE_PX), (0, -width % TILE_PX), (0, 0))
    whole = np.pad(image, padding, mode="edge")
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            yield _encode(whole[y : y + TILE_PX, x : x + TILE_PX])


def _reduce(tile: UInt8Array) -> UInt8Array:
    return np.asarray(Image.fromarray(tile).reduce(_LEVELS[0]))


def _encode(tile: UInt8Array) -> bytes:
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(tile), quality=_QUALITY, colorspace="RGB", colorsubsampling="420"
    )
