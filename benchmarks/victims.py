"""Small slides of real formats, for the fault harness to damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tifffile

from wsi_hr.geometry import Point, Size, UInt8Array
from wsi_hr.runtime import rng_for
from wsi_hr.testing.svs import TILE_PX, write_svs

_PINK = np.array([215, 120, 170])
_EDGE_PX = 2 * TILE_PX  # of a victim
_PER_CM = (20_000, 20_000)  # 0.5 um/px
_START_OF_SCAN = 0xDA
_TABLE_MARKERS = (0xDB, 0xC4)  # DQT, DHT


def write_pink_slide(path: Path, *, seed: int, size: Size) -> Path:
    """An Aperio-like slide, all tissue: blocky pink noise that depends on ``seed`` alone."""
    rng = rng_for(seed, "pink")
    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)

    def tile_at(_: Point) -> UInt8Array:
        return _tissue(rng, TILE_PX)

    write_svs(path, size=size, mpp=0.5, tile_at=tile_at, glass=glass)
    return path


def _svs(path: Path, seed: int) -> None:
    write_pink_slide(path, seed=seed, size=Size(_EDGE_PX, _EDGE_PX))


def _jpeg(path: Path, seed: int) -> None:
    """JPEG tiles that share their tables, as scanners write them."""
    picture = _tissue(rng_for(seed, "jpeg"), _EDGE_PX)
    with tifffile.TiffWriter(path) as writer:
        for level, pixels in enumerate((picture, picture[::4, ::4])):
            height, width = pixels.shape[:2]
            padded = np.pad(pixels, ((0, -height % TILE_PX), (0, -width % TILE_PX), (0, 0)), "edge")
            parts = [
                _split_tables(padded[y : y + TILE_PX, x : x + TILE_PX])
                for y in range(0, height, TILE_PX)
                for x in range(0, width, TILE_PX)
            ]
            writer.write(
                iter([stream for _, stream in parts]),
                shape=pixels.shape,
                dtype=np.uint8,
                photometric="ycbcr",
                subsampling=(2, 2),
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                jpegtables=parts[0][0],
                subfiletype=1 if level else 0,
                resolution=(_PER_CM[0] / 4**level, _PER_CM[1] / 4**level),
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def _split_tables(tile: UInt8Array) -> tuple[bytes, bytes]:
    """A tile's JPEG as its tables and the rest, each from SOI to EOI."""
    whole = simplejpeg.encode_jpeg(
        np.ascontiguousarray(tile), quality=80, colorspace="RGB", colorsubsampling="420"
    )
    tables, rest, at = b"\xff\xd8", b"\xff\xd8", 2
    while whole[at + 1] != _START_OF_SCAN:
        end = at + 2 + int.from_bytes(whole[at + 2 : at + 4], "big")
        if whole[at + 1] in _TABLE_MARKERS:
            tables += whole[at:end]
        else:
            rest += whole[at:end]
        at = end
    return tables + b"\xff\xd9", rest + whole[at:]


def _zlib(path: Path, seed: int) -> None:
    """A BigTIFF of no vendor, with a reduced level."""
    picture = _tissue(rng_for(seed, "zlib"), _EDGE_PX)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, pixels in enumerate((picture, picture[::4, ::4])):
            writer.write(
                pixels,
                photometric="rgb",
                tile=(TILE_PX, TILE_PX),
                compression="zlib",
                subfiletype=1 if level else 0,
                resolution=(_PER_CM[0] / 4**level, _PER_CM[1] / 4**level),
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def _ome(path: Path, seed: int) -> None:
    """An OME-TIFF whose reduced level is a sub-image, as Bio-Formats writes it."""
    picture = _tissue(rng_for(seed, "ome"), _EDGE_PX)
    micrometres = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    settings: dict[str, Any] = {"photometric": "rgb", "tile": (TILE_PX, TILE_PX)}
    settings |= {"compression": "jpeg", "compressionargs": {"level": 80}}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(picture, subifds=1, metadata=micrometres, **settings)
        writer.write(picture[::2, ::2], subfiletype=1, **settings)


def _strips(path: Path, seed: int) -> None:
    """Strips, which OpenSlide does not take."""
    tifffile.imwrite(
        path,
        _tissue(rng_for(seed, "strips"), _EDGE_PX),
        photometric="rgb",
        compression="lzw",
        rowsperstrip=64,
        resolution=_PER_CM,
        resolutionunit="CENTIMETER",
        metadata=None,
    )


VICTIMS: dict[str, Callable[[Path, int], None]] = {
    "aperio.svs": _svs,
    "jpeg.tif": _jpeg,
    "zlib.btf": _zlib,
    "sub.ome.tif": _ome,
    "tall.tiff": _strips,
}
"""File name to what writes it, given path and seed; no two begin with the same letter."""


def _tissue(rng: np.random.Generator, edge_px: int) -> UInt8Array:
    shades = rng.integers(0, 60, (edge_px // 8, edge_px // 8, 1))
    return (_PINK - np.kron(shades, np.ones((8, 8, 3)))).astype(np.uint8)
