"""Tissue masks on pictures whose truth is known, drawn here or by histolab."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from array_slide import ArraySlide
from PIL import Image

from wsi_hr.config import TileConfig
from wsi_hr.errors import SlideError
from wsi_hr.geometry import Bounds, Pair
from wsi_hr.slides.open import open_slide
from wsi_hr.tiling.overview import Overview, read_overview
from wsi_hr.tiling.tissue import SEGMENTERS, clean, segment

GLASS = (243, 241, 244)
PALE, DENSE = (228, 205, 222), (120, 60, 130)
UM = Pair(16, 16)
DEFAULTS = TileConfig()  # pyright: ignore[reportCallIssue]


def config(**settings: object) -> TileConfig:
    return DEFAULTS.model_copy(update=settings)


def picture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Glass with the noise of a real scan."""
    noise = np.random.default_rng(seed).integers(-2, 3, (height, width, 3))
    return (np.array(GLASS) + noise).clip(0, 255).astype(np.uint8)


def mask_of(rgb: np.ndarray, um: float = 16.0, segmenter: str = "saturation_otsu") -> np.ndarray:
    shape = rgb.shape[:2]
    overview = Overview(
        rgb, np.ones(shape, np.bool_), np.zeros(shape, np.bool_), Pair(32, 32), Pair(um, um)
    )
    return segment(overview, config(segmenter=segmenter)).mask


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def field(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("colour", [(255, 255, 255), GLASS, (250, 252, 248), (200, 198, 201)])
def test_blank_glass_has_no_tissue(colour):
    flat = np.full((60, 80, 3), colour, np.uint8)
    assert not mask_of(flat).any()
    noisy = (flat + np.random.default_rng(1).integers(-3, 4, flat.shape)).clip(0, 255)
    assert not mask_of(noisy.astype(np.uint8)).any()


def test_black_has_no_tissue():
    assert not mask_of(np.zeros((60, 80, 3), np.uint8)).any()


def test_a_slide_full_of_tissue_is_not_cut_in_half():
    rgb = np.empty((60, 80, 3), np.uint8)
    rgb[:, :40], rgb[:, 40:] = PALE, DENSE
    assert mask_of(rgb).all()


@pytest.mark.parametrize("colour", [PALE, DENSE, (214, 178, 140)])
def test_tissue_on_glass_is_found_to_about_a_pixel(colour):
    rgb = picture(80, 100)
    truth = np.zeros((80, 100), np.bool_)
    truth[20:60, 30:75] = True
    rgb[truth] = colour
    assert iou(mask_of(rgb), truth) > 0.9


def test_fluorescence_is_not_stained_tissue():
    rng = np.random.default_rng(0)
    rgb = np.zeros((80, 100, 3), np.uint8)
    rgb[..., 2] = rng.integers(2, 12, (80, 100))
    cells = rng.random((80, 100)) < 0.3
    rgb[cells, 2] = rng.integers(60, 255, cells.sum())
    assert not mask_of(rgb).any()


def test_black_fill_around_a_scan_changes_nothing_inside():
    rgb = picture(80, 100)
    rgb[20:60, 30:75] = DENSE
    filled = np.zeros((200, 300, 3), np.uint8)
    filled[100:180, 150:250] = rgb
    mask = mask_of(filled)
    assert iou(mask[100:180, 150:250], mask_of(rgb)) > 0.9
    assert mask.sum() == mask[100:180, 150:250].sum()


@pytest.mark.parametrize("segmenter", SEGMENTERS)
def test_pixels_without_data_are_no_tissue(segmenter):
    rgb = np.random.default_rng(0).integers(90, 180, (60, 80, 3)).astype(np.uint8)
    valid = np.zeros((60, 80), np.bool_)
    valid[:, :20] = True
    mask = SEGMENTERS[segmenter](rgb, valid, UM)
    assert mask[:, :16].all()
    assert not mask[:, 20:].any()


@pytest.mark.parametrize("um", [8.0, 16.0, 16])
def test_sizes_of_fragments_and_holes_are_physical(um):
    def square(edge_um: float) -> slice:
        return slice(20, 20 + round(edge_um / um))

    for edge_um, kept in ((80, False), (128, True)):
        mask = np.zeros((100, 100), np.bool_)
        mask[square(edge_um), square(edge_um)] = True
        assert clean(mask, Pair(um, um), min_fragment_um2=10_000, max_hole_um2=40_000).any() == kept
    for edge_um, filled in ((160, True), (256, False)):
        mask = np.ones((100, 100), np.bool_)
        mask[square(edge_um), square(edge_um)] = False
        assert (
            clean(mask, Pair(um, um), min_fragment_um2=10_000, max_hole_um2=40_000).all() == filled
        )


def pyramid(rgb: np.ndarray, factors: tuple[int, ...], **kwargs) -> ArraySlide:
    levels = [np.asarray(Image.fromarray(rgb).reduce(k)) for k in factors]
    return ArraySlide(levels, **kwargs)


@pytest.mark.parametrize(
    ("factors", "downsample"), [((1,), 32), ((1, 4), 32), ((1, 4, 16), 32), ((1, 4, 32), 32)]
)
def test_overview_is_the_same_from_whichever_level(factors, downsample):
    rng = np.random.default_rng(0)
    rgb = np.kron(rng.integers(0, 256, (40, 50, 3)), np.ones((32, 32, 1))).astype(np.uint8)
    overview = read_overview(pyramid(rgb, factors))
    assert overview.downsample == (downsample, downsample)
    assert overview.um == (16, 16)
    assert np.array_equal(overview.rgb, rgb[::32, ::32])
    assert overview.valid.all()
    assert not overview.unreadable.any()


def test_a_flat_slide_is_read_once_in_bounded_blocks():
    slide = pyramid(np.full((3100, 5000, 3), 200, np.uint8), (1,))
    overview = read_overview(slide)
    assert overview.rgb.shape == (97, 157, 3)
    assert slide.num_read_px == 3100 * 5000
    assert slide.largest_read_px <= 2048**2


def test_anisotropic_pixels_give_square_ones():
    overview = read_overview(pyramid(np.full((960, 960, 3), 200, np.uint8), (1,), mpp=(0.25, 0.5)))
    assert overview.downsample == (64, 32)
    assert overview.um == (16, 16)
    assert overview.rgb.shape == (30, 15, 3)


def test_what_cannot_be_read_counts_as_tissue_and_the_rest_is_judged():
    rgb = np.full((4096, 4096, 3), 240, np.uint8)
    slide = pyramid(rgb, (1,), damaged=[Bounds(3000, 100, 10, 10)])
    mask = segment(read_overview(slide), DEFAULTS)
    rows, cols = np.nonzero(mask.mask)
    assert mask.mask.any()
    assert cols.min() * 32 <= 3000 <= cols.max() * 32 + 32
    assert (np.ptp(rows) + 1) * 32 <= 512, "the damage stays as small as one block"
    assert (np.ptp(cols) + 1) * 32 <= 512


def test_a_slide_that_cannot_be_read_at_all_is_an_error():
    slide = pyramid(np.zeros((900, 900, 3), np.uint8), (1,), damaged=[Bounds(0, 0, 900, 900)])
    with pytest.raises(SlideError, match="most of the slide cannot be read"):
        segment(read_overview(slide), DEFAULTS)


def test_unknown_mpp_is_an_error():
    with pytest.raises(SlideError, match="--mpp-override"):
        read_overview(pyramid(np.zeros((64, 64, 3), np.uint8), (1,), mpp=None))


@pytest.mark.data
def test_agrees_with_histolab_on_a_real_slide(shared_data):
    truth = np.load(shared_data / "annotations/histolab-tissue-mask-cmu-1-small-region.npy")
    with open_slide(shared_data / "slides/aperio/CMU-1-Small-Region.svs") as slide:
        mask = segment(read_overview(slide), DEFAULTS)
        width, height = slide.level_dimensions[0]
    ours = np.kron(mask.mask, np.ones((32, 32), np.bool_))[:height, :width]
    theirs = Image.fromarray(truth).resize((width, height), Image.Resampling.NEAREST)
    assert mask.downsample == (32, 32)
    assert iou(ours, np.asarray(theirs)) >= 0.85


@pytest.mark.data
def test_agrees_with_histolab_on_a_lung_field(shared_data):
    truth = np.load(shared_data / "annotations/histolab-tissue-mask-tcga-lung-rgb.npy")
    assert iou(mask_of(field(shared_data / "fields/tcga-lung-rgb.png")), truth) >= 0.85


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "tile-no-tissue.png",
        "tile-no-tissue-line.png",
        "tile-almost-white-1.png",
        "tile-almost-white-ihc.png",
    ],
)
def test_real_blank_fields_have_nearly_none(shared_data, name):
    assert mask_of(field(shared_data / "fields" / name)).mean() < 0.01


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "least"), [("tiatoolbox-kather1.tif", 0.99), ("skimage-ihc.png", 0.6)]
)
def test_real_tissue_is_found(shared_data, name, least):
    assert mask_of(field(shared_data / "fields" / name)).mean() >= least


@pytest.mark.data
def test_real_fluorescence_is_not_stained_tissue(shared_data):
    with open_slide(shared_data / "slides/ndpi/test3-DAPI-2-(387).ndpi") as slide:
        found = segment(read_overview(slide), DEFAULTS, slide)
    assert found.mask.mean() < 0.01
    assert found.artifacts is None, "darkness is not ink"
