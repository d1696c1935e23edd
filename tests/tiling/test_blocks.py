"""Blocks of patches, cut into tasks for several threads."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from wsi_hr.geometry import Pair, PatchGrid
from wsi_hr.tiling import blocks
from wsi_hr.tiling.blocks import encoding
from wsi_hr.tiling.plan import BLOCK_CELLS


def sparse_grid(rows: int, cols: int) -> PatchGrid:
    """Two of three cells of a grid, in store order."""
    cells = np.argwhere(np.random.default_rng(0).random((rows, cols)) < 2 / 3).astype(np.int32)
    keys = (cells[:, 1], cells[:, 0], cells[:, 1] // BLOCK_CELLS, cells[:, 0] // BLOCK_CELLS)
    cells = cells[np.lexsort(keys)]
    tissue = np.ones(len(cells), np.float32)
    return PatchGrid(cells[:, ::-1] * 16, cells, (rows, cols), tissue, Pair(16.0, 16.0))


class Numbering:
    """Stands for an encoder: a patch becomes its cell."""

    def __init__(self, hold: threading.Event | None = None) -> None:
        self.num_asked = 0
        self._hold = hold

    def encode(self, block: PatchGrid) -> list[bytes | None]:
        self.num_asked += 1
        if self._hold is not None:
            self._hold.wait(10)
        return [bytes(cell.tobytes()) for cell in block.cells]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("patch_px", [16, 256, 3000, 9000])
def test_every_patch_comes_once_and_in_order_whatever_the_threads(threads, patch_px):
    grid = sparse_grid(37, 50)
    with encoding(grid, Numbering(), patch_px=patch_px, threads=threads) as encoded:  # type: ignore[arg-type]
        chunks = [chunk for task in encoded for chunk in task]
    assert chunks == [cell.tobytes() for cell in grid.cells]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("patch_px", [16, 256, 3000, 9000])
def test_a_task_is_of_one_block_and_holds_little(threads, patch_px):
    grid = sparse_grid(37, 50)
    tasks = list(blocks.tasks_of(grid, patch_px, threads))
    for task in tasks:
        assert len(np.unique(grid.cells[task] // BLOCK_CELLS, axis=0)) == 1
        assert len(task) == 1 or len(task) * patch_px**2 * 3 <= blocks._MOST_PATCH_BYTES


def test_one_thread_takes_whole_blocks_and_several_end_on_small_tasks():
    grid = sparse_grid(64, 64)
    assert len(list(blocks.tasks_of(grid, 64, 1))) == 16
    sizes = [len(task) for task in blocks.tasks_of(grid, 64, 2)]
    assert max(sizes[:8]) > 150
    assert max(sizes[-5:]) <= 4 * BLOCK_CELLS


def test_threads_begin_at_once_and_stop_when_the_context_is_left():
    hold = threading.Event()
    encoder = Numbering(hold)
    grid = sparse_grid(200, 200)
    with encoding(grid, encoder, patch_px=64, threads=2):  # type: ignore[arg-type]
        deadline = time.monotonic() + 120
        while encoder.num_asked < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        hold.set()
    assert 2 <= encoder.num_asked <= 2 + blocks._SPARE_TASKS
    asked = encoder.num_asked
    time.sleep(0.05)
    assert encoder.num_asked == asked
