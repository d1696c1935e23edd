"""Features of a frozen encoder, computed once a slide and kept: one file each, checked on reading.

A file is a numpy array [N, D] with two things behind it: the digest of what it was made from, and
the CRC-32 of the array. It appears whole or not at all, and is made anew where it is missing, of
something else, or damaged. It is read and written in parts, not mapped: pages of a mapped file
count as memory of the process until somebody else needs the room.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import math
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_hr.errors import reading, writing
from wsi_hr.file_names import file_in, own_folder
from wsi_hr.geometry import Int64Array
from wsi_hr.listing import is_there
from wsi_hr.runtime import atomic_path

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.floating]

_DIGEST_BYTES = 32
_CRC_BYTES = 4
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Features:
    """The features [N, D] of one slide, on disk.

    Attributes:
        path: a numpy file.
        dtype: of the numbers.
        shape: (N, D).
        offset: where they begin in the file, bytes.
    """

    path: Path
    dtype: np.dtype
    shape: tuple[int, int]
    offset: int

    @classmethod
    def of(cls, path: Path) -> Features:
        """What a file says of itself.

        Raises:
            ValueError: it is not a numpy file of a table.
            OSError: it cannot be read.
        """
        with path.open("rb") as handle:
            if np.lib.format.read_magic(handle) != (1, 0):
                raise ValueError("not as it was written")
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(handle)
            offset = handle.tell()
        whole = offset + math.prod(shape) * dtype.itemsize + _DIGEST_BYTES + _CRC_BYTES
        if len(shape) != 2 or by_column or path.stat().st_size != whole:
            raise ValueError("not as it was written")
        return cls(path, dtype, (shape[0], shape[1]), offset)

    def read(self, rows: Int64Array) -> FloatArray:
        """Features [K, D] of patches ``rows`` i64[K], K > 0, in their order; neighbours at once.

        Raises:
            ReadError: the file can be read no longer.
        """
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        row_bytes = self.shape[1] * self.dtype.itemsize
        breaks = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        with reading(self.path), self.path.open("rb", buffering=0) as handle:
            for first, stop in itertools.pairwise(breaks):
                where = self.offset + int(rows[first]) * row_bytes
                wanted = out[first:stop].data.cast("B")
                num_read = os.preadv(handle.fileno(), [wanted], where)
                _require(num_read == len(wanted))
        return out


class FeatureFiles:
    """Features of slides in a folder.

    Args:
        folder: made when the first file is written.
        dtype: how numbers are kept, float16 or float32.
    """

    def __init__(self, folder: Path, dtype: npt.DTypeLike) -> None:
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self._checked: dict[Path, Features] = {}

    def find(self, slide_id: str, made_from: bytes) -> Features | None:
        """The slide's features; None: they are to be made.

        Args:
            slide_id: which slide.
            made_from: whatever the features depend on.
        """
        path = self._path(slide_id)
        if not is_there(path):
            return None
        try:
            with reading(path):
                features = self._checked.get(path)  # once a process: afterwards it is its own file
                if features is None:
                    features = Features.of(path)
                    if _end_of(features) != _digest(made_from) + _crc_of(features):
                        features = None
            if features is not None:
                self._checked[path] = features
                return features
        except ValueError as cause:
            logger.warning("%s: cannot be read (%s)", path, cause)
        logger.warning("%s: damaged or of another encoder; its features are made anew", path)
        return None

    def write(
        self,
        slide_id: str,
        made_from: bytes,
        shape: tuple[int, int],
        parts: Iterable[FloatArray],
    ) -> Features:
        """Write features [N, D] as they come, and return them as :meth:`find` would.

        Args:
            slide_id: which slide.
            made_from: whatever they depend on.
            shape: (N, D).
            parts: features [K, D] of patches 0 to N - 1, K at a time.

        Raises:
            WriteError: they cannot be written, e.g. because the disk is full.
        """
        path = self._path(slide_id)
        with writing(path):
            own_folder(self.folder.parent, self.folder.name)
        with atomic_path(path) as tmp, tmp.open("wb") as handle:
            np.lib.format.write_array_header_1_0(handle, _header(shape, self.dtype))
            crc = 0
            for part in parts:
                values = np.ascontiguousarray(part, self.dtype).data
                handle.write(values)
                crc = zlib.crc32(values, crc)
            handle.write(_digest(made_from) + crc.to_bytes(_CRC_BYTES, "little"))
        self._checked[path] = Features.of(path)
        return self._checked[path]

    def _path(self, slide_id: str) -> Path:
        return file_in(self.folder, slide_id, ".npy", of="slide id")


def _require(whole: bool) -> None:
    if not whole:
        raise OSError(errno.EIO, "it has become shorter")


def _header(shape: tuple[int, int], dtype: np.dtype) -> dict[str, Any]:
    descr = np.lib.format.dtype_to_descr(dtype)
    return {"descr": descr, "fortran_order": False, "shape": shape}


def _end_of(features: Features) -> bytes:
    with features.path.open("rb") as handle:
        handle.seek(-(_DIGEST_BYTES + _CRC_BYTES), os.SEEK_END)
        return handle.read()


def _crc_of(features: Features) -> bytes:
    crc, left = 0, math.prod(features.shape) * features.dtype.itemsize
    with features.path.open("rb") as handle:
        handle.seek(features.offset)
        while left:
            block = handle.read(min(left, _BLOCK_BYTES))
            crc = zlib.crc32(block, crc)
            left -= len(block)
    return crc.to_bytes(_CRC_BYTES, "little")


def _digest(made_from: bytes) -> bytes:
    return hashlib.sha256(made_from).digest()
