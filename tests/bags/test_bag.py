from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import StoreError
from wsi_hr.geometry import Int64Array, UInt8Array
from wsi_hr.testing.memory_patches import MemoryPatches


def numbered_patches(num: int) -> UInt8Array:
    """Patch k is filled with k."""
    return np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None, None], (num, 8, 8, 3))


def source_of(num: int, *, invalid: tuple[int, ...] = ()) -> MemoryPatches:
    valid = np.ones(num, dtype=np.bool_)
    valid[list(invalid)] = False
    return MemoryPatches(numbered_patches(num), slide_id="s", valid=valid)


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
    deadline = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def values(pixels: UInt8Array) -> list[int]:
    assert (pixels == pixels[:, :1, :1, :1]).all()
    return pixels[:, 0, 0, 0].tolist()


def test_a_bag_holds_the_valid_patches_and_their_places() -> None:
    source = source_of(10, invalid=(0, 4))
    bag = Bag.of(source, label=2)
    assert bag.indices.tolist() == [1, 2, 3, 5, 6, 7, 8, 9]
    assert (bag.slide_id, bag.label, len(bag)) == ("s", 2, 8)
    assert bag.grid.coords.tolist() == source.grid.coords[bag.indices].tolist()
    assert bag.grid.shape == source.grid.shape
    assert values(bag.read(np.array([3, 0, 3]))) == [5, 1, 5]


@given(st.data())
def test_a_view_of_a_view_is_the_view_of_the_chosen(data: st.DataObject) -> None:
    bag = Bag.of(source_of(40, invalid=(7, 8)), label=1)
    names = bag.indices.tolist()
    for _ in range(3):
        keep = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=30))
        bag, names = bag.subset(np.array(keep)), [names[position] for position in keep]
        assert bag.indices.tolist() == names
        assert bag.label == 1
        assert values(bag.read(np.arange(len(bag)))) == names
        assert bag.grid.cells.tolist() == bag.source.grid.cells[names].tolist()


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.array([0, 10]), "patches are 0 to 9"),
        (np.array([-1]), "patches are 0 to 9"),
        (np.array([[1]]), "expected i64"),
        (np.array([1.0]), "expected i64"),
        (np.ones(10, dtype=np.bool_), "expected i64"),
        (np.array([4]), "could not be read"),
    ],
)
def test_a_view_of_what_is_not_there_is_refused(indices: Int64Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bag(source_of(10, invalid=(4,)), indices)


@given(num=st.integers(0, 50), chunk=st.integers(1, 60), data=st.data())
@settings(deadline=None)
def test_a_stream_is_the_bag_in_order(num: int, chunk: int, data: st.DataObject) -> None:
    bag = Bag.of(source_of(50)).subset(np.arange(num)[::-1])
    positions = data.draw(
        st.none() | st.lists(st.integers(0, max(0, num - 1)), max_size=40 if num else 0)
    )
    chosen = None if positions is None else np.array(positions, dtype=np.int64)
    parts = list(bag.stream(chunk, chosen))
    expected = list(range(num)) if positions is None else positions
    assert [position for part, _ in parts for position in part.tolist()] == expected
    assert [value for _, pixels in parts for value in values(pixels)] == [
        num - 1 - position for position in expected
    ]
    assert [len(part) for part, _ in parts[:-1]] == [chunk] * (len(parts) - 1)


def test_chunks_are_read_in_the_background_and_two_ahead() -> None:
    source = WatchedPatches(40)
    stream = Bag.of(source).stream(4)
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
    for _, pixels in Bag.of(source).stream(4):
        assert source.num_alive() <= 3
        del pixels
    assert source.most_alive <= 3
    assert source.num_alive() == 0


def test_an_error_comes_where_its_chunk_would_have_come() -> None:
    stream = Bag.of(WatchedPatches(40, damaged=9)).stream(4)
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
    stream = Bag.of(source).stream(4)
    next(stream)
    if how == "close":
        stream.close()  # type: ignore[attr-defined]
    elif how == "raise":
        with pytest.raises(KeyError):
            fail_at_the_first(stream)
    del stream
    wait_for(lambda: source.num_alive() == 0)
    assert source.num_reads <= 4
    assert len(list(Bag.of(source).stream(4))) == 20


def test_many_streams_at_once_do_not_wait_for_each_other() -> None:
    """More streams than threads, all open, consumed in turn; then all but one abandoned."""
    sources = [WatchedPatches(12) for _ in range(30)]
    streams = [Bag.of(source).stream(4) for source in sources]
    for first in (0, 4):
        assert [values(next(stream)[1])[0] for stream in streams] == [first] * 30
    last = streams.pop()
    del streams
    assert values(next(last)[1]) == [8, 9, 10, 11]


def test_abandoned_streams_whose_reads_hang_end_with_their_reads() -> None:
    stuck = WatchedPatches(12)
    stuck.gate = threading.Event()
    stream = Bag.of(stuck).stream(4)
    consumer = threading.Thread(target=lambda: next(stream))
    consumer.start()
    wait_for(lambda: stuck.num_reads == 3)
    stuck.gate.set()
    consumer.join(10)
    assert not consumer.is_alive()


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_has_at_least_one_patch(chunk: int) -> None:
    with pytest.raises(ValueError, match="at least one patch"):
        Bag.of(source_of(3)).stream(chunk)
