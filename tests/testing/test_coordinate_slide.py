from __future__ import annotations

import numpy as np
import openslide
import pytest

from wsi_hr.geometry import Point, Size
from wsi_hr.testing.coordinate_slide import decode_cell, decode_cells, write_coordinate_slide


def read(slide: openslide.OpenSlide, xy0: Point, level: int, size: Size) -> np.ndarray:
    region = np.asarray(slide.read_region(xy0, level, size))
    assert (region[..., 3] == 255).all()
    return region[..., :3]


def expected(xy0: Point, downsample: int, size: Size, cell: int) -> np.ndarray:
    """Cell of every px, one at a time."""
    return np.array(
        [
            [((xy0.x + x * downsample) // cell, (xy0.y + y * downsample) // cell) for x in range(w)]
            for y, w in [(y, size.w) for y in range(size.h)]
        ]
    )


def test_every_level_spells_level_0_cells(tmp_path):
    path = tmp_path / "c.tif"
    size = Size(1100, 812)
    write_coordinate_slide(path, size=size)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((1100, 812), (550, 406), (275, 203))
        for level, downsample in enumerate((1, 2, 4)):
            for xy0 in (Point(0, 0), Point(248, 252), Point(1012, 736)):
                part = Size(64 // downsample, 64 // downsample)
                cells = decode_cells(read(slide, xy0, level, part))
                np.testing.assert_array_equal(cells, expected(xy0, downsample, part, 16))


def test_colours_tell_all_cells_apart(tmp_path):
    path = tmp_path / "many.tif"
    write_coordinate_slide(path, size=Size(1400, 1200), levels=(1,), cell=2)
    with openslide.OpenSlide(path) as slide:
        pixels = read(slide, Point(0, 0), 0, Size(1400, 1200))[::2, ::2]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 700 * 600
    assert decode_cell(pixels[599, 698]) == Point(698, 599)


@pytest.mark.parametrize(
    ("mpp", "x", "y"), [(0.5, 0.5, 0.5), ((0.25, 0.26), 0.25, 0.26), (None, None, None)]
)
def test_mpp_as_openslide_reads_it(tmp_path, mpp, x, y):
    path = tmp_path / "mpp.tif"
    write_coordinate_slide(path, size=Size(512, 256), levels=(1, 2), mpp=mpp)
    with openslide.OpenSlide(path) as slide:
        found = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    if mpp is None:
        assert found == [None, None]
    else:
        assert [float(text) for text in found] == pytest.approx([x, y], rel=1e-6)


def test_a_coarse_pixel_has_the_colour_at_its_centre(tmp_path):
    path = tmp_path / "coarse.tif"
    write_coordinate_slide(path, size=Size(960, 960), levels=(1, 32), cell=16, tile=64)
    with openslide.OpenSlide(path) as slide:
        cells = decode_cells(read(slide, Point(0, 0), 1, Size(30, 30)))
    np.testing.assert_array_equal(cells[..., 0], np.tile(np.arange(30) * 2 + 1, (30, 1)))
    np.testing.assert_array_equal(cells[..., 1], cells[..., 0].T)


@pytest.mark.parametrize(
    "wrong", [{"size": Size(4096 * 16, 64)}, {"levels": (2, 4)}, {"levels": ()}]
)
def test_what_cannot_be_spelt_is_refused_and_leaves_nothing(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"size|levels"):
        write_coordinate_slide(tmp_path / "no.tif", **{"size": Size(256, 256), **wrong})
    assert list(tmp_path.iterdir()) == []


def test_equal_arguments_give_equal_bytes(tmp_path):
    for name in ("a.tif", "b.tif"):
        write_coordinate_slide(tmp_path / name, size=Size(300, 200))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
