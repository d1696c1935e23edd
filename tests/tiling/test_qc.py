"""Artifacts that were planted are found, and what is none is not taken for one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from array_slide import ArraySlide
from PIL import Image

from wsi_hr.config import TileConfig
from wsi_hr.geometry import ARTIFACTS, Bounds, MaskCode, Pair
from wsi_hr.slides.open import open_slide
from wsi_hr.testing.texture import tissue_texture
from wsi_hr.tiling.overview import Overview, read_overview
from wsi_hr.tiling.qc import MAX_FIELDS, _lattice, find_blur, is_blurred
from wsi_hr.tiling.tissue import segment

GLASS = 243
DEFAULTS = TileConfig()  # pyright: ignore[reportCallIssue]
H_AND_E = ((228, 205, 222), (205, 130, 175), (150, 80, 150), (120, 60, 130), (95, 60, 130))
IHC = ((214, 178, 140), (150, 100, 60), (110, 70, 45), (170, 180, 205), (100, 120, 170))
BLOOD = ((205, 90, 110), (200, 90, 120))
INKS = {
    "green": (36, 61, 71),
    "teal": (20, 120, 110),
    "blue": (35, 60, 160),
    "red": (190, 19, 24),
    "black": (30, 28, 32),
}


def overview_of(rgb: np.ndarray, um: float = 16.0) -> Overview:
    shape = rgb.shape[:2]
    return Overview(
        np.ascontiguousarray(rgb),
        np.ones(shape, np.bool_),
        np.zeros(shape, np.bool_),
        Pair(32, 32),
        Pair(um, um),
    )


def codes_of(rgb: np.ndarray, um: float = 16.0, config: TileConfig = DEFAULTS) -> np.ndarray:
    return segment(overview_of(rgb, um), config).codes


def specimen(*colors: tuple[int, int, int]) -> np.ndarray:
    """Tissue in bands of the given colours, with the noise of cells, on glass: u8[200, 300, 3]."""
    rng = np.random.default_rng(0)
    rgb = (GLASS + rng.integers(-2, 3, (200, 300, 3))).astype(np.float64)
    bands = np.array_split(np.arange(40, 260), len(colors))
    for band, color in zip(bands, colors, strict=True):
        rgb[30:170, band] = np.array(color) + rng.normal(0, 8, (140, len(band), 1))
    return rgb.clip(0, 255).astype(np.uint8)


def stroke(shape: tuple[int, int], width_px: int) -> np.ndarray:
    """A curved line across the picture, from glass over tissue to glass."""
    drawn = np.zeros(shape, np.uint8)
    points = np.array([(10, 20), (90, 70), (160, 90), (290, 185)])
    cv2.polylines(drawn, [points], False, 1, thickness=width_px)
    return drawn.astype(np.bool_)


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("stain", [H_AND_E, IHC])
def test_a_stroke_of_ink_is_pen_on_tissue_and_on_glass(ink, stain):
    rgb = specimen(*stain)
    drawn = stroke(rgb.shape[:2], 20)
    soft = cv2.GaussianBlur(drawn.astype(np.float32), (0, 0), 1)[..., None]
    through = np.array(INKS[ink]) / 255 * rgb / GLASS * 255  # what is below shows a little
    inked = (soft * through + (1 - soft) * rgb).astype(np.uint8)
    codes = codes_of(inked)
    assert (codes[drawn] == MaskCode.PEN).mean() > 0.85
    far = ~cv2.dilate(drawn.astype(np.uint8), np.ones((15, 15))).astype(np.bool_)
    assert not (codes[far] == MaskCode.PEN).any()
    assert (codes == MaskCode.TISSUE)[far].sum() > 0.9 * (codes_of(rgb) == 1)[far].sum()


@pytest.mark.parametrize("stain", [H_AND_E, IHC, BLOOD, *[(c,) for c in H_AND_E + IHC + BLOOD]])
def test_no_stain_is_an_artifact(stain):
    codes = codes_of(specimen(*stain))
    assert not (codes > MaskCode.TISSUE).any()
    assert (codes == MaskCode.TISSUE).any()


def test_pigment_smaller_than_a_stroke_is_no_pen():
    rgb = specimen(*H_AND_E)
    rgb[100:108, 100:108] = INKS["black"]
    assert not (codes_of(rgb) == MaskCode.PEN).any()


def doubled(rgb: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Tissue lying on itself: light goes through it twice."""
    out = rgb.astype(np.float64)
    out[where] = out[where] ** 2 / GLASS
    return out.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("color", H_AND_E[1:3])
