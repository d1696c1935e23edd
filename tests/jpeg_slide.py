"""Slides of JPEG tiles whose pixels are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import simplejpeg
import tifffile

from wsi_hr.geometry import Size

SIZE = Size(2000, 1500)


def write_waves(path: Path, tile: int) -> np.ndarray:
    """A JPEG slide of 0.25 um/px, and the px that its level 0 shows.

    Red goes up and down with x by two levels a px, green with y, so that a shift of a px shows;
    blue grows slowly with both, so that the shift of a tile does.
    """
    x, y = np.meshgrid(np.arange(SIZE.w), np.arange(SIZE.h))
    waves = [np.abs(position % 250 - 125) * 2 for position in (x, y)]
    slope = (x / SIZE.w + y / SIZE.h) * 120
    rgb = np.stack([*waves, slope], axis=-1).round().astype(np.uint8)
    return write_jpeg_slide(path, rgb, tile)


def write_jpeg_slide(path: Path, rgb: np.ndarray, tile: int, subsampling: str = "444"):
    """Write ``rgb`` as tiled JPEG; returns what a decoder makes of it."""
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    shown, streams = np.empty_like(padded), []
    for top in range(0, len(padded), tile):
        for left in range(0, padded.shape[1], tile):
            here = np.s_[top : top + tile, left : left + tile]
            streams.append(
                simplejpeg.encode_jpeg(
                    np.ascontiguousarray(padded[here]), quality=95, colorsubsampling=subsampling
                )
            )
            shown[here] = simplejpeg.decode_jpeg(streams[-1])
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter(streams),
            shape=rgb.shape,
            dtype=np.uint8,
            tile=(tile, tile),
            photometric="ycbcr",
            subsampling={"444": (1, 1), "420": (2, 2)}[subsampling],
            compression="jpeg",
            metadata=None,
            resolution=(40_000, 40_000),
            resolutionunit="CENTIMETER",
        )
    return shown[:height, :width]
