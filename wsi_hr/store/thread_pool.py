"""Bounded pools of threads that live as long as the process and come back after a fork."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor


class LazyThreadPool:
    """A :class:`ThreadPoolExecutor` made on first use; a forked child makes its own.

    A task must never wait for another task of the same pool: with all threads waiting, nobody
    would be left to do the work.
    """

    def __init__(self, num_threads: int, name: str) -> None:
        self.num_threads = num_threads
        self._name = name
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def get(self) -> ThreadPoolExecutor:
        """The pool."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix=self._name)
            return self._pool

    def _forget(self) -> None:
        """Threads do not survive a fork, and the lock may have been held by one of them."""
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
