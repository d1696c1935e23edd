"""What happens to a slide's colours: decided once, the same for all patches, and written down."""

from __future__ import annotations

import json

import numpy as np
import openslide
import pytest
import tifffile
from array_slide import ArraySlide
from PIL import Image, ImageCms
from two_stains import HE_32, concentrations, stained

from wsi_hr.config import TileConfig
from wsi_hr.geometry import Bounds, Pair, TissueMask
from wsi_hr.slides.open import open_slide
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.tiling.colour import colour_transform
from wsi_hr.tiling.icc import srgb_map
from wsi_hr.tiling.stain import fit_macenko
from wsi_hr.tiling.tile import tile_slide

RAW = TileConfig(patch_size=64, codec="raw")  # pyright: ignore[reportCallIssue]
PICTURE = stained(concentrations(512), HE_32)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
MASK = TissueMask(np.ones((16, 16), np.bool_), Pair(32.0, 32.0), "all")


def asked(**settings: object) -> TileConfig:
    return RAW.model_copy(update=settings)


def write_slide(path, picture, *, icc_profile=None, tile=128, compression="zlib"):
    tifffile.imwrite(
        path,
        picture,
        photometric="rgb",
        tile=(tile, tile),
        compression=compression,
        metadata=None,
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
        iccprofile=icc_profile,
    )
    return path


def dark_profile() -> bytes:
    """sRGB primaries with linear tone curves: the pixels of such a scanner look too dark."""
    at = SRGB.index(b"rTRC")
    offset = int.from_bytes(SRGB[at + 4 : at + 8], "big")
    linear = b"curv" + bytes(4) + (0).to_bytes(4, "big")
    return SRGB[:offset] + linear + SRGB[offset + len(linear) :]


def test_nothing_asked_nothing_done():
    colour = colour_transform(ArraySlide([PICTURE], icc_profile=dark_profile()), MASK, RAW)
    assert (colour.transform, colour.record) == (None, {})


def test_sampled_tissue_gives_what_all_of_it_gives():
    colour = colour_transform(ArraySlide([PICTURE]), MASK, asked(stain="macenko"))
    whole = fit_macenko(PICTURE.reshape(-1, 3))
    assert colour.record["stain"]["method"] == "macenko"
    assert colour.record["stain"]["applied"] is True
    assert np.allclose(colour.record["stain"]["stains"], whole.facts["stains"], atol=0.01)
    made, wanted = colour.transform(PICTURE), whole.apply(PICTURE)
    assert np.abs(made.astype(int) - wanted).max() <= 6
    again = colour_transform(ArraySlide([PICTURE]), MASK, asked(stain="macenko"))
    assert again.record == colour.record
    json.dumps(colour.record)


def test_only_tissue_is_sampled():
    beside = np.zeros((512, 1024, 3), np.uint8)  # black pen, left out by the mask
    beside[:, :512] = PICTURE
    left = TissueMask(np.tile(np.arange(32) < 14, (16, 1)), Pair(32.0, 32.0), "left")
    found = colour_transform(ArraySlide([beside]), left, asked(stain="macenko")).record["stain"]
    alone = colour_transform(ArraySlide([PICTURE]), MASK, asked(stain="macenko")).record["stain"]
    assert np.allclose(found["stains"], alone["stains"], atol=0.02)


def test_damage_and_places_without_data_cost_their_part_of_the_sample():
    half = ArraySlide([PICTURE], damaged=[Bounds(0, 0, 512, 200)])
    found = colour_transform(half, MASK, asked(stain="macenko")).record["stain"]
    whole = colour_transform(ArraySlide([PICTURE]), MASK, asked(stain="macenko")).record["stain"]
    assert found["applied"]
    assert 0 < found["num_px"] < whole["num_px"]
    assert np.allclose(found["stains"], whole["stains"], atol=0.02)


@pytest.mark.parametrize("stain", ["macenko", "reinhard"])
def test_what_cannot_be_estimated_is_left_alone_and_said(stain, caplog):
    glass = np.full((512, 512, 3), 240, np.uint8)
    colour = colour_transform(ArraySlide([glass]), MASK, asked(stain=stain))
    assert colour.transform is None
    reason = colour.record["stain"]["reason"]
    assert reason.startswith("stain not normalised: too little stained tissue")
    assert colour.record["stain"] == {"method": stain, "applied": False, "reason": reason}
    assert f"array.tif: {reason}" in caplog.text


def test_stains_are_estimated_on_converted_colours_and_applied_after_them():
    slide = ArraySlide([PICTURE], icc_profile=dark_profile())
    to_srgb, _ = srgb_map(dark_profile())
    colour = colour_transform(slide, MASK, asked(icc="srgb", stain="macenko"))
    bright = colour_transform(ArraySlide([to_srgb(PICTURE)]), MASK, asked(stain="macenko"))
    assert list(colour.record) == ["icc", "stain"]
    assert colour.record["stain"] == bright.record["stain"]
    assert np.array_equal(colour.transform(PICTURE), bright.transform(to_srgb(PICTURE)))


@pytest.mark.parametrize("reader", ["OpenSlide", "tifffile"])
def test_the_profile_comes_out_of_the_file(tmp_path, reader):
    path = tmp_path / "s.tif"
    write_slide(path, PICTURE, icc_profile=dark_profile())
    if reader == "tifffile":  # an OME-TIFF
        tifffile.imwrite(
            path, PICTURE, photometric="rgb", ome=True, iccprofile=dark_profile(),
            metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
        )  # fmt: skip
    with open_slide(path) as slide:
        assert slide.reader == reader
        assert slide.icc_profile == dark_profile()
    write_slide(tmp_path / "without.tif", PICTURE)
    with open_slide(tmp_path / "without.tif") as slide:
        assert slide.icc_profile is None


