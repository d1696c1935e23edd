from __future__ import annotations

import numpy as np
import pytest

from wsi_hr.errors import StoreError
from wsi_hr.testing.memory_patches import MemoryPatches


def numbered(num: int, edge: int = 4) -> np.ndarray:
    """Patch k is all k."""
    return np.broadcast_to(
        np.arange(num, dtype=np.uint8)[:, None, None, None], (num, edge, edge, 3)
    )


def test_full_grid_and_reads_in_the_asked_order():
    source = MemoryPatches(numbered(7), slide_id="s")
    assert (source.slide_id, len(source.grid), source.grid.shape) == ("s", 7, (3, 3))
    np.testing.assert_array_equal(source.grid.cells[[2, 3, 6]], [[0, 2], [1, 0], [2, 0]])
    np.testing.assert_array_equal(source.grid.coords[[2, 3]], [[8, 0], [0, 4]])
    got = source.read(np.array([5, 0, 5]))
    assert got.shape == (3, 4, 4, 3)
    assert got[:, 0, 0, 0].tolist() == [5, 0, 5]
    got[:] = 99
    assert source.read(np.array([0])).max() == 0


@pytest.mark.parametrize(("num", "shape"), [(0, (0, 0)), (1, (1, 1)), (4, (2, 2)), (5, (2, 3))])
def test_shape_of_a_full_grid(num, shape):
    source = MemoryPatches(numbered(num))
    assert source.grid.shape == shape
    assert source.read(np.zeros(0, dtype=np.int64)).shape == (0, 4, 4, 3)


def test_holes():
    cells = np.array([[0, 3], [2, 1]], dtype=np.int32)
    assert MemoryPatches(numbered(2), cells=cells).grid.shape == (3, 4)
    source = MemoryPatches(numbered(2), cells=cells, shape=(5, 6))
    assert source.grid.shape == (5, 6)
    np.testing.assert_array_equal(source.grid.coords, [[12, 0], [4, 8]])


def test_refusals():
    source = MemoryPatches(numbered(3), slide_id="s", valid=np.array([True, False, True]))
    with pytest.raises(StoreError, match="s: patch 1"):
        source.read(np.array([0, 1]))
    for index in (-1, 3):
        with pytest.raises(IndexError):
            source.read(np.array([index]))
    with pytest.raises(ValueError, match="outside the grid"):
        MemoryPatches(numbered(1), cells=np.array([[2, 0]], dtype=np.int32), shape=(2, 2))
    with pytest.raises(ValueError, match="valid"):
        MemoryPatches(numbered(2), valid=np.ones(3, dtype=np.bool_))
    with pytest.raises(ValueError, match="N, P, P, 3"):
        MemoryPatches(np.zeros((2, 4, 5, 3), dtype=np.uint8))
