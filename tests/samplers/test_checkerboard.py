from __future__ import annotations

import numpy as np
import pytest
from glances import glance, patchy

from wsi_hr.runtime import rng_for
from wsi_hr.sampler_config import CheckerboardConfig
from wsi_hr.samplers.checkerboard import Checkerboard


def seen_in(epoch: int, slide_id: str, num: int = 90, at_least: int = 0) -> list[int]:
    seen = glance(patchy(num), slide_id=slide_id, epoch=epoch)
    sampler = Checkerboard(CheckerboardConfig())
    return sampler.select(seen, at_least, rng_for(epoch)).tolist()


@pytest.mark.parametrize("slide_id", ["a", "b", "c", "case 17"])
@pytest.mark.parametrize("epoch", [0, 1, 6])
def test_two_epochs_see_everything_once(slide_id: str, epoch: int) -> None:
    first, second = seen_in(epoch, slide_id), seen_in(epoch + 1, slide_id)
    assert sorted(first + second) == list(range(90))
    assert seen_in(epoch + 2, slide_id) == first


def test_no_two_neighbours_are_seen() -> None:
    grid = patchy(90)
    cells = {tuple(cell) for cell in grid.cells[seen_in(3, "a")].tolist()}
    assert not any((row + 1, col) in cells or (row, col + 1) in cells for row, col in cells)


def test_slides_do_not_all_show_the_same_colour() -> None:
    colours = [seen_in(0, f"slide {number}") == seen_in(0, "slide 0") for number in range(200)]
    assert 60 < np.sum(colours) < 140


def test_one_patch_is_there_in_every_epoch_where_it_is_needed() -> None:
    assert [seen_in(epoch, "a", num=1, at_least=1) for epoch in (0, 1)] == [[0], [0]]
