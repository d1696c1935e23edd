"""The threads of a cluster's worker, for tasks that take several each.

Dask gives a worker as many tasks as it has threads, whatever they do; here all but those for which
there are threads wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

_POLL_S = 0.1


class WorkerThreads:
    """What the tasks of one process, whichever runs they belong to, have taken of its threads."""

    def __init__(self) -> None:
        self._num_taken = 0
        self._given_back = threading.Condition()
        self._turn = threading.Lock()

    @contextmanager
    def taken(self, wanted: int, num_threads: int, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Wait for ``wanted`` of ``num_threads`` threads, all of them if there are fewer.

        Raises:
            CancelledError: ``cancelled`` became true before.
        """
        wanted = min(wanted, num_threads)
        # one asks at a time: who wants many is not overtaken for ever by those who want one
        with self._turn, self._given_back:
            while self._num_taken + wanted > num_threads:
                if cancelled():
                    raise CancelledError
                self._given_back.wait(_POLL_S)
            self._num_taken += wanted
        try:
            yield
        finally:
            with self._given_back:
                self._num_taken -= wanted
                self._given_back.notify_all()
