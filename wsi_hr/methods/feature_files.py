"""Features of a frozen encoder, computed once a slide and kept: one file each, checked on reading.

A file is a numpy array [N, D] with two things behind it: the digest of what it was made from, and
the CRC-32 of the array. It appears whole or not at all, and is made anew where it is missing, of
something else, or damaged.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_hr.errors import CheckpointError
from wsi_hr.geometry import Int64Array
from wsi_hr.runtime import atomic_path

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.floating]

_DIGEST_BYTES = 32
_CRC_BYTES = 4
_BLOCK_BYTES = 1 << 20


class FeatureFiles:
    """Features of slides in a folder.

    Args:
        folder: made when the first file is written.
        dtype: how numbers are kept, float16 or float32.
    """

    def __init__(self, folder: Path, dtype: npt.DTypeLike) -> None:
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self._checked: set[Path] = set()

    def find(self, slide_id: str, made_from: bytes) -> FloatArray | None:
        """The slide's features [N, D], mapped from the disk; None: they are to be made.

        Args:
            slide_id: which slide.
            made_from: whatever the features depend on.
        """
        path = self._path(slide_id)
        if not path.is_file():
            return None
        try:
            features = np.load(path, mmap_mode="r", allow_pickle=False)
            # once a process: afterwards it is this process's own file
            if path in self._checked or _sound(path, features, _digest(made_from)):
                self._checked.add(path)
                return features
        except (OSError, ValueError, EOFError) as cause:
            logger.warning("%s: cannot be read (%s)", path, cause)
        logger.warning("%s: damaged or of another encoder; its features are made anew", path)
        return None

    def write(
        self,
        slide_id: str,
        made_from: bytes,
        shape: tuple[int, int],
        rows: Iterable[tuple[Int64Array, FloatArray]],
    ) -> FloatArray:
        """Write features [N, D] as they come, and return them as :meth:`find` would.

        Args:
            slide_id: which slide.
            made_from: whatever they depend on.
            shape: (N, D).
            rows: pairs of which rows i64[K] and the features [K, D] of these.

        Raises:
            CheckpointError: they cannot be written, e.g. because the disk is full.
        """
        path = self._path(slide_id)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as tmp:
                features = np.lib.format.open_memmap(tmp, "w+", self.dtype, shape)
                for at, values in rows:
                    features[at] = values
                features.flush()
                crc = _crc(features)
                del features
                with tmp.open("ab") as handle:
                    handle.write(_digest(made_from) + crc)
        except OSError as cause:
            raise CheckpointError(
                f"{path}: cannot be written ({cause}); make room, then start the same command again"
            ) from cause
        self._checked.add(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def _path(self, slide_id: str) -> Path:
        return self.folder / f"{slide_id}.npy"


def _sound(path: Path, features: FloatArray, digest: bytes) -> bool:
    with path.open("rb") as handle:
        handle.seek(-(_DIGEST_BYTES + _CRC_BYTES), 2)
        return handle.read() == digest + _crc(features)


def _crc(features: FloatArray) -> bytes:
    crc = 0
    flat = features.reshape(-1)
    step = _BLOCK_BYTES // features.itemsize
    for first in range(0, len(flat), step):
        crc = zlib.crc32(np.ascontiguousarray(flat[first : first + step]).data, crc)
    return crc.to_bytes(_CRC_BYTES, "little")


def _digest(made_from: bytes) -> bytes:
    return hashlib.sha256(made_from).digest()
