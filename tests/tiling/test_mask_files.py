"""Masks that people draw, against shapes whose truth is known; and files that mean harm."""

from __future__ import annotations

import io
import json
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_hr.errors import ConfigError, MaskError
from wsi_hr.geometry import Bounds, MaskCode, Pair, Size, TissueMask
from wsi_hr.tiling.mask_files import (
    MaskFrame,
    find_masks,
    is_edited,
    mask_geojson,
    mask_sha256,
    read_mask,
)

WHOLE = Size(6400, 3200)
FRAME = MaskFrame((100, 200), Pair(32, 32), WHOLE, Bounds(0, 0, *WHOLE))
SHIFTED = MaskFrame((100, 200), Pair(32, 32), WHOLE, Bounds(640, 320, 5000, 2000))


def read(tmp_path, name: str, content: bytes, frame: MaskFrame = FRAME) -> TissueMask:
    return read_mask(tmp_path / name, content, frame)


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels, mode).save(stream, "PNG")
    return stream.getvalue()


def box(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]


def feature(rings: list, name: str | None = None, **properties) -> dict:
    if name is not None:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {"objectType": "annotation", **properties},
    }


def geojson(*features: dict) -> bytes:
    return json.dumps({"type": "FeatureCollection", "features": list(features)}).encode()


def asap(*annotations: tuple[str, str, list]) -> bytes:
    drawn = "".join(
        f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        + "".join(
            f'<Coordinate Order="{order}" X="{x}" Y="{y}" />'
            for order, (x, y) in reversed(list(enumerate(ring)))
        )
        + "</Coordinates></Annotation>"
        for kind, group, ring in annotations
    )
    return (
        f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{drawn}</Annotations>'
        "<AnnotationGroups /></ASAP_Annotations>"
    ).encode()


TRUTH = np.zeros((100, 200), np.uint8)
TRUTH[10:60, 20:120] = MaskCode.TISSUE
AS_BOX = box(640, 320, 3200, 1600)


@pytest.mark.parametrize(
    "content",
    [
        png(np.kron(TRUTH, np.full((1, 1), 255, np.uint8))),
        png(np.kron(TRUTH, np.full((4, 4), 1, np.uint8))),
        png(TRUTH.astype(np.bool_)),
        png(np.stack([TRUTH * 0, TRUTH * 9, TRUTH * 0], axis=-1)),
        png(np.stack([TRUTH * 0 + 255] * 3 + [TRUTH * 255], axis=-1)),
        png(TRUTH.astype(np.uint16) * 300),
    ],
    ids=["gray", "finer", "bits", "colour", "alpha", "16 bits"],
)
def test_a_png_of_any_size_and_kind(tmp_path, content):
    mask = read(tmp_path, "s.PNG", content)
    assert np.array_equal(mask.codes, TRUTH)
    assert (mask.method, mask.downsample) == ("mask_file", (32, 32))


def test_a_png_with_a_palette(tmp_path):
    picture = Image.fromarray(TRUTH, "P")
    picture.putpalette([0, 0, 0, 200, 0, 0])
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    assert np.array_equal(read(tmp_path, "s.png", stream.getvalue()).codes, TRUTH)


@settings(max_examples=30)
@given(st.integers(3, 90), st.integers(0, 1000))
def test_a_px_of_a_png_counts_for_the_area_it_covers(tmp_path_factory, height, seed):
    coarse = np.random.default_rng(seed).random((height, 2 * height)) < 0.5
    coarse[0, 0] = True
    fine = Image.fromarray((coarse * 255).astype(np.uint8)).resize(WHOLE, Image.Resampling.NEAREST)
    share = np.asarray(fine, np.float64).reshape(100, 32, 200, 32).mean((1, 3)) / 255
    mask = read(tmp_path_factory.mktemp("m"), "s.png", png(coarse)).mask
    clear = np.abs(share - 0.5) > 0.05  # nearest-neighbour scaling is off by up to half a px of 32
    assert np.array_equal(mask[clear], (share > 0.5)[clear])


def test_geojson_as_qupath_writes_it(tmp_path):
    hole = box(1280, 640, 320, 320)
    mask = read(
        tmp_path,
        "s.geojson",
        geojson(
            feature([AS_BOX, hole], "Tissue"),
            feature([box(3200, 320, 320, 320)], "Pen"),
            feature([box(640, 1600, 320, 320)], "Ignore*"),
            feature([box(5000, 2000, 64, 64)], None, objectType="detection"),
        ),
    )
    truth = TRUTH.copy()
    truth[20:30, 40:50] = 0
    truth[10:20, 100:110] = MaskCode.PEN
    truth[50:60, 20:30] = 0
    assert np.array_equal(mask.codes, truth)


