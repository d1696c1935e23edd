"""How much of a patch polygons cover, against areas in closed form and against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_hr.bags.patch_cover import Painted, covers, inside
from wsi_hr.geometry import Pair, PatchGrid


def grid_of(cells, *, stride: tuple[float, float], edge: tuple[float, float]) -> PatchGrid:
    cells = np.asarray(cells, np.int32)
    coords = np.floor(cells[:, ::-1] * np.array(stride)).astype(np.int32) + (37, 11)
    shape = (int(cells[:, 0].max()) + 1, int(cells[:, 1].max()) + 1)
    return PatchGrid(coords.astype(np.int32), cells, shape, np.ones(len(cells), np.float32),
                     Pair(*edge))  # fmt: skip


def holed_grid(rng: np.random.Generator, **facts) -> PatchGrid:
    """Two thirds of 40 x 35 cells, in no order: more than one block, and blocks with holes."""
    every = np.stack(np.divmod(np.arange(40 * 35), 35), 1)
    return grid_of(rng.permutation(every)[:900], **facts)


def box(x: float, y: float, w: float, h: float) -> np.ndarray:
    return np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]], np.float64)


def star(rng: np.random.Generator, x: float, y: float, radius: float) -> np.ndarray:
    """A polygon with notches."""
    angle = np.sort(rng.random(15)) * 2 * np.pi
    length = radius * rng.uniform(0.3, 1, 15)
    return np.stack([x + length * np.cos(angle), y + length * np.sin(angle)], 1)


def lies_in(points_P2: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Whether points lie in a ring, by the sum of the angles under which they see its edges."""
    to = ring[None] - points_P2[:, None]
    after = np.roll(to, -1, axis=1)
    cross = to[..., 0] * after[..., 1] - to[..., 1] * after[..., 0]
    turned = np.arctan2(cross, (to * after).sum(2)).sum(1)
    return np.abs(turned) > np.pi


@pytest.mark.parametrize("stride", [(256.0, 256.0), (100.3, 97.7), (300.5, 260.0)])
def test_boxes_cover_what_their_sides_say(stride) -> None:
    grid = holed_grid(np.random.default_rng(0), stride=stride, edge=(256.0, 250.5))
    x, y, w, h = 1234.5, 777.25, 4000.0, 3210.0
    cover = covers([Painted(1, [box(x, y, w, h)])], grid, 3)
    low, high = grid.coords, grid.coords + np.array(grid.patch_px0)
    sides = (np.minimum(high, (x + w, y + h)) - np.maximum(low, (x, y))).clip(0)
    truth = sides.prod(1) / np.prod(grid.patch_px0)
    assert 0 < truth.mean() < 1
    assert np.abs(cover[:, 1] - truth).max() < 1 / 32, "half a px of the raster on two sides"
    assert np.array_equal(cover[:, 1] > 0.999, truth > 0.999)
    assert not cover[:, [0, 2]].any()


@pytest.mark.parametrize("seed", range(4))
def test_any_polygons_with_holes_equal_brute_force(seed) -> None:
    rng = np.random.default_rng(seed)
    every = np.stack(np.divmod(np.arange(20 * 4), 4), 1)
    grid = grid_of(rng.permutation(every)[:50], stride=(64, 64), edge=(64, 64))
    painted = []
    for code in (1, 2, 1, 0, 2):
        x, y = rng.uniform(0, 300), rng.uniform(0, 1300)
        painted.append(Painted(code, [star(rng, x, y, 300), star(rng, x, y, 80)]))
    step = (np.arange(40) + 0.5) / 40 * 64
    offsets = np.stack(np.meshgrid(step, step), -1).reshape(-1, 2)
    points = (grid.coords[:, None] + offsets).reshape(-1, 2)
    shown = np.full(len(points), -1)
    for polygon in painted:  # the later ones over the earlier ones, holes left open
        outline, hole = (lies_in(points, ring) for ring in polygon.rings)
        shown[outline ^ hole] = polygon.code
    truth = np.stack([(shown == code).reshape(len(grid), -1).mean(1) for code in range(3)], 1)
    assert (truth > 0.2).any(0).all(), "all three are to be seen"
    assert np.abs(covers(painted, grid, 3) - truth).max() < 0.02


def test_the_centre_of_a_px_decides() -> None:
    triangle = np.array([[0, 0], [8, 0], [0, 8]], np.float64)
    rows, cols = np.mgrid[:10, :9] + 0.5
    assert np.array_equal(inside([triangle], (10, 9)), rows + cols < 8)
    assert np.array_equal(inside([triangle[::-1]], (10, 9)), rows + cols < 8)
    nested = inside([box(0, 0, 9, 10), box(2, 2, 5, 5), box(3, 3, 1, 1)], (10, 9))
    assert nested.sum() == 90 - 25 + 1


def test_the_whole_world_and_what_is_far_off_do_no_harm() -> None:
    grid = holed_grid(np.random.default_rng(1), stride=(256, 256), edge=(256, 256))
    world, nowhere = box(-1e300, -1e300, 2e300, 2e300), box(1e200, 5, 9, 9)
    cover = covers([Painted(0, [world]), Painted(1, [nowhere])], grid, 2)
    assert (cover == [1, 0]).all()
    assert not covers([], grid, 2).any()
