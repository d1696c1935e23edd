from __future__ import annotations

import numpy as np
import openslide
import pytest

from wsi_hr.geometry import Point, Size
from wsi_hr.testing.svs import TILE_PX, write_svs

SIZE = Size(1024, 512)


def glass(*levels: int) -> np.ndarray:
    return np.stack([np.full((TILE_PX, TILE_PX, 3), level, dtype=np.uint8) for level in levels])


def grey_of(xy0: Point) -> int:
    return 40 + 20 * (xy0.x // TILE_PX) + 90 * (xy0.y // TILE_PX)


@pytest.fixture
def slide(tmp_path):
    """Each tile of one grey, the second one bare glass."""
    asked: list[Point] = []

    def tile_at(xy0: Point) -> np.ndarray | None:
        asked.append(xy0)
        return None if xy0 == (256, 0) else glass(grey_of(xy0))[0]

    path = tmp_path / "s.svs"
    write_svs(path, size=SIZE, mpp=0.5, tile_at=tile_at, glass=glass(240))
    assert asked == [Point(x, y) for y in (0, 256) for x in (0, 256, 512, 768)]
    assert [file.name for file in tmp_path.iterdir()] == ["s.svs"]
    with openslide.OpenSlide(path) as opened:
        yield opened


def test_openslide_takes_it_for_aperio(slide):
    assert slide.properties["openslide.vendor"] == "aperio"
    assert float(slide.properties["openslide.mpp-x"]) == 0.5
    assert float(slide.properties["openslide.mpp-y"]) == 0.5
    assert slide.properties["openslide.objective-power"] == "20"
    assert slide.level_dimensions == ((1024, 512), (256, 128), (64, 32))
    assert slide.level_downsamples == (1, 4, 16)
    assert slide.associated_images["thumbnail"].size == (256, 128)
    assert slide.properties["openslide.level[1].tile-width"] == str(TILE_PX)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_shows_the_tiles_where_they_lie(slide, level):
    edge = TILE_PX // (1, 4, 16)[level]
    image = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
    for row in range(2):
        for col in range(4):
            xy0 = Point(col * TILE_PX, row * TILE_PX)
            shown = image[row * edge : (row + 1) * edge, col * edge : (col + 1) * edge]
            expected = 240 if xy0 == (256, 0) else grey_of(xy0)
            inner = shown[edge // 4 : -edge // 4, edge // 4 : -edge // 4, :3]
            assert np.abs(inner.astype(int) - expected).max() <= 6
            assert (shown[..., 3] == 255).all()


def test_colours_are_kept(tmp_path):
    colour = np.array([180, 90, 40])
    tile = np.broadcast_to(colour.astype(np.uint8), (TILE_PX, TILE_PX, 3))
    write_svs(
        tmp_path / "c.svs",
        size=Size(256, 256),
        mpp=0.25,
        tile_at=lambda _: np.ascontiguousarray(tile),
        glass=glass(240),
    )
    with openslide.OpenSlide(tmp_path / "c.svs") as opened:
        assert opened.properties["openslide.objective-power"] == "40"
        for level in range(3):
            region = opened.read_region((0, 0), level, opened.level_dimensions[level])
            assert np.abs(np.asarray(region)[..., :3].astype(int) - colour).max() <= 3


@pytest.mark.parametrize("size", [Size(1000, 512), Size(0, 256)])
def test_part_of_a_tile_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match="whole number"):
        write_svs(tmp_path / "no.svs", size=size, mpp=0.5, tile_at=lambda _: None, glass=glass(240))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_slide_leaves_nothing(tmp_path):
    def tile_at(xy0: Point) -> np.ndarray | None:
        if xy0.x:
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        write_svs(tmp_path / "no.svs", size=SIZE, mpp=0.5, tile_at=tile_at, glass=glass(240))
    assert list(tmp_path.iterdir()) == []
