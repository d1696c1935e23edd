from __future__ import annotations

import math

import numpy as np
import pytest

from wsi_hr.errors import LabelError
from wsi_hr.geometry import Bounds
from wsi_hr.testing.lesions import (
    LESIONS_FILE,
    Ellipse,
    Lesions,
    load_cohort_settings,
    load_lesions,
    save_lesions,
)
from wsi_hr.testing.memory_patches import MemoryPatches

TILTED = Ellipse(x0=300, y0=200, a_px0=120, b_px0=60, angle=math.radians(30))
ROUND, DECOY = Ellipse(520, 90, 40, 40, 0), Ellipse(90, 90, 50, 50, 0)
PLANTED = Lesions(lesions=(TILTED, ROUND), decoys=(DECOY,))


STEP = 2  # px0


def painted(lesions: Lesions) -> np.ndarray:
    """bool[200, 320] of 640 x 400 px0: every second px of every second row asked on its own."""
    return np.array(
        [[lesions.contains(x + 1, y + 1) for x in range(0, 640, STEP)] for y in range(0, 400, STEP)]
    )


def test_overlap_counts_px():
    mask = painted(PLANTED)
    assert mask.sum() * STEP**2 == pytest.approx(sum(e.area_px0 for e in PLANTED.lesions), rel=0.01)
    for box in (Bounds(200, 150, 64, 64), Bounds(360, 220, 100, 50), Bounds(500, 60, 80, 80)):
        counted = mask[
            box.y // STEP : (box.y + box.h) // STEP, box.x // STEP : (box.x + box.w) // STEP
        ].mean()
        assert 0 < counted < 1
        assert PLANTED.overlap(box) == pytest.approx(counted, abs=0.02)
    assert PLANTED.overlap(Bounds(280, 190, 20, 20)) == 1
    assert PLANTED.overlap(Bounds(60, 60, 60, 60)) == 0  # a decoy is no lesion


def test_bounds_hold_the_ellipse_and_no_more():
    rows, cols = (index * STEP for index in np.nonzero(painted(Lesions((TILTED,), ()))))
    box = TILTED.bounds
    assert box.x <= cols.min() <= box.x + 2 * STEP
    assert box.y <= rows.min() <= box.y + 2 * STEP
    assert box.x + box.w - 2 * STEP <= cols.max() + STEP <= box.x + box.w
    assert box.y + box.h - 2 * STEP <= rows.max() + STEP <= box.y + box.h


def test_the_tilt_is_towards_y():
    along = (300 + 100 * math.cos(TILTED.angle), 200 + 100 * math.sin(TILTED.angle))
    mirrored = (along[0], 400 - along[1])
    assert PLANTED.contains(*along)
    assert not PLANTED.contains(*mirrored)


def test_overlaps_of_a_grid_are_those_of_its_boxes():
    grid = MemoryPatches(np.zeros((35, 80, 80, 3), dtype=np.uint8)).grid
    boxes = [Bounds(int(x), int(y), 80, 80) for x, y in grid.coords]
    np.testing.assert_allclose(PLANTED.overlaps(grid), [PLANTED.overlap(box) for box in boxes])
    decoys = Lesions(PLANTED.decoys, ())
    np.testing.assert_allclose(PLANTED.decoy_overlaps(grid), [decoys.overlap(box) for box in boxes])
    assert PLANTED.overlaps(grid).max() > 0
    assert PLANTED.decoy_overlaps(grid).max() > 0


def test_what_is_saved_is_loaded(tmp_path):
    slides = {"a": PLANTED, "b": Lesions((), ())}
    save_lesions(tmp_path, {"seed": 3}, slides)
    assert load_lesions(tmp_path) == slides
    assert load_cohort_settings(tmp_path) == {"seed": 3}


@pytest.mark.parametrize("text", [None, "", "[]", '{"slides": {}}', "{"])
def test_other_files_are_refused_by_name(tmp_path, text):
    if text is not None:
        (tmp_path / LESIONS_FILE).write_text(text)
    with pytest.raises(LabelError, match=LESIONS_FILE):
        load_lesions(tmp_path)
