"""The map of classes shows each patch's class where the patch lies, and names it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsi_hr.geometry import Pair, PatchGrid, Size
from wsi_hr.prediction.class_map import COLOURS, draw_class_map
from wsi_hr.prediction.legend import RESEARCH_USE
from wsi_hr.slide_prediction import SlidePrediction

GREY = np.full((64, 96, 3), 200, np.uint8)
LEVEL0 = Size(9600, 6400)  # a thumbnail's px is 100 of it


def predict(coords: list[tuple[int, int]], probs: list[list[float]]) -> SlidePrediction:
    corners = np.array(coords, np.int32)
    cells = (corners // 1600)[:, ::-1].astype(np.int32)
    num = len(coords)
    grid = PatchGrid(corners, cells, (4, 6), np.ones(num, np.float32), Pair(1600, 1600))
    return SlidePrediction(
        "slide\u202e7", np.array([0.5, 0.5], np.float32), np.zeros(num, np.float32),
        np.ones(num, np.uint8), grid, np.array(probs, np.float32),
    )  # fmt: skip


def draw(prediction: SlidePrediction, classes: list[str], max_px: int = 640) -> Image.Image:
    return draw_class_map(prediction, classes, GREY, LEVEL0, max_px=max_px)


def tinted(colour: int) -> np.ndarray:
    return np.rint(0.4 * 200 + 0.6 * COLOURS[colour])


def at(picture: Image.Image, x0: int, y0: int) -> np.ndarray:
    """The map's colour at a place of the slide; the map fills the picture's width."""
    scale = picture.width / LEVEL0.w
    return np.asarray(picture)[int(y0 * scale), int(x0 * scale)]


def test_a_patch_has_its_classes_colour_and_background_stays_bare() -> None:
    coords = [(0, 0), (1600, 1600), (4800, 3200)]
    probs = [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]
    picture = draw(predict(coords, probs), ["background", "Tumor", "Stroma"], max_px=4000)
    assert picture.width == 4000
    assert np.array_equal(at(picture, 800, 800), (200, 200, 200))
    for x, y in ((1650, 1650), (3150, 3150)):
        assert np.array_equal(at(picture, x, y), tinted(0))
    assert np.array_equal(at(picture, 5000, 3400), tinted(1))
    assert np.array_equal(at(picture, 3300, 1700), (200, 200, 200))


def test_where_patches_overlap_the_surest_shows() -> None:
    coords, classes = [(0, 0), (800, 0)], ["background", "a", "b"]
    for first, second, shown in ((0.9, 0.8, 0), (0.8, 0.9, 1)):
        probs = [[0, first, 1 - first], [0, 1 - second, second]]
        picture = draw(predict(coords, probs), classes, max_px=4000)
        assert np.array_equal(at(picture, 1200, 800), tinted(shown))


def test_the_legend_has_a_sample_of_every_colour_and_the_texts_every_count() -> None:
    names = ["background", *(f"class {k}" for k in range(1, 12))]
    probs = np.eye(12)[[0, 1, 1, 8, 9, 11]]
    picture = draw(predict([(1600 * k, 0) for k in range(6)], probs.tolist()), names)
    below = np.asarray(picture)[int(picture.width / 9600 * 6400) + 1 :].reshape(-1, 3)
    for colour in COLOURS:
        sample = np.rint(0.4 * 255 + 0.6 * colour)
        assert (below == sample).all(1).any()
    assert np.array_equal(at(picture, 6400 + 800, 800), tinted(8)), "the ninth and those after"
    assert np.array_equal(at(picture, 8000 + 800, 800), tinted(8))
    said = picture.info["Description"]
    assert said.startswith("slide slide\ufffd7; patches by most probable class: background (1);")
    assert "class 1 (2); " in said
    assert said.endswith("class 9 (1); class 10 (0); class 11 (1)")
    assert picture.info["Disclaimer"] == RESEARCH_USE


@pytest.mark.parametrize("max_px", [128, 1000])
def test_it_just_fits(max_px: int) -> None:
    picture = draw(predict([(0, 0)], [[0.0, 1.0]]), ["background", "x" * 999], max_px=max_px)
    assert max(picture.size) == max_px
