"""Open shard files: few, shared by all stores of the process, and never across a fork."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
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
    __slots__ = ("descriptor", "evicted", "num_readers")

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.num_readers = 0
        self.evicted = False


class DescriptorCache:
    """Keeps the files read last open, at most ``capacity`` beyond those being read; thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._open: OrderedDict[ShardFile, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def pread(self, file: ShardFile, num_bytes: int, offset: int) -> bytes:
        """Read ``num_bytes`` at ``offset``; fewer at the end of the file.

        Raises:
            OSError: the file cannot be opened or read.
        """
        opened = self._acquire(file)
        try:
            return os.pread(opened.descriptor, num_bytes, offset)
        finally:
            self._release(opened)

    def forget_after_fork(self) -> None:
        """In a forked child: close the parent's descriptors and start with a lock of our own."""
        inherited = list(self._open.values())
        self._open = OrderedDict()
        self._lock = threading.Lock()
        for opened in inherited:
            os.close(opened.descriptor)

    def _acquire(self, file: ShardFile) -> _OpenFile:
        with self._lock:
            opened = self._open.get(file)
            if opened is None:
                opened = self._open[file] = _OpenFile(file.path)
                if len(self._open) > self._capacity:
                    _, oldest = self._open.popitem(last=False)
                    oldest.evicted = True
                    self._close_if_unused(oldest)
            else:
                self._open.move_to_end(file)
            opened.num_readers += 1
            return opened

    def _release(self, opened: _OpenFile) -> None:
        with self._lock:
            opened.num_readers -= 1
            self._close_if_unused(opened)

    def _close_if_unused(self, opened: _OpenFile) -> None:
        if opened.evicted and opened.num_readers == 0:
            os.close(opened.descriptor)


SHARD_DESCRIPTORS = DescriptorCache(_MAX_OPEN_FILES)
os.register_at_fork(after_in_child=SHARD_DESCRIPTORS.forget_after_fork)
