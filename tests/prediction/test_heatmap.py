"""The overlay lies where the patch lies, tells the roles apart and survives any name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_hr.errors import WriteError
from wsi_hr.geometry import Pair, PatchGrid, Size
from wsi_hr.prediction.heatmap import OUTLINES, colour_of, draw_heatmap, patch_boxes
from wsi_hr.prediction.legend import RESEARCH_USE, printable, save_picture
from wsi_hr.slide_prediction import Role, SlidePrediction


def predict(coords, footprint, saliency, roles, slide_id="s", stride=None) -> SlidePrediction:
    coords = np.asarray(coords, dtype=np.int32).reshape(-1, 2)
    step = np.array(footprint if stride is None else stride)
    cells = (coords // step)[:, ::-1].astype(np.int32)
    shape = tuple(cells.max(axis=0) + 1) if len(cells) else (0, 0)
    grid = PatchGrid(coords, cells, shape, np.ones(len(coords), np.float32), Pair(*footprint))
    return SlidePrediction(
        slide_id,
        np.array([0.25, 0.75], np.float32),
        np.asarray(saliency, np.float32),
        np.asarray(roles, np.uint8),
        grid,
    )


def map_of(picture: Image.Image) -> np.ndarray:
    """The slide's part of a picture whose thumbnail has no white in its first row and column."""
    pixels = np.asarray(picture).astype(int)
    white = (pixels == 255).all(axis=-1)
    return pixels[: white[:, 0].argmax(), : (np.append(white[0], True)).argmax()]


def box_of(hit: np.ndarray) -> np.ndarray:
    rows, cols = np.flatnonzero(hit.any(axis=1)), np.flatnonzero(hit.any(axis=0))
    return np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1])


