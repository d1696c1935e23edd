"""A slide whose pixels spell their own coordinates, so any geometry bug is read off the pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

from wsi_hr.geometry import Int64Array, Point, Size, UInt8Array
from wsi_hr.runtime import atomic_path

_NUM_CELLS = 1 << 12  # per axis: 8 low bits in a channel of their own, 4 high bits shared in blue
_UM_PER_CM = 10_000
_SIZE = Size(4096, 3072)


def write_coordinate_slide(
    path: Path,
    *,
    size: Size = _SIZE,
    mpp: float | tuple[float, float] | None = 0.5,
    levels: Sequence[int] = (1, 2, 4),
    tile: int = 256,
    cell: int = 16,
) -> None:
    """Write a lossless tiled pyramid that OpenSlide opens as ``generic-tiff``.

    Level-0 pixel (x, y) has the colour of cell (x // cell, y // cell): red is the low byte of the
    cell's x, green that of its y, blue their high bits. A pixel of a coarser level has the colour
    of the level-0 pixel at its centre, which is exact wherever the downsample divides ``cell``.
    What a border tile holds outside the slide is white, the colour of no cell.

    Args:
        path: file to write, suffix ``.tif`` or ``.tiff``; it appears whole or not at all.
        size: level-0 px.
        mpp: um per level-0 px, one number or (x, y); ``None`` writes no resolution.
        levels: downsamples, 1 first; a level has ``size // downsample`` px, as scanners round.
        tile: edge of a tile, px; a multiple of 16.
        cell: edge of a cell, level-0 px.

    Raises:
        ValueError: the slide has more than 4095 cells along an axis, or ``levels`` is unusable.
    """
    if -(-max(size) // cell) >= _NUM_CELLS:
        raise ValueError(f"size {tuple(size)}: at most {_NUM_CELLS - 1} cells of {cell} px an axis")
    if not levels or levels[0] != 1 or min(size) < max(levels):
        raise ValueError(f"levels {tuple(levels)}: start with 1, end at least one px wide")
    with (
        atomic_path(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=False) as writer,
    ):
        for index, downsample in enumerate(levels):
            level_size = Size(size.w // downsample, size.h // downsample)
            writer.write(
                _tiles(level_size, downsample, tile, cell),
                shape=(level_size.h, level_size.w, 3),
                dtype=np.uint8,
                photometric="rgb",
                tile=(tile, tile),
                compression="zlib",
                compressionargs={"level": 1},
                subfiletype=1 if index else 0,  # OpenSlide takes only reduced images for levels
                metadata=None,
                software=False,
                resolution=_resolution(mpp, downsample),
                resolutionunit=None if mpp is None else "CENTIMETER",
            )


def decode_cell(rgb: npt.ArrayLike) -> Point:
    """The cell (x, y) whose colour is ``rgb``, three channels of one pixel."""
    x, y = decode_cells(np.asarray(rgb, dtype=np.uint8).reshape(3))
    return Point(int(x), int(y))


def decode_cells(rgb: UInt8Array) -> Int64Array:
    """The cells i64[..., 2] (x, y) of pixels u8[..., 3]."""
    red, green, blue = np.moveaxis(rgb.astype(np.int64), -1, 0)
    return np.stack([red | (blue & 15) << 8, green | (blue >> 4) << 8], axis=-1)


def _tiles(level_size: Size, downsample: int, tile: int, cell: int) -> Iterator[UInt8Array]:
    """The tiles u8[tile, tile, 3] of a level, row by row."""
    offset = np.arange(tile)
    for y0 in range(0, level_size.h, tile):
        for x0 in range(0, level_size.w, tile):
            pixels = np.full((tile, tile, 3), 255, dtype=np.uint8)
            columns = (x0 + offset)[x0 + offset < level_size.w]
            rows = (y0 + offset)[y0 + offset < level_size.h]
            x = (columns * downsample + downsample // 2) // cell
            y = (rows * downsample + downsample // 2) // cell
            inside = pixels[: len(rows), : len(columns)]
            inside[..., 0] = x & 255
            inside[..., 1] = (y & 255)[:, None]
            inside[..., 2] = (x >> 8) | (y >> 8 << 4)[:, None]
            yield pixels


def _resolution(
    mpp: float | tuple[float, float] | None, downsample: int
) -> tuple[float, float] | None:
    """Px of a level per cm, along x and y."""
    if mpp is None:
        return None
    x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    return _UM_PER_CM / (x * downsample), _UM_PER_CM / (y * downsample)
