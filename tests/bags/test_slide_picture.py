"""A slide as one picture, against one that is really put together and averaged."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.slide_picture import slide_picture
from wsi_hr.testing.memory_patches import MemoryPatches

CELLS = np.array([[0, 0], [0, 3], [1, 1], [2, 0], [2, 2], [4, 3], [4, 1]], np.int32)


def bag(px: int) -> Bag:
    patches = np.random.default_rng(px).integers(0, 256, (7, px, px, 3), dtype=np.uint8)
    return Bag.of(MemoryPatches(patches, cells=CELLS, shape=(5, 4)))


def whole(of: Bag, px: int) -> np.ndarray:
    """The slide at its own size: float[5 px, 5 px, 3], white beside the patches."""
    full = np.full((5 * px, 5 * px, 3), 255.0)
    for (row, col), patch in zip(CELLS, of.read(np.arange(7)), strict=True):
        full[row * px : (row + 1) * px, col * px : (col + 1) * px] = patch
    return full


def area_average(full: np.ndarray, edge: int) -> np.ndarray:
    """Brute force: every pixel becomes ``edge`` squared, then blocks are averaged."""
    size = len(full)
    fine = full.repeat(edge, 0).repeat(edge, 1)
    return fine.reshape(edge, size, edge, size, 3).mean((1, 3))


@pytest.mark.parametrize(("px", "edge"), [(4, 20), (4, 10), (4, 7), (4, 3), (6, 13), (4, 1)])
def test_it_is_the_area_average_of_the_whole(px: int, edge: int) -> None:
    given = bag(px)
    picture, _ = slide_picture(given, edge)
    assert picture.shape == (edge, edge, 3)
    assert np.abs(picture - area_average(whole(given, px), edge)).max() <= 0.501


def test_it_is_never_enlarged() -> None:
    given = bag(4)
    picture, scale = slide_picture(given, 32)
    assert scale.factor == 1
    assert np.array_equal(picture[:20, :20], whole(given, 4))
    assert (picture[20:] == 255).all()
    assert (picture[:, 20:] == 255).all()


@pytest.mark.parametrize("edge", [20, 7])
def test_what_lies_on_a_cell_is_counted_for_it(edge: int) -> None:
    given = bag(4)
    _, scale = slide_picture(given, edge)
    everywhere = np.ones((edge, edge), np.float32)
    shares = scale.share_by_cell(everywhere, CELLS)
    assert shares == pytest.approx((edge / 5) ** 2, rel=1e-5)
    for k, (row, col) in enumerate(CELLS):
        spot = np.zeros((edge, edge), np.float32)
        spot[int((row + 0.5) * edge / 5), int((col + 0.5) * edge / 5)] = 1
        assert scale.share_by_cell(spot, CELLS).argmax() == k
