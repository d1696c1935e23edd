from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.store.chunks import seal
from wsi_hr.store.shards import build_shard, find_chunk, index_bytes, parse_index

chunk_lists = st.lists(st.none() | st.binary(max_size=30), max_size=8)


def parsed(shard: bytes, num_slots: int) -> np.ndarray:
    tail = shard[max(0, len(shard) - index_bytes(num_slots)) :]
    return parse_index(tail, num_slots=num_slots, file_bytes=len(shard))


@given(chunk_lists, st.integers(0, 4))
def test_every_chunk_is_found_again(chunks: list[bytes | None], spare: int) -> None:
    num_slots = len(chunks) + spare + 1
    shard = build_shard(chunks, num_slots)
    index = parsed(shard, num_slots)
    for slot in range(num_slots):
        place = find_chunk(index, slot)
        expected = chunks[slot] if slot < len(chunks) else None
        if place is None:
            assert expected is None
        else:
            offset, length = place
            assert shard[offset : offset + length] == expected


def test_the_bytes_are_those_of_the_specification() -> None:
    rows = b"".join(number.to_bytes(8, "little") for number in (0, 3, 2**64 - 1, 2**64 - 1, 3, 2))
    assert build_shard([b"abc", None, b"de"], 3) == b"abcde" + seal(rows)


@given(chunk_lists.filter(bool))
@settings(max_examples=10)
def test_every_flipped_bit_of_the_index_is_found(chunks: list[bytes | None]) -> None:
    num_slots = len(chunks)
    shard = build_shard(chunks, num_slots)
    start = len(shard) - index_bytes(num_slots)
    for bit in range(8 * start, 8 * len(shard)):
        damaged = bytearray(shard)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="index"):
            parsed(bytes(damaged), num_slots)


@pytest.mark.parametrize("length", [0, 1, index_bytes(4) - 1])
def test_a_file_shorter_than_its_index_is_an_error(length: int) -> None:
    with pytest.raises(ValueError, match="too short for its index"):
        parsed(build_shard([b"x"], 4)[:length], 4)


@pytest.mark.parametrize(
    "row",
    [
        (0, 6),  # one byte too many
        (6, 0),
        (5, 1),
        (2**64 - 2, 4),  # the sum wraps around to 2
        (4, 2**64 - 2),
        (2**64 - 1, 5),  # half a mark for "missing"
        (0, 2**64 - 1),
    ],
)
def test_an_index_that_points_outside_is_an_error_though_its_checksum_fits(
    row: tuple[int, int],
) -> None:
    shard = b"12345" + seal(np.array([row], dtype="<u8").tobytes())
    with pytest.raises(ValueError, match="points outside"):
        parsed(shard, 1)


def test_more_chunks_than_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        build_shard([b""] * 3, 2)
