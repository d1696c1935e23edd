"""Memory that a JPEG decoder does not write around the cache, and that serves again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from wsi_hr import pixel_memory
from wsi_hr.pixel_memory import empty_batch, empty_pixels, join_pixels

BATCH = (256, 224, 224, 3)


@pytest.fixture(autouse=True)
def _nothing_at_rest():
    pixel_memory._at_rest.clear()
    yield
    pixel_memory._at_rest.clear()


@pytest.mark.parametrize("empty", [empty_pixels, empty_batch])
@pytest.mark.parametrize("shape", [(7,), (256, 256, 3), (3, 240, 240, 3), (30, 30, 3), BATCH])
def test_no_row_of_pixels_begins_at_a_multiple_of_32_bytes(
    shape: tuple[int, ...], empty: Callable[..., np.ndarray]
) -> None:
    pixels = empty(*shape)
    pixels[...] = 1  # it is ours to write

    assert pixels.shape == shape
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.ctypes.data % 2 == 1
    rows = pixels.reshape(-1, shape[-2] * 3) if len(shape) > 2 else pixels.reshape(1, -1)
    assert all(row.ctypes.data % 32 for row in rows)


def address(pixels: np.ndarray) -> int:
    return pixels.ctypes.data


def test_a_batch_that_nobody_holds_serves_again() -> None:
    first = address(empty_batch(*BATCH))
    assert address(empty_batch(*BATCH)) == first
    held = empty_batch(*BATCH)
    others = [empty_batch(*BATCH) for _ in range(4)]
    assert len({*map(address, others), address(held)}) == 5
    del others
    assert len(pixel_memory._at_rest) == 3, "no more than are used at a time"


@pytest.mark.parametrize(
    "hold",
    [
        lambda batch: batch[3:5],
        lambda batch: batch.reshape(-1)[7:][::2],
        lambda batch: torch.from_numpy(batch)[1],
        memoryview,
    ],
)
def test_a_batch_of_which_anything_is_held_stays_as_it_is(
    hold: Callable[[np.ndarray], object],
) -> None:
    held = hold(empty_batch(*BATCH))
    before = np.asarray(held).copy()
    empty_batch(*BATCH)[...] = 255 - before.ravel()[0]
    assert np.array_equal(np.asarray(held), before)
    assert len(pixel_memory._at_rest) == 1
    del held
    assert len(pixel_memory._at_rest) == 2


def test_memory_much_larger_than_a_batch_is_let_go() -> None:
    del (large := [empty_batch(3 * BATCH[0], *BATCH[1:])])[:]
    assert len(pixel_memory._at_rest) == 1
    held = empty_batch(*BATCH)
    assert not large
    assert not pixel_memory._at_rest
    del held
    (memory,) = pixel_memory._at_rest
    assert len(memory) == np.prod(BATCH) + 1


def test_small_arrays_are_left_to_malloc() -> None:
    empty_batch(1, 224, 224, 3)
    assert not pixel_memory._at_rest


def test_threads_never_share_a_batch() -> None:
    def fill_and_look(value: int) -> bool:
        batch = empty_batch(*BATCH)
        batch[::16] = value
        return bool((batch[::16] == value).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(fill_and_look, range(60)))


def test_parts_are_joined_in_order() -> None:
    one, two = np.full((2, 4, 4, 3), 1, np.uint8), np.full((1, 4, 4, 3), 2, np.uint8)
    assert join_pixels([one]) is one
    assert join_pixels([one, two])[:, 0, 0, 0].tolist() == [1, 1, 2]
