"""Slides of JPEG tiles that tell a name beside their picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tifffile
from told_jpeg import STREAMS, tissue

TILE = 64
ACROSS, DOWN = 6, 4


def write_told(
    path: Path,
    told: Callable[[bytes], bytes] | Sequence[Callable[[bytes], bytes]],
    *,
    kind: str = "baseline",
    tables: Callable[[bytes], bytes] | None = None,
    profile: bytes | None = None,
) -> Path:
    """Write a slide of 6 x 4 tiles of 64 px at 0.25 um/px.

    Args:
        path: file to write.
        told: what is done to the tiles; of several, each in turn.
        kind: of streams, see :data:`told_jpeg.STREAMS`.
        tables: what is done to the tables that tiles share; None: each has its own.
        profile: ICC profile of the file, in the TIFF's own tag.
    """
    changes = [told] if callable(told) else list(told)
    streams = [STREAMS[kind](tissue(TILE, seed)) for seed in range(ACROSS * DOWN)]
    shared = None
    if tables is not None:
        start, stop = streams[0].index(b"\xff\xdb"), streams[0].index(b"\xff\xc0")
        shared = tables(b"\xff\xd8" + streams[0][start:stop] + b"\xff\xd9")
        assert all(stream[start:stop] == streams[0][start:stop] for stream in streams)
        streams = [stream[:start] + stream[stop:] for stream in streams]
    tiles = [changes[k % len(changes)](stream) for k, stream in enumerate(streams)]
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter(tiles),
            shape=(DOWN * TILE, ACROSS * TILE, 3),
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="rgb" if kind == "RGB" else "ycbcr",
            subsampling=(2, 2) if kind == "halved colours" else (1, 1),
            compression="jpeg",
            compressionargs={"outcolorspace": "RGB"} if kind == "RGB" else None,
            jpegtables=shared,
            metadata=None,
            resolution=(40_000, 40_000),
            resolutionunit="CENTIMETER",
            iccprofile=profile,
        )
    return path
