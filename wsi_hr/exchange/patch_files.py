"""The patches of a store as picture files, each by itself, for programs that want files."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from wsi_hr.file_names import file_in
from wsi_hr.geometry import Int64Array, UInt8Array
from wsi_hr.jpeg_segments import bare_jpeg
from wsi_hr.machine import num_usable_cores
from wsi_hr.store.jpeg import encode_jpeg, subsampling_for
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.store.thread_pool import LazyThreadPool

logger = logging.getLogger(__name__)

PictureKind = Literal["jpg", "png"]

_BATCH = 64  # patches decoded at a time: 12 MB of 256 px
_PNG_EFFORT = 1  # zlib's fastest level: scanned tissue is noise, effort gains little

_encoders = LazyThreadPool(num_usable_cores(), "wsi-hr-encode")


@dataclass(frozen=True)
class PatchFile:
    """One patch as a picture.

    Attributes:
        name: file name without suffix, ``<slide_id>_<x>_<y>`` with the corner at level 0.
        picture: the bytes of the file.
        facts: what the patch is, as plain JSON values.
    """

    name: str
    picture: bytes
    facts: dict[str, Any]


def stored_kind(store: PatchStore) -> PictureKind:
    """The kind of picture that loses nothing: ``jpg`` where the store holds JPEG, else ``png``."""
    return "jpg" if store.holds_jpeg else "png"


def patch_files(store: PatchStore, kind: PictureKind) -> Iterator[PatchFile]:
    """The readable patches in store order.

    JPEG that lies in the store is handed out without what is no picture, which stores of earlier
    versions may hold, and is never decoded and encoded again, unless it is too damaged to be
    followed; that is logged. Pixels become JPEG of the quality ``tile.jpeg_quality``.

    Raises:
        StoreError: a patch is damaged.
    """
    info, grid = store.info, store.grid
    readable = np.flatnonzero(store.valid)
    for first in range(0, len(readable), _BATCH):
        indices = readable[first : first + _BATCH]
        for index, picture in zip(indices.tolist(), _pictures(store, indices, kind), strict=True):
            x, y = grid.coords[index].tolist()
            row, col = grid.cells[index].tolist()
            facts = {
                "slide_id": store.slide_id,
                "x0": x,
                "y0": y,
                "width0": round(grid.patch_px0.x, 3),
                "height0": round(grid.patch_px0.y, 3),
                "row": row,
                "col": col,
                "tissue": round(float(grid.tissue[index]), 6),
                "mpp": info.tile.mpp,
            }
            yield PatchFile(f"{store.slide_id}_{x}_{y}", picture, facts)


def write_folder(store: PatchStore, folder: Path, kind: PictureKind) -> None:
    """Write every readable patch as ``<slide_id>_<x>_<y>.<kind>`` into ``folder``.

    Raises:
        StoreError: a patch is damaged.
    """
    for file in patch_files(store, kind):
        file_in(folder, file.name, f".{kind}", of="patch").write_bytes(file.picture)


def _pictures(store: PatchStore, indices: Int64Array, kind: PictureKind) -> Iterator[bytes]:
    quality = store.info.tile.jpeg_quality
    if kind == "jpg" and store.holds_jpeg:
        return (_bare(store, indices[k : k + 1], quality) for k in range(len(indices)))
    encode = _as_png if kind == "png" else partial(_as_jpeg, quality=quality)
    return _encoders.get().map(encode, store.read(indices))


def _bare(store: PatchStore, index: Int64Array, quality: int) -> bytes:
    """The stream of one patch i64[1]."""
    (stream,) = store.read_jpeg(index).streams
    try:
        return bare_jpeg(stream)
    except ValueError as cause:
        logger.warning("%s: patch %d is encoded anew: %s", store.path, index[0], cause)
        return _as_jpeg(store.read(index)[0], quality)


def _as_jpeg(pixels: UInt8Array, quality: int) -> bytes:
    return encode_jpeg(pixels, quality=quality, subsampling=subsampling_for(quality))


def _as_png(pixels: UInt8Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=_PNG_EFFORT)
    return file.getvalue()
