"""Packed chunks hold every wanted patch once, in order, whatever the sizes of the slides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.stream import pack
from wsi_hr.errors import StoreError
from wsi_hr.testing.memory_patches import MemoryPatches


def bags_of(sizes: list[int]) -> list[Bag]:
    """Patch k of bag b shows the bytes b and k."""
    bags = []
    for b, size in enumerate(sizes):
        patches = np.zeros((size, 1, 1, 3), np.uint8)
        patches[..., 0] = b
        patches[:, 0, 0, 1] = np.arange(size)
        bags.append(Bag.of(MemoryPatches(patches, slide_id=str(b))))
    return bags


@given(sizes=st.lists(st.integers(0, 20), max_size=6), chunk=st.integers(1, 17))
def test_every_patch_comes_once_and_in_order(sizes: list[int], chunk: int) -> None:
    seen, lengths = [], []
    for pieces, pixels in pack(bags_of(sizes), chunk):
        told = [(p.bag, k) for p in pieces for k in p.positions.tolist()]
        assert told == [(int(p[0, 0, 0]), int(p[0, 0, 1])) for p in pixels]
        seen += told
        lengths.append(len(pixels))
    assert seen == [(b, k) for b, size in enumerate(sizes) for k in range(size)]
    assert all(length == chunk for length in lengths[:-1])
    assert all(0 < length <= chunk for length in lengths)


def test_only_what_is_wanted_is_read_in_the_order_wanted() -> None:
    wanted = [np.array([3, 1]), np.array([], np.int64), np.array([0, 2, 2])]
    ((pieces, pixels),) = pack(bags_of([4, 4, 3]), 8, wanted)
    assert [piece.bag for piece in pieces] == [0, 2]
    assert pixels[:, 0, 0, 1].tolist() == [3, 1, 0, 2, 2]


def test_an_unreadable_patch_is_the_readers_error() -> None:
    patches = np.zeros((4, 1, 1, 3), np.uint8)
    source = MemoryPatches(patches)
    bag = Bag.of(source)
    source.valid = np.array([True, True, False, True])
    stream = pack([bag], 2)
    next(stream)
    with pytest.raises(StoreError, match="not valid"):
        next(stream)


def test_a_chunk_needs_a_patch() -> None:
    with pytest.raises(ValueError, match="at least one patch"):
        next(pack(bags_of([1]), 0))
