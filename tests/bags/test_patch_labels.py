"""Labels of patches from what people draw: which class wins, and what is said of bad files."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.patch_labels import (
    AnnotationFile,
    PatchLabels,
    labels_of_patches,
    read_annotations,
)
from wsi_hr.errors import AnnotationError
from wsi_hr.exchange.drawings import Polygon
from wsi_hr.geometry import Bounds, Size
from wsi_hr.method_config import DenseConfig
from wsi_hr.testing.lesions import Ellipse, Lesions
from wsi_hr.testing.memory_patches import MemoryPatches

PX = 100
SLIDE = MemoryPatches(np.zeros((12, PX, PX, 3), np.uint8), slide_id="s")  # 3 rows of 4


def box(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]


def drawn(name: str, *box_of: float) -> Polygon:
    return Polygon(name, [np.array(box(*box_of), np.float64)])


def labels(*polygons: Polygon, classes=("a", "b"), min_cover: float = 0.5) -> list[list[int]]:
    found = labels_of_patches(polygons, SLIDE.grid, classes, min_cover=min_cover)
    return found.reshape(3, 4).tolist()


def info(bounds: tuple[int, int, int, int] = (0, 0, 400, 300)) -> SimpleNamespace:
    return SimpleNamespace(slide_id="s", level0_size=Size(400, 300), bounds=Bounds(*bounds))


def test_the_class_that_covers_most_of_a_patch_and_enough_of_it() -> None:
    first, second = drawn("a", 0, 0, 160, 100), drawn("b", 160, 0, 190, 100)
    assert labels(first, second)[0] == [1, 1, 2, 2]
    assert labels(first, second, min_cover=0.7)[0] == [1, 0, 2, 0]
    assert labels(first, second, min_cover=1.0)[0] == [1, 0, 2, 0], "covered whole is 1"
    assert labels(first, second)[1:] == [[0] * 4] * 2
    assert labels(drawn("a", 300, 0, 40, 100), drawn("b", 340, 0, 39, 100), min_cover=0.3)[0] == [
        0, 0, 0, 1,
    ]  # fmt: skip


def test_later_polygons_lie_over_earlier_ones_and_other_classes_count_for_nothing() -> None:
    whole, part = drawn("a", 0, 0, 400, 300), drawn("b", 0, 0, 200, 100)
    assert labels(whole, part)[0] == [2, 2, 1, 1]
    assert labels(part, whole)[0] == [1, 1, 1, 1]
    assert labels(part, whole, classes=("b",))[0] == [1, 1, 0, 0]
    assert labels(drawn("", 0, 0, 100, 100), classes=("unnamed",))[0] == [1, 0, 0, 0]


def test_what_is_excluded_is_not_known_and_what_is_background_is_that() -> None:
    whole = drawn("a", 0, 0, 400, 300)
    over = [drawn("Ignore*", 0, 0, 200, 100), drawn("Background", 200, 0, 100, 300)]
    assert labels(whole, *over) == [[-1, -1, 0, 1], [1, 1, 0, 1], [1, 1, 0, 1]]


@pytest.mark.parametrize("seed", range(3))
def test_planted_lesions_as_polygons_give_the_labels_of_their_ellipses(seed) -> None:
    rng = np.random.default_rng(seed)
    ellipses = tuple(
        Ellipse(*rng.uniform(50, 1500, 2), *rng.uniform(90, 300, 2), rng.uniform(0, 3))
        for _ in range(4)
    )
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    polygons = []
    for e in ellipses:
        along, across = e.a_px0 * np.cos(turn), e.b_px0 * np.sin(turn)
        x = e.x0 + along * np.cos(e.angle) - across * np.sin(e.angle)
        y = e.y0 + along * np.sin(e.angle) + across * np.cos(e.angle)
        polygons.append(Polygon("lesion", [np.stack([x, y], 1)]))
    slide = MemoryPatches(np.zeros((256, PX, PX, 3), np.uint8))
    truth = Lesions(ellipses, ()).overlaps(slide.grid)
    found = labels_of_patches(polygons, slide.grid, ["lesion"], min_cover=0.5)
    clear = np.abs(truth - 0.5) > 0.03
    assert np.array_equal(found[clear], (truth > 0.5)[clear].astype(int))
    assert 10 < found.sum() < 200


def write(path, content: str | bytes) -> AnnotationFile:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return AnnotationFile.of(path)


def geojson(*rings: list, name: str = "a") -> str:
    return json.dumps({"type": "FeatureCollection", "features": [
        {"type": "Feature", "properties": {"classification": {"name": name}},
         "geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in rings]})  # fmt: skip


def test_a_bag_has_the_labels_of_its_patches_when_it_is_asked(tmp_path) -> None:
    file = write(tmp_path / "s.json", geojson(box(0, 0, 200, 100)))
    known = PatchLabels({"s": file}, DenseConfig(classes=("a",)))
    asked = []

    def of_source() -> np.ndarray:
        asked.append(1)
        return known.of(info(), SLIDE.grid)

    bag = Bag.of(SLIDE, 0, of_source).subset(np.array([5, 1, 0]))
    assert not asked
    assert bag.patch_labels is not None
    assert bag.patch_labels.tolist() == bag.patch_labels.tolist() == [0, 1, 1]
    assert len(asked) == 1
    assert bag.patch_labels.dtype == np.int64
    assert Bag.of(SLIDE).patch_labels is None


def test_qupath_counts_from_the_scanned_rectangle_and_asap_from_the_slide(tmp_path) -> None:
    at = info((100, 100, 300, 200))
    ring = box(0, 0, 100, 100)
    corners = "".join(
        f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(ring[:-1])
    )
    asap = (
        '<ASAP_Annotations><Annotations><Annotation Type="Polygon" PartOfGroup="a"><Coordinates>'
        f"{corners}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    for name, content, first in (("s.geojson", geojson(ring), 5), ("s.xml", asap, 0)):
        known = PatchLabels({"s": write(tmp_path / name, content)}, DenseConfig(classes=("a",)))
        assert np.flatnonzero(known.of(at, SLIDE.grid)).tolist() == [first]


def test_slides_without_a_file_are_not_known_unless_it_is_said(tmp_path) -> None:
    nothing = PatchLabels({}, DenseConfig(classes=("a",)))
    assert (nothing.of(info(), SLIDE.grid) == -1).all()
    clear = PatchLabels({}, DenseConfig(classes=("a",), unannotated="background"))
    assert (clear.of(info(), SLIDE.grid) == 0).all()
    looked = write(tmp_path / "s.geojson", geojson())
    empty = PatchLabels({"s": looked}, DenseConfig(classes=("a",)))
    assert (empty.of(info(), SLIDE.grid) == 0).all(), "somebody looked, and there was nothing"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.geojson", "{", "is not GeoJSON"),
        ("s.json", geojson([[0, 0], [5, float("nan")], [3, 3]]), "a coordinate is not a number"),
        ("s.json", geojson([[0, 0], ["x", 1], [3, 3]]), "is not GeoJSON"),
        ("s.json", geojson([[0, 0], [9, 9], [0, 0]], name="t"), "of class 't' has fewer than 3"),
        ("s.json", geojson([]), "has fewer than 3 corners"),
        ("s.json", geojson(box(900, 0, 9, 9)), "lies beside the slide, which is 400 x 300 px"),
        ("s.xml", "<a>", "is not ASAP's XML"),
        ("s.xml", '<!DOCTYPE x [<!ENTITY e "e">]><a/>', "declares XML entities"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, name, content, said) -> None:
    with pytest.raises(AnnotationError, match=said) as caught:
        read_annotations(write(tmp_path / name, content), info())
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_a_file_that_changes_under_training_is_noticed(tmp_path) -> None:
    file = write(tmp_path / "s.json", geojson(box(0, 0, 200, 100)))
    write(file.path, geojson(box(0, 0, 100, 100)))
    known = PatchLabels({"s": file}, DenseConfig(classes=("a",)))
    with pytest.raises(AnnotationError, match="has changed since training began"):
        known.of(info(), SLIDE.grid)
    file.path.unlink()
    with pytest.raises(AnnotationError, match="cannot be read"):
        known.of(info(), SLIDE.grid)


def test_no_more_is_kept_than_was_asked(tmp_path) -> None:
    known = PatchLabels({}, DenseConfig(classes=("a",)), max_kept=2)
    for slide_id in "abcd":
        facts = info()
        facts.slide_id = slide_id
        known.of(facts, SLIDE.grid)
    assert list(known._kept) == ["c", "d"]
