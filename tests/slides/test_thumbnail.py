from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_hr.geometry import Point, Size
from wsi_hr.slides.open import open_slide
from wsi_hr.testing.coordinate_slide import decode_cells, write_coordinate_slide
from wsi_hr.testing.svs import TILE_PX, write_svs


@pytest.mark.parametrize("max_px", [100, 333, 789])
@pytest.mark.parametrize("block_px", [64, 2048])
def test_a_thumbnail_averages_areas_whatever_the_blocks(
    tmp_path, monkeypatch, noise, max_px, block_px
):
    monkeypatch.setattr("wsi_hr.slides.thumbnail._BLOCK_PX", block_px)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise, photometric="rgb", rowsperstrip=64)
    size = (max_px, round(531 * max_px / 790))
    expected = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BOX))
    with open_slide(path) as slide:
        thumbnail = slide.thumbnail(max_px)
    assert thumbnail.shape == (size[1], size[0], 3)
    assert np.abs(thumbnail.astype(int) - expected).max() <= 1


def test_a_thumbnail_shows_the_whole_frame_from_a_coarse_level(tmp_path):
    path = tmp_path / "x.tif"
    write_coordinate_slide(path, size=Size(4096, 2048), levels=(1, 4, 16), cell=256)
    with open_slide(path) as slide:
        thumbnail = slide.thumbnail(256)
    assert thumbnail.shape == (128, 256, 3)
    centres = decode_cells(thumbnail[8::16, 8::16])
    assert np.array_equal(centres[..., 0], np.tile(np.arange(16), (8, 1)))
    assert np.array_equal(centres[..., 1], np.tile(np.arange(8)[:, None], (1, 16)))


def test_a_small_slide_is_not_enlarged(tmp_path, noise):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise[:5, :9], photometric="rgb")
    with open_slide(path) as slide:
        assert np.array_equal(slide.thumbnail(100), noise[:5, :9])
        with pytest.raises(ValueError, match="at least 1"):
            slide.thumbnail(0)


def test_a_ribbon_keeps_at_least_one_px(tmp_path, noise):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise[:2, :700], photometric="rgb")
    with open_slide(path) as slide:
        assert slide.thumbnail(100).shape == (1, 100, 3)


@pytest.mark.parametrize(("max_px", "edge"), [(1024, 1024), (1600, 1024), (900, 900), (400, 256)])
def test_a_level_that_nearly_fits_is_taken_as_it_is(tmp_path, max_px, edge):
    path = tmp_path / "x.tif"
    write_coordinate_slide(path, size=Size(4096, 2048), levels=(1, 4, 16), cell=256)
    with open_slide(path) as slide:
        thumbnail = slide.thumbnail(max_px)
        assert thumbnail.shape == (edge // 2, edge, 3)
        if edge in (1024, 256):
            level = {1024: 1, 256: 2}[edge]
            own, _ = slide.read_region(Point(0, 0), level, Size(edge, edge // 2))
            assert np.array_equal(thumbnail, own)


def test_a_level_of_jpeg_tiles_is_reduced_by_their_decoder(tmp_path):
    """To within 40 dB of the areas' averages, where no level is of the size itself."""
    path = tmp_path / "x.svs"
    rows, cols = np.mgrid[0:TILE_PX, 0:TILE_PX]
    texture = np.stack([rows, cols, (rows + cols) // 2], axis=-1).astype(np.uint8)
    size = Size(9 * TILE_PX, 5 * TILE_PX)
    write_svs(path, size=size, mpp=0.5, tile_at=lambda corner: texture, glass=texture[None])
    with open_slide(path) as slide:
        finest = max(slide.level_dimensions)
        whole, _ = slide.read_region(Point(0, 0), 0, finest)
        coarse = [max(own) for own in slide.level_dimensions[1:]]
        max_px = max(finest) // 2 + 50
        assert not any(max_px / 2 <= edge <= max_px for edge in coarse)
        thumbnail = slide.thumbnail(max_px)
    assert thumbnail.shape == (finest.h // 2, finest.w // 2, 3)
    averages = whole.reshape(finest.h // 2, 2, finest.w // 2, 2, 3).mean(axis=(1, 3))
    error = ((thumbnail - averages) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 40