def test_a_fold_is_found_where_it_lies(color):
    rgb = specimen(color)
    fold = np.zeros(rgb.shape[:2], np.uint8)
    cv2.line(fold, (80, 60), (200, 140), 1, thickness=9)
    fold = fold.astype(np.bool_)
    codes = codes_of(doubled(rgb, fold))
    assert (codes[fold] == MaskCode.FOLD).mean() > 0.8
    far = ~cv2.dilate(fold.astype(np.uint8), np.ones((9, 9))).astype(np.bool_)
    assert not (codes[far] > MaskCode.TISSUE).any()


def test_a_dark_nodule_is_no_fold():
    rgb = specimen(H_AND_E[1])
    nodule = np.zeros(rgb.shape[:2], np.uint8)
    cv2.circle(nodule, (150, 100), 30, 1, thickness=-1)
    assert not (codes_of(doubled(rgb, nodule.astype(np.bool_))) > MaskCode.TISSUE).any()


def test_dense_tissue_beside_pale_has_no_fold_at_the_border():
    rgb = specimen(*3 * [H_AND_E[0]], H_AND_E[3])
    assert not (codes_of(rgb) > MaskCode.TISSUE).any()


@pytest.mark.parametrize("gray", [90, 150, 200])
def test_rims_of_bubbles_and_edges_of_the_coverslip(gray):
    rgb = specimen(H_AND_E[1])
    rgb[30:170, 40:100] = GLASS
    cv2.circle(rgb, (50, 60), 30, (gray, gray, gray), thickness=4)
    cv2.line(rgb, (5, 190), (295, 180), (gray, gray, gray), thickness=3)
    codes = codes_of(rgb)
    assert (codes[40:80, 40:60] == MaskCode.BUBBLE).all(), "also what the rim encloses"
    assert (codes[178:192, 60:240] == MaskCode.BUBBLE).any(axis=0).mean() > 0.95
    assert not (codes[100:120, 120:240] == MaskCode.BUBBLE).any()


def test_an_edge_around_the_whole_slide_encloses_no_bubble():
    rgb = np.full((500, 700, 3), GLASS, np.uint8)
    rgb[100:400, 100:600] = H_AND_E[1]
    cv2.rectangle(rgb, (20, 20), (680, 480), (150, 150, 150), thickness=4)
    codes = codes_of(rgb)
    assert (codes[15:26, 100:600] == MaskCode.BUBBLE).any(axis=0).all()
    assert (codes[110:390, 110:590] == MaskCode.TISSUE).all()


def test_only_what_is_asked_for_is_looked_for():
    rgb = specimen(*H_AND_E)
    rgb[stroke(rgb.shape[:2], 20)] = INKS["green"]
    assert codes_of(rgb).max() == MaskCode.PEN
    for names in ((), ("blur", "fold", "bubble")):
        config = DEFAULTS.model_copy(update={"artifacts": names})
        assert not (codes_of(rgb, config=config) == MaskCode.PEN).any()


def test_what_could_not_be_read_is_tissue_even_under_pen():
    overview = overview_of(specimen(*H_AND_E))
    overview.rgb[stroke(overview.rgb.shape[:2], 20)] = INKS["red"]
    overview.unreadable[60:120, 100:200] = True
    codes = segment(overview, DEFAULTS).codes
    assert (codes[60:120, 100:200] == MaskCode.TISSUE).all()
    assert (codes == MaskCode.PEN).any()