def test_geojson_of_other_shapes(tmp_path):
    multi = {
        "type": "MultiPolygon",
        "coordinates": [[box(640, 320, 1600, 1600)], [box(2240, 320, 1600, 1600)]],
    }
    line = {"type": "LineString", "coordinates": [[0, 0], [6400, 3200]]}
    both = {"type": "GeometryCollection", "geometries": [multi, line]}
    for document in (multi, both, [feature([AS_BOX])], feature([AS_BOX])):
        mask = read(tmp_path, "s.geojson", json.dumps(document).encode())
        assert np.array_equal(mask.codes, TRUTH)


def test_geojson_has_qupaths_origin(tmp_path):
    shifted = feature([box(0, 0, 3200, 1600)])
    assert np.array_equal(read(tmp_path, "s.geojson", geojson(shifted), SHIFTED).codes, TRUTH)


def test_asap_has_level_0s(tmp_path):
    ring = AS_BOX[:-1]
    content = asap(("Polygon", "tumour", ring), ("Dot", "x", [[1, 1]]),
                   ("Spline", "Fold", box(640, 320, 320, 320)[:-1]))  # fmt: skip
    truth = TRUTH.copy()
    truth[10:20, 20:30] = MaskCode.FOLD
    for frame in (FRAME, SHIFTED):
        for encoded in (content, content.decode().encode("utf-16"), b"\xef\xbb\xbf" + content):
            assert np.array_equal(read(tmp_path, "s.xml", encoded, frame).codes, truth)


def test_a_px_belongs_to_what_covers_most_of_it(tmp_path):
    thirds = geojson(
        feature([box(0, 0, 6400, 3200)]),
        feature([box(0, 0, 20, 3200)], "Blur"),
        feature([box(320, 0, 12, 3200)], "Blur"),
    )
    codes = read(tmp_path, "s.geojson", thirds).codes
    assert (codes[:, 0] == MaskCode.BLUR).all()
    assert (codes[:, 1:] == MaskCode.TISSUE).all()


def test_what_lies_beyond_the_slide_does_no_harm(tmp_path):
    huge = geojson(feature([box(-1e300, -1e300, 2e300, 2e300)]))
    assert read(tmp_path, "s.geojson", huge).mask.all()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.png", b"no png", "is no PNG"),
        ("s.png", png(TRUTH)[:60], "is no sound PNG"),
        ("s.png", png(TRUTH[:50]), "not the shape of the slide"),
        ("s.png", png(np.zeros((100, 200), np.uint8)), "shows no tissue on the slide"),
        ("s.geojson", b"{", "is not GeoJSON"),
        ("s.geojson", b"[" * 100_000, "is not GeoJSON"),
        ("s.geojson", b'{"type": "FeatureCollection"}', "is not GeoJSON"),
        ("s.geojson", b"3", "is not GeoJSON"),
        ("s.geojson", geojson(), "has no polygon of tissue"),
        ("s.geojson", geojson(feature([AS_BOX], "Pen")), "has no polygon of tissue"),
        ("s.geojson", geojson(feature([box(9e4, 9e4, 9, 9)])), "is 6400 x 3200 px at level 0"),
        ("s.geojson", geojson(feature([[[0, 0], [float("nan"), 1], [5, 5]]])), "not a number"),
        ("s.xml", b"<a>", "is not ASAP's XML"),
        ("s.xml", b"<annotations/>", "is not ASAP's XML"),
        ("s.xml", b"\xff\xfe\x00", "is not ASAP's XML"),
        ("s.xml", asap(("Polygon", "a", [["x", 1]])), "is not ASAP's XML"),
        ("s.xml", asap(), "has no polygon of tissue"),
    ],
)
def test_what_is_no_mask_of_the_slide_says_so(tmp_path, name, content, said):
    with pytest.raises(MaskError) as caught:
        read(tmp_path, name, content)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert said in str(caught.value)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;">]>'
    "<ASAP_Annotations>&b;</ASAP_Annotations>"
)
OUTSIDE = (
    '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><ASAP_Annotations>&e;</ASAP_Annotations>'  # noqa: E501
)


