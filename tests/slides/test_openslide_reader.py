from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Bounds, Mpp, Pair, Point, Size
from wsi_hr.slides.openslide_reader import OpenSlideReader
from wsi_hr.testing.coordinate_slide import decode_cells, write_coordinate_slide

CELL = 16


@pytest.fixture(scope="module")
def coordinate_path(tmp_path_factory) -> Path:
    """Sizes that no level divides: 1029 // 4 = 257 and 1029 / 257 = 4.004."""
    path = tmp_path_factory.mktemp("coordinates") / "coordinates.tif"
    write_coordinate_slide(path, size=Size(1029, 795), levels=(1, 2, 4, 16), cell=CELL)
    return path


@pytest.fixture
def slide(coordinate_path):
    with OpenSlideReader(coordinate_path, slide_id="coordinates") as opened:
        yield opened


def test_facts_of_a_slide(slide, coordinate_path):
    assert slide.path == coordinate_path
    assert slide.slide_id == "coordinates"
    assert slide.vendor == "generic-tiff"
    assert slide.mpp == Mpp(0.5, 0.5, "tiff.XResolution")
    assert slide.mpp_problem is None
    assert slide.level_dimensions == ((1029, 795), (514, 397), (257, 198), (64, 49))
    assert slide.level_downsamples == tuple(Pair(n, n) for n in (1.0, 2.0, 4.0, 16.0))
    assert slide.level_tile_sizes == (Size(256, 256),) * 4
    assert slide.bounds == Bounds(0, 0, 1029, 795)
    assert slide.associated_images == ()


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_every_pixel_of_every_level_spells_its_own_place(slide, level):
    size = slide.level_dimensions[level]
    factor = int(slide.level_downsamples[level].x)
    x0 = np.arange(size.w) * factor + factor // 2
    y0 = np.arange(size.h) * factor + factor // 2
    rgb, valid = slide.read_region(Point(0, 0), level, size)
    assert valid.all()
    assert np.array_equal(decode_cells(rgb)[0, :, 0], x0 // CELL)
    assert np.array_equal(decode_cells(rgb)[:, 0, 1], y0 // CELL)
    for left, top in [(size.w // 3, size.h // 2), (size.w - 22, size.h - 22)]:
        part, _ = slide.read_region(Point(left * factor, top * factor), level, Size(20, 20))
        assert np.array_equal(part, rgb[top : top + 20, left : left + 20])


def test_odd_sizes_do_not_displace_the_far_corner(tmp_path):
    """OpenSlide takes sizes' ratios for downsamples, and is 12 level-0 px off at the far end."""
    rng = np.random.default_rng(2)
    whole = rng.integers(0, 255, (1035, 2053, 3), dtype=np.uint8)
    reduced = whole[: 64 * 16 : 16, : 128 * 16 : 16].copy()
    path = tmp_path / "odd.tif"
    with tifffile.TiffWriter(path) as writer:
        for image in (whole, reduced):
            writer.write(
                image,
                photometric="rgb",
                tile=(64, 64),
                compression="zlib",
                subfiletype=int(image is reduced),
            )
    with OpenSlideReader(path, slide_id="odd") as slide:
        assert slide._own_downsamples[1] == pytest.approx(16.1, abs=0.01)  # what OpenSlide believes
        for x, y in [(0, 0), (50, 20), (100, 40), (107, 43)]:
            rgb, _ = slide.read_region(Point(16 * x, 16 * y), 1, Size(20, 20))
            assert np.array_equal(rgb, reduced[y : y + 20, x : x + 20])


def test_level_pixels_are_hit_whole_where_openslide_divides_by_a_whole_number(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (512, 768, 3), dtype=np.uint8)
    reduced = pixels[1::4, 2::4].copy()
    path = tmp_path / "noise.tif"
    with tifffile.TiffWriter(path) as writer:
        for image in (pixels, reduced):
            writer.write(
                image,
                photometric="rgb",
                tile=(64, 64),
                compression="zlib",
                subfiletype=int(image is reduced),
            )
    with OpenSlideReader(path, slide_id="noise") as slide:
        for x, y in [(0, 0), (17, 90), (101, 33), (191, 127)]:
            # A corner within half a px of the level's means that px.
            for off in (-1, 0, 1):
                corner = Point(4 * x + off, 4 * y + off)
                rgb, _ = slide.read_region(corner, 1, Size(1, 1))
                assert np.array_equal(rgb[0, 0], reduced[y, x])
        rgb, _ = slide.read_region(Point(4, 8), 1, Size(100, 60))
        assert np.array_equal(rgb, reduced[2:62, 1:101])


def test_outside_the_slide_is_white_and_not_valid(slide):
    rgb, valid = slide.read_region(Point(-10, 780), 0, Size(40, 30))
    assert np.array_equal(valid, np.pad(np.ones((15, 30), bool), ((0, 15), (10, 0))))
    assert (rgb[~valid] == 255).all()
    assert (decode_cells(rgb[4:15, 10:26]) == [0, 784 // CELL]).all()
    rgb, valid = slide.read_region(Point(5000, 5000), 0, Size(8, 8))
    assert not valid.any()
    assert (rgb == 255).all()


def test_alpha_lies_over_white_in_straight_and_in_premultiplied_colours(tmp_path):
    colour = np.array([200, 100, 0])
    for kind in ("unassalpha", "assocalpha"):
        rgba = np.zeros((256, 256, 4), np.uint8)
        for column, alpha in enumerate((0, 64, 128, 255)):
            part = rgba[:, 64 * column : 64 * column + 64]
            part[..., :3] = colour if kind == "unassalpha" else colour * alpha // 255
            part[..., 3] = alpha
        path = tmp_path / f"{kind}.tif"
        tifffile.imwrite(
            path, rgba, photometric="rgb", extrasamples=[kind], tile=(64, 64), compression="zlib"
        )
        with OpenSlideReader(path, slide_id="alpha") as slide:
            rgb, valid = slide.read_region(Point(0, 0), 0, Size(256, 256))
        for column, alpha in enumerate((0, 64, 128, 255)):
            expected = 255 + (colour - 255.0) * alpha / 255
            assert np.abs(rgb[8, 64 * column + 8] - expected).max() <= 2
            assert valid[8, 64 * column + 8] == (alpha > 0)


def test_after_a_read_error_good_regions_can_still_be_read(tmp_path, noise):
    path = tmp_path / "damaged.tif"
    tifffile.imwrite(path, noise, photometric="rgb", tile=(256, 256), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
    with path.open("r+b") as handle:
        handle.seek(offset)
        handle.write(bytes(count))
    handle = openslide.OpenSlide(path)
    for corner in ((0, 0), (300, 0)):  # a good region too: this is why the reader has to reopen
        with pytest.raises(openslide.OpenSlideError):
            handle.read_region(corner, 0, (8, 8))
    with OpenSlideReader(path, slide_id="damaged") as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match=r"damaged\.tif: level 0 .* copy the file again"):
                slide.read_region(Point(0, 0), 0, Size(8, 8))
            rgb, _ = slide.read_region(Point(300, 0), 0, Size(200, 200))
            assert np.array_equal(rgb, noise[:200, 300:500])


def test_a_slide_that_vanished_is_said_so(tmp_path, coordinate_path):
    path = tmp_path / "vanishing.tif"
    shutil.copy(coordinate_path, path)
    with OpenSlideReader(path, slide_id="vanishing") as slide:
        slide._forget(slide._opened())  # as after a read error
        path.unlink()
        with pytest.raises(SlideError, match="cannot be opened any more"):
            slide.read_region(Point(0, 0), 0, Size(8, 8))


def test_reading_a_closed_slide_is_a_wrong_argument(coordinate_path):
    slide = OpenSlideReader(coordinate_path, slide_id="closed")
    slide.close()
    with pytest.raises(ValueError, match="was closed"):
        slide.read_region(Point(0, 0), 0, Size(8, 8))


def test_threads_read_the_same_pixels(slide):
    expected, _ = slide.read_region(Point(0, 0), 0, Size(800, 700))
    found: list[bool] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            x, y = (int(v) for v in rng.integers(0, 600, 2))
            rgb, _ = slide.read_region(Point(x, y), 0, Size(100, 100))
            found.append(np.array_equal(rgb, expected[y : y + 100, x : x + 100]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(found)


def test_a_tile_that_would_fill_the_memory_is_refused(tmp_path, patch_tags):
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(
        path, np.zeros((16, 16, 3), np.uint8), tile=(16, 16), photometric="rgb", compression="zlib"
    )
    patch_tags(path, ImageWidth=32768, ImageLength=32768, TileWidth=32768, TileLength=32768)
    with pytest.raises(SlideError, match="32768 x 32768 px, more than can be decoded"):
        OpenSlideReader(path, slide_id="bomb")


@pytest.mark.data
def test_real_pixels_are_those_of_tifffile(shared_data):
    path = shared_data / "slides/aperio/CMU-1-Small-Region.svs"
    expected = tifffile.imread(path, key=0)
    with OpenSlideReader(path, slide_id="cmu") as slide:
        assert slide.mpp == Mpp(0.499, 0.499, "openslide.mpp-x")
        assert slide.objective_power == 20
        assert slide.associated_images == ("label", "macro", "thumbnail")
        rgb, valid = slide.read_region(Point(0, 0), 0, slide.level_dimensions[0])
    assert valid.all()
    assert np.array_equal(rgb, expected)