def scan(blurred: Bounds | None, *, mpp: float = 0.5, sigma_um: float = 3.0) -> ArraySlide:
    """Real tissue of 4 x 4 mm and more, out of focus in a rectangle of level-0 px."""
    tissue = np.tile(tissue_texture(), (4, 4, 1))[:8192, :8192]
    if blurred is not None:
        place = (
            slice(blurred.y, blurred.y + blurred.h),
            slice(blurred.x, blurred.x + blurred.w),
        )
        tissue[place] = cv2.GaussianBlur(tissue[place], (0, 0), sigma_um / mpp)
    levels = [tissue, *(np.asarray(Image.fromarray(tissue).reduce(k)) for k in (4, 16))]
    return ArraySlide(levels, mpp=(mpp, mpp))


def blur_of(slide: ArraySlide) -> np.ndarray:
    return segment(read_overview(slide), DEFAULTS, slide).codes == MaskCode.BLUR


def test_tissue_in_focus_is_not_blurred():
    assert not blur_of(scan(None)).any()


@pytest.mark.parametrize("sigma_um", [3.0, 6.0])
def test_a_blurred_part_is_found_and_only_that(sigma_um):
    half = Bounds(0, 0, 4096, 8192)
    blur = blur_of(scan(half, sigma_um=sigma_um))
    fields = blur.shape[1] // 8  # a field speaks for the cell around it, 8 x 8 of them here
    assert blur[:, : blur.shape[1] // 2 - fields].mean() > 0.9
    assert not blur[:, blur.shape[1] // 2 + fields :].any()


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.5, 1.0])
def test_the_lattice_is_every_cell_with_tissue_and_no_other(share):
    tissue = np.random.default_rng(0).random((211, 307)) < share
    cells = _lattice(tissue, Pair(16.0, 17.0))
    assert len(cells) <= MAX_FIELDS
    found = np.zeros_like(tissue)
    for rows, cols in cells:
        assert tissue[rows, cols].any()
        assert not found[rows, cols].any(), "cells do not overlap"
        found[rows, cols] = True
    assert found[tissue].all()


def test_fields_are_few_and_lie_on_tissue():
    slide = scan(None)
    overview = read_overview(slide)
    slide.num_read_px = slide.largest_read_px = 0
    tissue = np.zeros(overview.valid.shape, np.bool_)
    tissue[30:200, 40:220] = True
    find_blur(slide, overview, tissue)
    assert 0 < slide.num_read_px <= MAX_FIELDS * 257**2
    assert slide.largest_read_px <= 257**2


def test_what_cannot_be_read_or_resolved_is_not_called_blurred():
    everywhere = Bounds(0, 0, 8192, 8192)
    blurred = scan(everywhere)
    assert blur_of(blurred).any()
    overview = read_overview(blurred)
    coarse = scan(everywhere, mpp=2.0)
    assert not blur_of(coarse).any(), "2 um/px show no detail of 2 um"
    blurred.damaged = [everywhere]
    assert not find_blur(blurred, overview, np.ones(overview.valid.shape, np.bool_)).any()


def test_a_field_without_contrast_is_not_called_blurred():
    flat = np.random.default_rng(0).integers(238, 242, (128, 128)).astype(np.uint8)
    assert not is_blurred(flat)


@pytest.mark.parametrize("sigma", [2.5, 4, 6, 8])
def test_the_same_fields_in_and_out_of_focus(sigma):
    whole = np.asarray(Image.fromarray(tissue_texture()).convert("L").reduce(2))
    soft = cv2.GaussianBlur(whole, (0, 0), sigma)
    places = [(y, x) for y in range(0, 1024, 128) for x in range(0, 1024, 128)]
    fields = [(whole[y : y + 128, x : x + 128], soft[y : y + 128, x : x + 128]) for y, x in places]
    assert not any(is_blurred(sharp) for sharp, _ in fields)
    assert np.mean([is_blurred(blurred) for _, blurred in fields]) > 0.95


