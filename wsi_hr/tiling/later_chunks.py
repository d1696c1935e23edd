"""Chunks that come before the store takes them, and in another order: on disk until then."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np

from wsi_hr.errors import StoreError, writing
from wsi_hr.geometry import Int64Array
from wsi_hr.tiling.blocks import Chunk

_AT_A_TIME = 256
_NO_CHUNK = -1  # in place of a length


class LaterChunks:
    """The chunks of one scale, in a file without a name: it is gone with the process that holds it.

    Args:
        num_patches: of the scale.
        folder: on the disk that takes them.
    """

    def __init__(self, num_patches: int, folder: Path) -> None:
        self._folder = folder
        self._offsets = np.zeros(num_patches, np.int64)
        self._lengths = np.full(num_patches, _NO_CHUNK, np.int64)
        self._end = 0
        with writing(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, it lives as long as this

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # what a full disk did not take is not wanted any more
            self._file.close()

    def put(self, patches: Int64Array, chunks: Sequence[Chunk]) -> None:
        """Keep the chunks of ``patches``, each of which comes once.

        Raises:
            WriteError: the disk does not take them.
        """
        with writing(self._folder):
            for patch, chunk in zip(patches.tolist(), chunks, strict=True):
                if chunk is not None:
                    self._file.write(chunk)
                    self._offsets[patch], self._lengths[patch] = self._end, len(chunk)
                    self._end += len(chunk)

    def in_order(self) -> Iterator[list[Chunk]]:
        """The chunks of all patches, from the first on, a shard's at a time.

        Raises:
            WriteError: the disk did not take them all.
            StoreError: it does not give them back.
        """
        self._flush()
        for first in range(0, len(self._lengths), _AT_A_TIME):
            yield [self._get(patch) for patch in range(first, len(self._lengths))[:_AT_A_TIME]]

    def some(self, patches: range) -> list[Chunk]:
        """The chunks of some patches; None also for those that did not come.

        Raises:
            WriteError: the disk did not take them all.
            StoreError: it does not give them back.
        """
        self._flush()
        return [self._get(patch) for patch in patches]

    def _flush(self) -> None:
        with writing(self._folder):
            self._file.flush()

    def _get(self, patch: int) -> Chunk:
        length = int(self._lengths[patch])
        if length == _NO_CHUNK:
            return None
        try:
            chunk = os.pread(self._file.fileno(), length, int(self._offsets[patch]))
        except OSError as cause:
            raise self._unreadable(f"{cause.strerror}") from cause
        if len(chunk) < length:
            raise self._unreadable("it has become shorter")
        return chunk

    def _unreadable(self, why: str) -> StoreError:
        return StoreError(
            f"{self._folder}: a temporary file there cannot be read back ({why}); "
            "see that the disk is sound, then run again"
        )