def test_a_store_holds_srgb_and_says_by_which_profile(tmp_path):
    path = write_slide(tmp_path / "s.tif", PICTURE, icc_profile=dark_profile())
    result = tile_slide(path, "s", tmp_path / "s.zarr", asked(icc="srgb"), None, "x")
    store = PatchStore.open(tmp_path / "s.zarr")
    assert (result.status, result.reason) == ("done", "")
    assert store.info.colour["icc"]["applied"] is True
    transform = ImageCms.buildTransform(
        openslide.OpenSlide(path).color_profile, ImageCms.createProfile("sRGB"), "RGB", "RGB"
    )
    patches = store.read(np.arange(len(store)))
    for (x, y), patch in zip(store.grid.coords.tolist(), patches, strict=True):
        scanned = Image.fromarray(PICTURE[y : y + 64, x : x + 64])
        assert np.array_equal(patch, np.asarray(ImageCms.applyTransform(scanned, transform)))
    assert patches.mean() > PICTURE.mean() + 20


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        (None, "has no ICC profile"),
        (b"junk" * 64, "is damaged"),
        (LAB, "is one of Lab, not of RGB"),
    ],
)
def test_a_slide_without_a_usable_profile_stays_as_it_is_and_says_so(tmp_path, profile, why):
    path = write_slide(tmp_path / "s.tif", PICTURE, icc_profile=profile)
    result = tile_slide(path, "s", tmp_path / "s.zarr", asked(icc="srgb"), None, "x")
    store = PatchStore.open(tmp_path / "s.zarr")
    assert result.status == "done"
    assert result.reason.startswith("colours not converted to sRGB: the slide")
    assert why in result.reason
    assert store.info.colour_notes == [result.reason]
    (x, y), patch = store.grid.coords[0], store.read(np.arange(1))[0]
    assert np.array_equal(patch, PICTURE[y : y + 64, x : x + 64])


def test_all_patches_of_a_slide_are_changed_alike(tmp_path):
    """A stored patch is the slide's one map of its pixels, wherever it lies, run after run."""
    path = write_slide(tmp_path / "s.tif", PICTURE)
    for name in ("one", "two"):
        tile_slide(path, "s", tmp_path / name / "s.zarr", asked(stain="macenko"), None, "x")
    store = PatchStore.open(tmp_path / "one/s.zarr")
    twin = PatchStore.open(tmp_path / "two/s.zarr")
    patches = store.read(np.arange(len(store)))
    assert np.array_equal(patches, twin.read(np.arange(len(twin))))
    assert store.info == twin.info
    with open_slide(path) as slide:
        one = colour_transform(slide, store.mask, asked(stain="macenko"))
    assert one.record == store.info.colour
    for (x, y), patch in zip(store.grid.coords.tolist(), patches, strict=True):
        assert np.array_equal(patch, one.transform(PICTURE[y : y + 64, x : x + 64]))
    assert np.abs(patches[0].astype(int) - PICTURE[:64, :64]).max() > 5


def test_all_scales_of_a_slide_are_changed_alike(tmp_path):
    path = write_slide(tmp_path / "s.tif", PICTURE)
    config = asked(stain="macenko", more_mpp=(1.0,), resample="exact")
    tile_slide(path, "s", tmp_path / "s.zarr", config, None, "x")
    fine, coarse = (PatchStore.open(tmp_path / "s.zarr", mpp) for mpp in (0.5, 1.0))
    assert fine.info.colour == coarse.info.colour
    assert fine.info.colour["stain"]["applied"] is True
    with open_slide(path) as slide:
        one = colour_transform(slide, fine.mask, config)
    (x, y), patch = coarse.grid.coords[0], coarse.read(np.arange(1))[0]
    halved = np.asarray(Image.fromarray(PICTURE[y : y + 128, x : x + 128]).reduce(2))
    assert np.abs(patch.astype(int) - one.transform(halved)).max() <= 4


def test_the_slides_own_tiles_are_copied_only_where_colours_stay(tmp_path):
    """Without a profile nothing changes, and the scanner's streams are taken as they are."""
    path = write_slide(tmp_path / "s.tif", PICTURE, tile=256, compression="jpeg")
    stores = {}
    for name, settings in (
        ("as scanned", {}),
        ("no profile", {"icc": "srgb"}),
        ("stain", {"stain": "macenko", "jpeg_quality": 100}),
    ):
        config = TileConfig(patch_size=256, **settings)  # pyright: ignore[reportCallIssue]
        tile_slide(path, "s", tmp_path / name / "s.zarr", config, None, "x", threads=2)
        stores[name] = PatchStore.open(tmp_path / name / "s.zarr")
    assert [store.info.mode for store in stores.values()] == ["passthrough", "passthrough", "jpeg"]
    every = np.arange(len(stores["stain"]))
    scanned, changed = stores["as scanned"].read(every), stores["stain"].read(every)
    assert np.array_equal(scanned, stores["no profile"].read(every))
    with open_slide(path) as slide:
        made = colour_transform(slide, stores["stain"].mask, stores["stain"].info.tile).transform
    for patch, wanted in zip(changed, map(made, scanned), strict=True):
        assert np.abs(patch.astype(int) - wanted).mean() < 1.5
    assert np.abs(changed.astype(int) - scanned).mean() > 5
