"""Windows against brute force: what is inside, how far apart, how much."""

from __future__ import annotations

import numpy as np
import pytest
from glances import glance, grid_at, patchy
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.runtime import rng_for
from wsi_hr.sampler_config import WindowsConfig
from wsi_hr.samplers.windows import WindowSampler, _count, _integral, draw_windows


def cells_in(windows) -> list[tuple[int, int]]:
    """Every cell of every window, one by one."""
    return [
        (row, col)
        for top, left in (windows.centres - windows.edge // 2).tolist()
        for row in range(top, top + windows.edge)
        for col in range(left, left + windows.edge)
    ]


@settings(max_examples=100)
@given(
    num=st.integers(2, 150),
    num_windows=st.integers(1, 4),
    keep=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**20),
)
def test_windows_are_apart_on_tissue_and_hold_what_is_counted(
    num: int, num_windows: int, keep: float, seed: int
) -> None:
    grid, config = patchy(num, seed), WindowsConfig(num_windows=num_windows, keep=keep)
    cells = grid.cells.astype(np.int64)
    windows = draw_windows(cells, grid.shape, config, rng_for(seed))
    if num <= num_windows:
        assert windows is None
        return
    assert windows is not None
    occupied = {tuple(cell) for cell in cells.tolist()}
    centres = [tuple(centre) for centre in windows.centres.tolist()]
    assert len(centres) == num_windows
    assert set(centres) <= occupied
    for i, (row, col) in enumerate(centres):
        for other_row, other_col in centres[:i]:
            assert max(abs(row - other_row), abs(col - other_col)) >= windows.edge
    covered = cells_in(windows)
    assert len(covered) == len(set(covered)), "windows overlap"
    inside = [tuple(cell) in set(covered) for cell in cells.tolist()]
    assert windows.inside(cells).tolist() == inside
    assert _count(_integral(cells, grid.shape), windows) == sum(inside)
    kept = WindowSampler(config).select(glance(grid), 0, rng_for(seed))
    assert kept.tolist() == np.flatnonzero(inside).tolist()


@pytest.mark.parametrize("num_windows", [1, 2, 3])
@pytest.mark.parametrize("keep", [0.1, 0.25, 0.5])
def test_about_as_much_is_kept_as_asked(num_windows: int, keep: float) -> None:
    """On a large tissue with holes; one step of the edge is all that bisection cannot split."""
    rows, cols = np.mgrid[:60, :50]
    tissue = ((rows - 30) / 29) ** 2 + ((cols - 25) / 24) ** 2 < 1
    tissue &= ((rows - 20) ** 2 + (cols - 20) ** 2) > 30
    grid = grid_at(np.argwhere(tissue), (60, 50))
    parts = [
        len(WindowSampler(WindowsConfig(keep=keep, num_windows=num_windows))
            .select(glance(grid), 1, rng_for(seed))) / len(grid)
        for seed in range(20)
    ]  # fmt: skip
    assert np.mean(parts) == pytest.approx(keep, rel=0.15)
    assert max(np.abs(np.array(parts) - keep)) < 0.35 * keep


def test_every_patch_comes_up() -> None:
    grid, seen = patchy(120), np.zeros(120)
    for seed in range(200):
        seen[WindowSampler(WindowsConfig()).select(glance(grid), 1, rng_for(seed))] += 1
    assert seen.min() > 10


def test_thin_tissue_gives_what_fits() -> None:
    """A line of 30 patches has no room for two windows with 90 % of it, and says so by less."""
    line = grid_at(np.stack([np.zeros(30, int), np.arange(30)], 1), (1, 30))
    kept = WindowSampler(WindowsConfig(keep=0.9)).select(glance(line), 5, rng_for(1))
    assert 15 <= len(kept) <= 30
    assert (np.diff(kept) == 1).sum() >= len(kept) - 2  # two runs
