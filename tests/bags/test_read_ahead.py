"""Chunks are read in the background, a bounded number of them, whatever becomes of the reader."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.stream import Piece, pack
from wsi_hr.errors import StoreError
from wsi_hr.geometry import Int64Array, UInt8Array
from wsi_hr.testing.memory_patches import MemoryPatches


def numbered_patches(num: int) -> UInt8Array:
    """Patch k is filled with k."""
    return np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None, None], (num, 8, 8, 3))


class WatchedPatches(MemoryPatches):
    """Counts what is read and what is still alive, and fails or waits where it is told to."""

    def __init__(self, num: int, *, damaged: int | None = None, late: int | None = None) -> None:
        super().__init__(numbered_patches(num), slide_id="watched")
        self.num_reads = 0
        self.damaged = damaged
        self.late = late
        self.most_alive = 0
        self.gate: threading.Event | None = None
        self.threads: set[str] = set()
        self._given: list[weakref.ref[UInt8Array]] = []

    def read(self, indices: Int64Array) -> UInt8Array:
        self.num_reads += 1
        self.threads.add(threading.current_thread().name)
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.damaged is not None and self.damaged in indices:
            raise StoreError(f"patch {self.damaged} is damaged")
        if self.late is not None and self.late in indices:
            wait_for(lambda: len(self._given) == 3)
        pixels = super().read(indices).copy()
        self._given.append(weakref.ref(pixels))
        self.most_alive = max(self.most_alive, self.num_alive())
        return pixels

    def num_alive(self) -> int:
        return sum(reference() is not None for reference in self._given)


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def values(pixels: UInt8Array) -> list[int]:
    assert (pixels == pixels[:, :1, :1, :1]).all()
    return pixels[:, 0, 0, 0].tolist()


def stream_of(source: WatchedPatches) -> Iterator[tuple[list[Piece], UInt8Array]]:
    return pack([Bag.of(source)], 4)


def test_chunks_are_read_in_the_background_and_two_ahead() -> None:
    source = WatchedPatches(40)
    stream = stream_of(source)
    assert source.num_reads == 0
    for taken in range(1, 11):
        next(stream)
        wait_for(lambda: source.num_reads == min(taken + 2, 10))  # noqa: B023
    assert next(stream, None) is None
    assert threading.current_thread().name not in source.threads


@pytest.mark.parametrize("late", [None, 4])
def test_memory_holds_three_chunks_at_most(late: int | None) -> None:
    """Also while the second chunk is waited for, which comes after the third and the fourth."""
    source = WatchedPatches(40, late=late)
    for _, pixels in stream_of(source):
        assert source.num_alive() <= 3
        del pixels
    assert source.most_alive <= 3
    assert source.num_alive() == 0


def test_an_error_comes_where_its_chunk_would_have_come() -> None:
    stream = stream_of(WatchedPatches(40, damaged=9))
    assert [values(next(stream)[1]) for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(StoreError, match="patch 9 is damaged"):
        next(stream)
    assert next(stream, None) is None


def fail_at_the_first(stream: Iterator[object]) -> None:
    for _ in stream:
        raise KeyError


@pytest.mark.parametrize("how", ["close", "forget", "raise"])
def test_a_consumer_that_stops_early_leaves_nothing_running(how: str) -> None:
    source = WatchedPatches(80)
    stream = stream_of(source)
    next(stream)
    if how == "close":
        stream.close()  # type: ignore[attr-defined]
    elif how == "raise":
        with pytest.raises(KeyError):
            fail_at_the_first(stream)
    del stream
    wait_for(lambda: source.num_alive() == 0)
    assert source.num_reads <= 4
    assert len(list(stream_of(source))) == 20


def test_many_streams_at_once_do_not_wait_for_each_other() -> None:
    """More streams than threads, all open, consumed in turn; then all but one abandoned."""
    sources = [WatchedPatches(12) for _ in range(30)]
    streams = [stream_of(source) for source in sources]
    for first in (0, 4):
        assert [values(next(stream)[1])[0] for stream in streams] == [first] * 30
    last = streams.pop()
    del streams
    assert values(next(last)[1]) == [8, 9, 10, 11]


def test_abandoned_streams_whose_reads_hang_end_with_their_reads() -> None:
    stuck = WatchedPatches(12)
    stuck.gate = threading.Event()
    stream = stream_of(stuck)
    consumer = threading.Thread(target=lambda: next(stream))
    consumer.start()
    wait_for(lambda: stuck.num_reads == 3)
    stuck.gate.set()
    consumer.join(10)
    assert not consumer.is_alive()