def field(shared: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(shared / "fields" / name).convert("RGB"))


@pytest.mark.data
def test_green_pen_over_real_tissue(shared_data):
    codes = codes_of(field(shared_data, "tcga-green-pen.png"))
    pen = codes == MaskCode.PEN
    # the stroke's middle, read off the picture
    middle = np.zeros(pen.shape, np.uint8)
    cv2.polylines(middle, [np.array([(430, 5), (330, 160), (220, 360), (215, 620)])], False, 1, 40)
    assert pen[middle > 0].mean() > 0.97
    assert not pen[:, 560:].any()
    assert 0.15 < pen.mean() < 0.25
    assert (codes[:, 560:] == MaskCode.TISSUE).mean() > 0.95


@pytest.mark.data
def test_red_pen_over_real_tissue(shared_data):
    codes = codes_of(field(shared_data, "tcga-red-pen.png"))
    pen = codes == MaskCode.PEN
    assert pen[150:380, 60:130].mean() > 0.97
    assert not pen[:, 280:].any()
    assert (codes[120:, 280:] == MaskCode.TISSUE).mean() > 0.9


@pytest.mark.data
def test_pen_of_three_colours_around_a_real_slide(shared_data):
    codes = codes_of(field(shared_data, "diagnostic-slide-thumb-rgb.png"), um=45)
    pen = codes == MaskCode.PEN
    for x, y in ((45, 70), (395, 70), (32, 400)):  # on glass
        assert pen[y - 2 : y + 3, x - 2 : x + 3].any(), (x, y)
    assert 0.25 < pen.mean() < 0.45
    inside = codes[320:420, 120:250]  # tissue between the rings
    assert (inside == MaskCode.TISSUE).mean() > 0.5


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("skimage-ihc.png", 0.01),
        (
            "tcga-lung-rgb.png",
            0.025,
        ),  # 40x taken for 16 um/px: nuclei as large as strokes
        ("tiatoolbox-kather1.tif", 0),
        ("tile-almost-white-1.png", 0),
        ("tile-almost-white-ihc.png", 0),
        ("tile-no-tissue.png", 0),
        ("tile-tissue-level0-4302-10273-4814-10785.png", 0.005),
    ],
)
def test_real_fields_without_artifacts(shared_data, name, most):
    codes = codes_of(field(shared_data, name))
    assert (codes > MaskCode.TISSUE).mean() <= most


@pytest.mark.data
def test_a_real_line_on_glass_is_no_tissue(shared_data):
    codes = codes_of(field(shared_data, "tile-no-tissue-line.png"))
    assert not (codes == MaskCode.TISSUE).any()
    assert (codes == MaskCode.BUBBLE).any(axis=1).mean() > 0.95, "from top to bottom"
    assert (codes == MaskCode.BUBBLE).mean() < 0.04


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("aperio/CMU-1-Small-Region.svs", None),
        ("aperio/TCGA-CR-7395-01A-01-TS1.svs", 0.25),
        ("ometiff/OS-1-detail.ome.tif", None),
        ("dicom/ezwsi-multiframe_camelyon_challenge_image.dcm", None),
    ],
)
def test_real_slides_without_artifacts(shared_data, name, mpp):
    path = shared_data / "slides" / name
    with open_slide(path, slide_id="s", mpp_override=mpp, mpp_source="test") as slide:
        mask = segment(read_overview(slide), DEFAULTS, slide)
    assert (mask.codes > MaskCode.TISSUE).mean() < 0.002
    assert mask.mask.any()


def test_the_classes_are_those_of_the_settings():
    assert DEFAULTS.artifacts == ARTIFACTS
    assert [MaskCode[name.upper()].value for name in ARTIFACTS] == [2, 3, 4, 5]
