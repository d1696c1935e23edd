from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from skimage.feature import hessian_matrix_det
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from wsi_hr.geometry import Bounds, Point
from wsi_hr.testing.lesion_texture import diseased
from wsi_hr.testing.lesions import Lesions
from wsi_hr.testing.specimen import Drawing, NoRoomError, Specimen, design
from wsi_hr.testing.texture import tissue_texture

SHARE = (0.025, 0.047)
SIZE_PX0 = 6144
TILE_PX = 256
CORNERS = [Point(x, y) for y in range(0, SIZE_PX0, TILE_PX) for x in range(0, SIZE_PX0, TILE_PX)]


def specimen(name: str, *, ill: bool = True, size_px0: int = SIZE_PX0) -> Specimen:
    return design(name, seed=1, size_px0=size_px0, diseased=ill, lesion_share=SHARE)


def box(xy0: Point) -> Bounds:
    return Bounds(xy0.x, xy0.y, TILE_PX, TILE_PX)


def tissue_part(one: Specimen, xy0: Point) -> float:
    """Part of a tile that is tissue, by the outline's cells (4 x 4 a tile at 6144 px)."""
    row, col = (int(at / one.cell_px0) for at in (xy0.y, xy0.x))
    return float((one.outline[row : row + 4, col : col + 4] > 0).mean())


@pytest.mark.parametrize("size_px0", [2048, SIZE_PX0])
def test_shares_are_as_asked(size_px0):
    shares = []
    for number in range(12):
        one = specimen(f"s{number}", size_px0=size_px0)
        assert one.tissue_area_px0 / size_px0**2 == pytest.approx(0.40, abs=0.005)
        area = sum(lesion.area_px0 for lesion in one.planted.lesions)
        shares.append(area / one.tissue_area_px0)
        assert len(one.planted.lesions) in (1, 2)
    assert min(shares) >= 0.02
    assert max(shares) <= 0.05
    assert np.ptp(shares) > 0.01


def test_lesions_and_decoys_lie_apart_in_the_tissue():
    for number in range(6):
        one = specimen(f"s{number}")
        y0, x0 = (np.indices(one.outline.shape) + 0.5) * one.cell_px0
        regions = [*one.planted.lesions, *one.planted.decoys]
        inside = np.stack([region.radius(x0, y0) <= 1 for region in regions])
        assert inside.sum(axis=0).max() == 1
        assert (one.outline[inside.any(axis=0)] > 0).all()


def test_a_lesion_holds_several_whole_patches():
    for number in range(6):
        planted = specimen(f"s{number}").planted
        most = [planted.overlap(box(xy0)) >= 0.9 for xy0 in CORNERS]
        assert sum(most) >= 2


def test_slides_differ_from_their_healthy_twins_in_the_lesions_alone():
    ill, well = specimen("s3", size_px0=2048), specimen("s3", size_px0=2048, ill=False)
    assert well.planted == Lesions((), ill.planted.decoys)
    np.testing.assert_array_equal(ill.outline, well.outline)
    drawings = Drawing(ill), Drawing(well)
    differing = 0
    for xy0 in [Point(x, y) for y in range(0, 2048, TILE_PX) for x in range(0, 2048, TILE_PX)]:
        one, other = (drawing.tile_at(xy0) for drawing in drawings)
        if one is None or other is None:
            assert one is other
            continue
        x, y = np.arange(xy0.x, xy0.x + TILE_PX), np.arange(xy0.y, xy0.y + TILE_PX)
        lesion = np.zeros((TILE_PX, TILE_PX), dtype=bool)
        for ellipse in ill.planted.lesions:
            lesion |= ellipse.radius(x[None, :], y[:, None]) <= 1
        np.testing.assert_array_equal(one[~lesion], other[~lesion])
        differing += int((one[lesion] != other[lesion]).any(axis=-1).sum())
    area = sum(ellipse.area_px0 for ellipse in ill.planted.lesions)
    assert differing > 0.9 * area


def test_drawing_is_repeatable_and_independent_of_order():
    corners = CORNERS[200:330]
    one, other = Drawing(specimen("s4")), Drawing(specimen("s4"))
    forward = [one.tile_at(xy0) for xy0 in corners]
    backward = [other.tile_at(xy0) for xy0 in reversed(corners)][::-1]
    assert any(tile is not None for tile in forward)
    for left, right in zip(forward, backward, strict=True):
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(one.glass, other.glass)


