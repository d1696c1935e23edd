"""Open shard files: few, shared by all stores of the process, and never across a fork."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

_MAX_OPEN_FILES = 64  # of the 1024 descriptors a process usually has


@dataclass(frozen=True, eq=False)
class ShardFile:
    """A shard file as one opened store saw it.

    Equal to itself only, so that a store which was written anew is never read through a descriptor
    of the old one.

    Attributes:
        path: where it is.
        num_bytes: the size it must have.
    """

    path: str
    num_bytes: int


class _OpenFile:
    """A descriptor that is closed with the last reference to it, be it a reader's."""

    __slots__ = ("descriptor",)

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):  # it could be opened
            os.close(self.descriptor)


class DescriptorCache:
    """Keeps the files opened last open, ``capacity`` beyond those being read; thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._open: dict[ShardFile, _OpenFile] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def pread(self, file: ShardFile, num_bytes: int, offset: int) -> bytes:
        """Read ``num_bytes`` at ``offset``; fewer at the end of the file.

        Raises:
            OSError: the file cannot be opened or read.
        """
        opened = self._open.get(file) or self._opened(file)
        return os.pread(opened.descriptor, num_bytes, offset)

    def forget_after_fork(self) -> None:
        """In a forked child: close the parent's descriptors and start with a lock of our own."""
        self._open = {}
        self._lock = threading.Lock()

    def _opened(self, file: ShardFile) -> _OpenFile:
        with self._lock:
            opened = self._open.get(file)
            if opened is None:
                opened = self._open[file] = _OpenFile(file.path)
                if len(self._open) > self._capacity:
                    del self._open[next(iter(self._open))]
            return opened


SHARD_DESCRIPTORS = DescriptorCache(_MAX_OPEN_FILES)
os.register_at_fork(after_in_child=SHARD_DESCRIPTORS.forget_after_fork)
