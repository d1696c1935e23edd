"""A level shows what the slide does, or is none, though it has the shape and mark of one."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_hr.geometry import Point, Size
from wsi_hr.slides.open import open_slide
from wsi_hr.testing.coordinate_slide import write_coordinate_slide
from wsi_hr.testing.texture import tissue_texture

EDGE = 1024
TILED = {"tile": (128, 128), "compression": "zlib"}
STRIPS = {"rowsperstrip": 64, "compression": "lzw"}


def tissue() -> np.ndarray:
    """A piece of tissue on glass, u8[1024, 1024, 3]."""
    grain = np.random.default_rng(0).integers(0, 70, (EDGE // 4, EDGE // 4, 1))
    pink = np.array([225, 120, 175]) - np.kron(grain, np.ones((4, 4, 1))) * (1.0, 0.8, 0.6)
    y, x = np.mgrid[:EDGE, :EDGE] / EDGE - 0.5
    inside = (x**2 + (1.5 * y) ** 2 < 0.16)[..., None]
    return np.where(inside, pink, 243).astype(np.uint8)


def halved(pixels: np.ndarray, factor: int) -> np.ndarray:
    edge = len(pixels) // factor
    return pixels.reshape(edge, factor, edge, factor, 3).mean((1, 3)).round().astype(np.uint8)


def striped(edge: int) -> np.ndarray:
    pixels = np.full((edge, edge, 3), 250, np.uint8)
    pixels[np.arange(edge) % 24 < 12, edge // 8 : -edge // 8] = (20, 20, 30)
    return pixels


OTHERS = {
    "black text on white": striped(256),
    "white": np.full((256, 256, 3), 250, np.uint8),
    "green": np.full((256, 256, 3), (20, 240, 110), np.uint8),
    "the slide upside down": np.rot90(halved(np.roll(tissue(), 300, 0), 4)).copy(),
}


def write(path: Path, *pages: np.ndarray, how: dict[str, object]) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for number, pixels in enumerate(pages):
            mark = {"subfiletype": int(number > 0), "photometric": "rgb", "metadata": None}
            writer.write(pixels, **mark | how)
    return path


@pytest.mark.parametrize("how", [TILED, STRIPS, TILED | {"compression": "webp"}])
@pytest.mark.parametrize("other", OTHERS)
def test_another_picture_of_the_slides_shape_is_no_level(tmp_path, caplog, other, how):
    path = write(tmp_path / "s.tif", tissue(), halved(tissue(), 2), OTHERS[other], how=how)
    with caplog.at_level(logging.WARNING), open_slide(path) as slide:
        assert slide.level_dimensions == ((1024, 1024), (512, 512))
        assert "an image of 256 x 256 px shows something else than the slide" in caplog.text
        difference = np.abs(slide.thumbnail(256).astype(int) - halved(tissue(), 4))
    assert difference.mean() < 3


@pytest.mark.parametrize("how", [TILED, STRIPS])
def test_of_two_pages_of_one_size_the_copy_is_the_level(tmp_path, how):
    path = write(tmp_path / "s.tif", tissue(), striped(256), halved(tissue(), 4), how=how)
    with open_slide(path) as slide:
        assert slide.level_dimensions == ((1024, 1024), (256, 256))
        pixels, _ = slide.read_region(Point(0, 0), 1, Size(256, 256))
    assert np.abs(pixels.astype(int) - halved(tissue(), 4)).max() < 3


def test_a_sub_image_that_shows_something_else_is_no_level(tmp_path):
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        options = {"photometric": "rgb", "metadata": None, **TILED, "compression": "webp"}
        writer.write(tissue(), subifds=2, **options)
        writer.write(halved(tissue(), 2), subfiletype=1, **options)
        writer.write(striped(256), subfiletype=1, **options)
    with open_slide(tmp_path / "s.tif") as slide:
        assert slide.level_dimensions == ((1024, 1024), (512, 512))


@pytest.mark.parametrize("factor", [2, 4, 16, 64])
@pytest.mark.parametrize("reduced", ["mean", "every n-th"])
def test_a_copy_is_a_level_however_it_was_reduced(tmp_path, caplog, factor, reduced):
    small = halved(tissue(), factor) if reduced == "mean" else tissue()[::factor, ::factor].copy()
    path = write(tmp_path / "s.tif", tissue(), small, how={"tile": (16, 16), "compression": "zlib"})
    with caplog.at_level(logging.WARNING), open_slide(path) as slide:
        assert len(slide.level_dimensions) == 2
    assert not caplog.records


def test_texture_and_coordinates_are_copies(tmp_path):
    texture = np.ascontiguousarray(tissue_texture()[:EDGE, :EDGE])
    lossy = {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 60}}
    levels = [halved(texture, factor) for factor in (2, 4, 8)]
    with open_slide(write(tmp_path / "t.tif", texture, *levels, how=lossy)) as slide:
        assert len(slide.level_dimensions) == 4
    write_coordinate_slide(tmp_path / "c.tif", size=Size(4096, 3072), levels=(1, 2, 4, 16))
    with open_slide(tmp_path / "c.tif") as slide:
        assert len(slide.level_dimensions) == 4


def test_a_blank_slide_keeps_its_levels(tmp_path):
    blank = np.full((EDGE, EDGE, 3), 243, np.uint8)
    with open_slide(write(tmp_path / "s.tif", blank, halved(blank, 4), how=TILED)) as slide:
        assert len(slide.level_dimensions) == 2


def test_what_is_damaged_proves_nothing(tmp_path, noise):
    """Level 1 cannot be read anywhere: it is for whoever reads it to say so."""
    path = write(tmp_path / "s.tif", tissue(), halved(tissue(), 4), how=TILED)
    with tifffile.TiffFile(path) as file:
        page = file.pages[1]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as handle:
        for offset, count in places:
            handle.seek(offset)
            handle.write(bytes(count))
    with open_slide(path) as slide:
        assert len(slide.level_dimensions) == 2


def test_a_level_that_would_take_too_much_to_compare_is_left_out(tmp_path):
    size = Size(16_384, 128)
    long = np.full((size.h, size.w, 3), 200, np.uint8)
    path = write(tmp_path / "s.tif", long, np.full((1, 128, 3), 200, np.uint8), how=TILED)
    with open_slide(path) as slide:
        assert slide.level_dimensions == (size,)