def test_tiles_meet_without_a_seam():
    """Neighbouring px differ across a border about as much as beside it."""
    drawing = Drawing(specimen("s5", size_px0=2048))
    met = 0
    for xy0 in [Point(x, y) for y in range(0, 2048, TILE_PX) for x in range(0, 1792, TILE_PX)]:
        here, right = drawing.tile_at(xy0), drawing.tile_at(Point(xy0.x + TILE_PX, xy0.y))
        if here is None or right is None:
            continue
        inner = np.abs(here[:, -1].astype(int) - here[:, -2]).mean()
        border = np.abs(right[:, 0].astype(int) - here[:, -1]).mean()
        assert border < 2.5 * inner + 6
        met += 1
    assert met > 10


def test_other_seeds_and_names_give_other_slides():
    base = specimen("s6", size_px0=2048)
    for other in (
        specimen("s7", size_px0=2048),
        design("s6", seed=2, size_px0=2048, diseased=True, lesion_share=SHARE),
    ):
        assert (base.outline != other.outline).any()
        assert base.planted != other.planted


def test_what_does_not_fit_is_refused():
    with pytest.raises(NoRoomError, match="smaller"):
        design("s", seed=0, size_px0=2048, diseased=True, lesion_share=(0.9, 0.9))


def test_a_lesion_changes_the_texture():
    tissue = tissue_texture()[300:1068, 500:1268]
    lesion = diseased(tissue, np.random.default_rng(0))
    assert lesion.mean() < tissue.mean()
    assert blobs(lesion) > 2 * blobs(tissue)


def blobs(level0: np.ndarray) -> float:
    """How much a region looks like round dark spots of nuclear size, at 2 um/px."""
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(level0)).reduce(4).convert("L"), float)
    bent = hessian_matrix_det(grey, sigma=2.0, approximate=False)
    rising = np.gradient(np.gradient(grey, axis=0), axis=0) + np.gradient(
        np.gradient(grey, axis=1), axis=1
    )
    return float(bent[(bent > 0) & (rising > 0)].sum() / grey.size)


def test_texture_tells_lesions_and_mean_colour_is_not_enough():
    """Patches of 64 px at 2 um/px from slides of both classes; every decoy patch is among them."""
    texture: list[float] = []
    colour: list[np.ndarray] = []
    lesion: list[bool] = []
    slide: list[int] = []
    for number in range(6):
        one = specimen(f"s{number}", ill=number % 2 == 0)
        drawing = Drawing(one)
        decoys = Lesions(one.planted.decoys, ())
        for index, xy0 in enumerate(CORNERS):
            share = one.planted.overlap(box(xy0))
            chosen = share >= 0.75 or (
                share == 0
                and tissue_part(one, xy0) == 1
                and (index % 4 == 0 or decoys.overlap(box(xy0)) > 0.5)
            )
            tile = drawing.tile_at(xy0) if chosen else None
            if tile is not None:
                texture.append(blobs(tile))
                colour.append(tile.mean(axis=(0, 1)))
                lesion.append(share > 0)
                slide.append(number)
    truth, slides, colours = np.array(lesion), np.array(slide), np.array(colour)
    assert truth.sum() >= 12
    assert roc_auc_score(truth, texture) > 0.97
    by_colour = np.zeros(len(truth))
    for number in range(6):
        rest = slides != number
        model = KNeighborsClassifier(9).fit(colours[rest], truth[rest])
        by_colour[~rest] = model.predict_proba(colours[~rest])[:, 1]
    assert roc_auc_score(truth, by_colour) < 0.9
    for channel in colours.T:
        assert 0.08 < roc_auc_score(truth, channel) < 0.92


def test_twin_without_decoys_shows_that_decoys_are_drawn():
    one = specimen("s1", size_px0=2048)
    plain = dataclasses.replace(one, planted=Lesions(one.planted.lesions, ()))
    decoy = one.planted.decoys[0]
    xy0 = Point(int(decoy.x0) - 128, int(decoy.y0) - 128)
    with_decoy, without = Drawing(one).tile_at(xy0), Drawing(plain).tile_at(xy0)
    assert with_decoy is not None
    assert without is not None
    middle = slice(96, 160)
    shift = with_decoy[middle, middle].astype(int) - without[middle, middle]
    assert np.abs(shift.mean(axis=(0, 1))).max() > 4