@pytest.mark.parametrize(
    ("level0_size", "thumb_size", "footprint"),
    [
        (Size(8192, 8192), Size(512, 512), (512.0, 512.0)),
        (Size(10007, 6133), Size(1000, 613), (447.9, 447.9)),
        (Size(6133, 20011), Size(313, 1024), (896.3, 894.1)),
        (Size(100_000, 33_331), Size(1024, 341), (1777.7, 1777.7)),
    ],
)
@pytest.mark.parametrize("max_px", [700, 1600])
def test_the_overlay_lies_on_the_patch(level0_size, thumb_size, footprint, max_px):
    """A fiducial painted into the thumbnail and the outline of its patch have the same box."""
    scale = np.array(thumb_size) / np.array(level0_size)
    cols, rows = (np.array(level0_size) // np.array(footprint)).astype(int)
    for cell in [(0, 0), (cols // 2, rows // 3), (cols - 1, rows - 1)]:  # drift shows at the end
        xy0 = np.rint(np.array(cell) * footprint).astype(int)
        painted = np.rint(np.concatenate([xy0 * scale, (xy0 + footprint) * scale])).astype(int)
        left, top, right, bottom = painted
        thumbnail = np.full((thumb_size.h, thumb_size.w, 3), 200, np.uint8)
        thumbnail[top:bottom, left:right] = (0, 0, 255)

        bare = predict([xy0], footprint, [1.0], [Role.NOT_VISITED])
        salient = predict([xy0], footprint, [1.0], [Role.SALIENT])
        draw = {"title": "t", "max_px": max_px}
        without = draw_heatmap(bare, thumbnail, level0_size, **draw)
        with_box = draw_heatmap(salient, thumbnail, level0_size, **draw)

        blue, drawn = map_of(without), map_of(with_box)
        fiducial = box_of(blue[..., 2] - blue[..., 0] > 100)
        outline = box_of((drawn == OUTLINES[Role.SALIENT]).all(axis=-1))
        thumb_px = np.tile(np.array(blue.shape[1::-1]) / np.array(thumb_size), 2)  # in map px
        coarser = np.maximum(thumb_px, 1)
        assert (np.abs(outline - fiducial) <= coarser).all()
        assert (np.abs(outline - painted * thumb_px) <= coarser).all()


def test_neighbours_on_the_slide_are_neighbours_on_the_map():
    cells = np.stack(np.meshgrid(np.arange(97), np.arange(61)), axis=-1).reshape(-1, 2)
    coords = np.rint(cells * 447.9).astype(np.int32)
    grid = predict(coords, (447.9, 447.9), np.zeros(len(coords)), np.ones(len(coords))).grid
    covered = np.zeros((480, 760), np.int64)
    for left, top, right, bottom in patch_boxes(grid, Size(43_447, 27_322), Size(760, 480)):
        covered[top:bottom, left:right] += 1
    assert (covered == 1).mean() > 0.98  # the rest: half a level-0 px of rounding in the corners
    assert covered.max() <= 4


def test_patches_smaller_than_a_pixel_and_beyond_the_edge_stay_on_the_map():
    grid = predict([(0, 0), (99_990, 49_995)], (3.0, 9.0), [0, 1], [1, 1]).grid
    boxes = patch_boxes(grid, Size(100_000, 50_000), Size(100, 50))
    assert (boxes == [[0, 0, 1, 1], [99, 49, 100, 50]]).all()


THUMB = np.full((300, 400, 3), (240, 200, 220), np.uint8)
LEVEL0 = Size(4000, 3000)


def centre(picture: Image.Image, xy0: tuple[int, int], edge: int = 1000) -> np.ndarray:
    scale = picture.width / LEVEL0.w
    x, y = (int((at + edge / 2) * scale) for at in xy0)
    return np.asarray(picture)[y, x].astype(int)


def test_not_visited_stays_bare_and_the_fill_follows_rank():
    places = [(0, 0), (1000, 0), (2000, 0), (3000, 0), (0, 1000)]
    roles = [Role.BACKGROUND] * 4 + [Role.NOT_VISITED]
    prediction = predict(places, (1000.0, 1000.0), [1e-9, 5e-9, 5e-9, 1.0, 7.0], roles)
    picture = draw_heatmap(prediction, THUMB, LEVEL0, title="t", max_px=800)
    low, tied, other, high, bare = (centre(picture, place) for place in places)
    assert (bare == THUMB[0, 0]).all()
    assert (tied == other).all()
    for value, alpha, seen in [(0.0, 0.25, low), (0.5, 0.425, tied), (1.0, 0.6, high)]:
        expected = THUMB[0, 0] * (1 - alpha) + colour_of(np.float32(value)) * alpha
        assert np.abs(seen - expected).max() <= 1
    outside = np.asarray(picture)[: round(picture.width * 0.75)][-5:, -5:]
    assert (outside == THUMB[0, 0]).all()


def test_the_highest_of_overlapping_patches_shows():
    places = [(0, 0), (500, 0), (1000, 0)]
    roles = [Role.BACKGROUND] * 3
    both = predict(places, (1000.0, 1000.0), [3, 2, 1], roles, stride=(500, 500))
    picture = draw_heatmap(both, THUMB, LEVEL0, title="t", max_px=800)
    assert (centre(picture, (-250, 0)) == centre(picture, (250, 0))).all()  # alone, and under 2
    assert (centre(picture, (0, 0)) != centre(picture, (750, 0))).any()


def test_salient_and_sub_salient_are_told_apart():
    places = [(0, 0), (1000, 0), (2000, 0)]
    roles = [Role.SALIENT, Role.SUB_SALIENT, Role.BACKGROUND]
    prediction = predict(places, (1000.0, 1000.0), [3, 2, 1], roles)
    picture = np.asarray(draw_heatmap(prediction, THUMB, LEVEL0, title="t", max_px=800))
    patch = round(1000 * picture.shape[1] / LEVEL0.w)
    for column, role in enumerate([Role.SALIENT, Role.SUB_SALIENT]):
        area = picture[:patch, column * patch : (column + 1) * patch]
        for other, colour in OUTLINES.items():
            assert (area == colour).all(axis=-1).any() == (other == role)
    assert not any(
        (picture[:patch, 2 * patch + 1 : 3 * patch] == c).all(axis=-1).any()
        for c in OUTLINES.values()
    )


def luminance(rgb) -> np.ndarray:
    """Relative luminance as WCAG 2 defines it."""
    linear = np.asarray(rgb, float) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def test_colours_can_be_told_apart_without_hue():
    dark, light = sorted(luminance(colour) for colour in OUTLINES.values())
    assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG's contrast of graphical objects
    scale = luminance(colour_of(np.linspace(0, 1, 256, dtype=np.float32)))
    assert (np.diff(scale) > 0).all()


@pytest.mark.parametrize("max_px", [128, 333, 1600])
@pytest.mark.parametrize("thumb_size", [Size(100, 100), Size(1024, 20), Size(9, 1000), Size(1, 1)])
def test_the_picture_fits(max_px, thumb_size):
    thumbnail = np.zeros((thumb_size.h, thumb_size.w, 3), np.uint8)
    level0 = Size(thumb_size.w * 37, thumb_size.h * 37)
    one = predict([(0, 0)], (37.0, 37.0), [1], [3])
    picture = draw_heatmap(one, thumbnail, level0, title="lesion", max_px=max_px)
    assert max(picture.size) <= max_px


def test_a_score_that_is_no_number_is_refused_where_it_would_be_drawn():
    places = [(0, 0), (1000, 0)]
    with pytest.raises(ValueError, match="not a finite number"):
        draw_heatmap(
            predict(places, (1000.0, 1000.0), [np.nan, 1], [1, 1]),
            THUMB,
            LEVEL0,
            title="t",
            max_px=400,
        )
    unseen = predict(places, (1000.0, 1000.0), [np.nan, 1], [0, 1])
    draw_heatmap(unseen, THUMB, LEVEL0, title="t", max_px=400)


@given(name=st.text(st.characters(), max_size=60))
@settings(max_examples=25)
def test_any_name_can_be_drawn(name):
    prediction = predict([(0, 0)], (1000.0, 1000.0), [1], [3], slide_id=name)
    draw_heatmap(prediction, THUMB, LEVEL0, title=name, max_px=300)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a\nb\r\tc\x00",
        "\ud800\udcff",
        "\u202egpj.exe",
        "a\u0301" * 9000,
        "\U0001f9ec x",
        "=cmd()",
    ],
)
def test_awkward_names_reach_the_file_in_printable_form(name, tmp_path: Path):
    prediction = predict([(0, 0)], (1000.0, 1000.0), [1], [3], slide_id=name)
    picture = draw_heatmap(prediction, THUMB, LEVEL0, title=name, max_px=400)
    save_picture(picture, tmp_path / "h.png")
    with Image.open(tmp_path / "h.png") as read:
        assert read.format == "PNG"
        assert read.text["Title"] == f"{printable(name)}: {printable(name)}"
        assert read.text["Title"].isprintable()
        assert read.text["Disclaimer"] == RESEARCH_USE
        assert "probability 0.750" in read.text["Description"]


def test_saving_is_whole_or_not_at_all_and_repeatable(tmp_path: Path):
    prediction = predict([(0, 0)], (1000.0, 1000.0), [1], [3])
    path = tmp_path / "h.png"
    written = []
    for _ in range(2):
        save_picture(draw_heatmap(prediction, THUMB, LEVEL0, title="t", max_px=400), path)
        written.append(path.read_bytes())
    assert written[0] == written[1]
    unwritable = Image.new("F", (4, 4))  # PNG has no float pixels
    with pytest.raises(WriteError, match="cannot write mode F"):
        save_picture(unwritable, path)
    assert path.read_bytes() == written[0]
    assert [file.name for file in tmp_path.iterdir()] == ["h.png"]