@pytest.mark.parametrize("text", [BOMB, OUTSIDE, OUTSIDE.replace("<!DOCTYPE", "<! DOCTYPE")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_that_declares_entities_is_refused(tmp_path, text, encoding):
    with pytest.raises(MaskError, match="declares XML entities"):
        read(tmp_path, "s.xml", text.encode(encoding))


def test_a_png_larger_than_a_mask_needs_is_refused_before_it_is_decoded(tmp_path):
    header = bytearray(png(TRUTH))
    header[16:24] = (40_000).to_bytes(4) + (20_000).to_bytes(4)
    with pytest.raises(MaskError, match="has 40000 x 20000 px, more than a mask needs"):
        read(tmp_path, "s.png", bytes(header))


def blobs(seed: int) -> np.ndarray:
    """Codes in round shapes with holes, u8[100, 200]."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((100, 200), np.uint8)
    rows, cols = np.mgrid[:100, :200]
    for code in (1, 1, 1, 0, 0, 2, 3, 4, 5):
        row, col, radius = rng.integers(0, 100), rng.integers(0, 200), rng.integers(4, 30)
        codes[np.hypot(rows - row, cols - col) < radius] = code
    codes[40:60, 90:110] = 1
    return codes


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("frame", [FRAME, SHIFTED])
def test_what_is_written_is_read_back_as_it_was(tmp_path, seed, frame):
    codes = blobs(seed)
    mask = TissueMask.from_codes(codes, frame.downsample, "entropy")
    text = mask_geojson(mask, "s", frame.bounds)
    again = read(tmp_path, "s.geojson", text.encode(), frame).codes
    assert (again == codes).mean() > 0.99
    for code in np.unique(codes):
        assert ((again == code) & (codes == code)).sum() >= 0.95 * (codes == code).sum()


def test_what_is_written_is_what_qupath_wants(tmp_path):
    mask = TissueMask.from_codes(blobs(0), FRAME.downsample, "entropy")
    document = json.loads(mask_geojson(mask, "s", FRAME.bounds))
    assert document["type"] == "FeatureCollection"
    ids = [uuid.UUID(each["id"]) for each in document["features"]]
    assert len(set(ids)) == len(ids) > 3
    for each in document["features"]:
        assert each["properties"]["objectType"] == "annotation"
        assert each["properties"]["classification"]["name"] in (
            "Tissue", "Pen", "Blur", "Fold", "Bubble"
        )  # fmt: skip
        assert len(each["properties"]["classification"]["color"]) == 3
        for ring in each["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
            assert len(ring) >= 4
    assert mask_geojson(mask, "s", FRAME.bounds) == mask_geojson(mask, "s", FRAME.bounds)
    assert mask_geojson(mask, "t", FRAME.bounds) != mask_geojson(mask, "s", FRAME.bounds)
    empty = TissueMask(np.zeros((100, 200), np.bool_), FRAME.downsample, "entropy")
    assert json.loads(mask_geojson(empty, "s", FRAME.bounds))["features"] == []


def test_somebodys_work_is_told_from_ours(tmp_path):
    path = tmp_path / "s.geojson"
    assert not is_edited(path)
    mask = TissueMask.from_codes(blobs(0), FRAME.downsample, "entropy")
    path.write_text(mask_geojson(mask, "s", FRAME.bounds))
    assert not is_edited(path)
    path.write_bytes(geojson(feature([AS_BOX])))  # as QuPath leaves it: only what it knows
    assert is_edited(path)
    path.write_text("half an exp")
    assert is_edited(path)


def test_mask_files_are_found_by_their_slides_name(tmp_path):
    for name in ("a.png", "b.svs.geojson", "c.x.XML", "notes.txt", ".d.png"):
        (tmp_path / name).touch()
    found = {slide_id: path.name for slide_id, path in find_masks(tmp_path).items()}
    assert found == {"a": "a.png", "b": "b.svs.geojson", "c.x": "c.x.XML"}
    (tmp_path / "b.png").touch()
    with pytest.raises(ConfigError, match=r"b\.png and b\.svs\.geojson are for the same slide"):
        find_masks(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        find_masks(tmp_path / "nowhere")


def test_the_digest_is_of_the_bytes():
    assert mask_sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.data
def test_real_files_of_qupath_and_asap(tmp_path, shared_data):
    folder = shared_data / "annotations"
    whole = Size(46000, 32914)
    frame = MaskFrame((1029, 1438), Pair(32, 32), whole, Bounds(0, 0, *whole))
    holed = read(tmp_path, "a.geojson", (folder / "histoqc-holed.geojson").read_bytes(), frame)
    area = holed.mask.sum() * 32 * 32
    assert area == pytest.approx(_area_of_first(folder / "histoqc-holed.geojson"), rel=0.01)
    assert holed.mask[17000 // 32, 10200 // 32]
    assert not holed.mask[18100 // 32, 12380 // 32], "the hole"
    tumour = read(tmp_path, "a.xml", (folder / "wsiprocess-CMU-1_segmentation.xml").read_bytes(),
                  frame)  # fmt: skip
    assert tumour.mask[20500 // 32, 6400 // 32]
    assert 0.001 < tumour.mask.mean() < 0.2
    small = read(tmp_path, "b.geojson", (folder / "dlup-qupath05.geojson").read_bytes(), frame)
    assert small.mask.any()


def _area_of_first(path) -> float:
    """Area of a polygon less its holes, by the shoelace formula."""
    rings = json.loads(path.read_text())["geometry"]["coordinates"]
    areas = []
    for ring in rings:
        x, y = np.array(ring).T
        areas.append(abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2)
    return areas[0] - sum(areas[1:])
