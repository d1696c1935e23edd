"""Patches out of JPEG tiles: every pixel where its coordinates say, and as near as promised."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from array_slide import ArraySlide
from jpeg_slide import SIZE, write_jpeg_slide, write_waves
from planned_patches import planned

from wsi_hr.slides.open import open_slide
from wsi_hr.slides.self_check import checked_tiles
from wsi_hr.tiling import decoded_tiles
from wsi_hr.tiling.read import SlidePatches
from wsi_hr.tiling.tile_pixels import TilePatches


def read(path: Path, mpp: float, patch: int, stride: int, *, fast: bool):
    with open_slide(path) as slide:
        tiles = checked_tiles(slide, 0)
        assert tiles is not None
        plan, grid = planned(slide, mpp, patch, stride, fast=fast)
        return plan, grid, list(TilePatches(tiles, plan, patch, fast=fast).read(grid))


@pytest.mark.parametrize("tile", [256, 240])
@pytest.mark.parametrize(
    ("ratio", "decode_scale"), [(1, 1), (2, 2), (1.25, 1), (3.7, 1), (4, 4), (6, 2), (9.3, 2)]
)
@pytest.mark.parametrize("fast", [True, False])
def test_every_pixel_lies_where_its_coordinates_say(tmp_path, tile, ratio, decode_scale, fast):
    """Overlapping, up to the border, at every factor."""
    shown = write_waves(tmp_path / "r.tif", tile)
    patch = 64 if ratio < 5 else 32
    plan, grid, patches = read(tmp_path / "r.tif", 0.25 * ratio, patch, patch - 13, fast=fast)
    far = grid.coords.max(axis=0) + [plan.patch_px0.x, plan.patch_px0.y]
    assert (far > np.array(SIZE) - plan.stride_px0.x - plan.decode_scale).all(), "to the border"
    assert (far <= np.array(SIZE) + 1e-6).all(), "and no further"
    assert plan.decode_scale == (decode_scale if fast else 1)
    for (x, y), pixels in zip(grid.coords, patches, strict=True):
        assert pixels is not None
        assert pixels.shape == (patch, patch, 3)
        difference = np.abs(pixels - averages(shown[y:, x:], ratio, patch)).mean(axis=(0, 1))
        assert (difference < 1).all(), "levels; half a px of level 0 is one"


@pytest.mark.parametrize("tile", [256, 240])
@pytest.mark.parametrize("stride", [256, 100])
def test_native_patches_are_the_decoders_pixels(tmp_path, tile, stride):
    rng = np.random.default_rng(0)
    rgb = np.kron(rng.integers(0, 256, (94, 125, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    shown = write_jpeg_slide(tmp_path / "n.tif", rgb, tile, "420")
    _, grid, patches = read(tmp_path / "n.tif", 0.25, 256, stride, fast=True)
    for (x, y), pixels in zip(grid.coords, patches, strict=True):
        assert np.array_equal(pixels, shown[y : y + 256, x : x + 256])


@pytest.mark.parametrize("mpp", [0.25, 0.31, 0.5, 0.93])
def test_the_same_patches_as_through_the_slides_reader(tmp_path, mpp):
    rng = np.random.default_rng(1)
    rgb = np.kron(rng.integers(0, 256, (60, 75, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    write_jpeg_slide(tmp_path / "n.tif", rgb, 256, "420")
    plan, grid, patches = read(tmp_path / "n.tif", mpp, 96, 96, fast=False)
    with open_slide(tmp_path / "n.tif") as slide:
        reference = SlidePatches(slide, plan, 96, fast=False).read(grid)
        for ours, theirs in zip(patches, reference, strict=True):
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("memory", [1 << 20, 32 << 20])
def test_the_order_of_patches_changes_nothing(tmp_path, monkeypatch, memory):
    """Patches that others chose need not go downwards, and rows of tiles are let go of."""
    monkeypatch.setattr(decoded_tiles, "MAX_TILE_BYTES", memory)
    write_waves(tmp_path / "o.tif", 256)
    plan, grid, patches = read(tmp_path / "o.tif", 0.25, 96, 190, fast=True)
    order = np.random.default_rng(0).permutation(len(grid))
    with open_slide(tmp_path / "o.tif") as slide:
        tiles = checked_tiles(slide, 0)
        assert tiles is not None
        shuffled = TilePatches(tiles, plan, 96, fast=True).read(grid.take(order))
        for k, pixels in zip(order, shuffled, strict=True):
            assert np.array_equal(pixels, patches[k])


def test_narrow_memory_changes_nothing(tmp_path, monkeypatch):
    write_waves(tmp_path / "r.tif", 256)
    _, _, whole = read(tmp_path / "r.tif", 0.7, 128, 90, fast=False)
    monkeypatch.setattr(decoded_tiles, "MAX_TILE_BYTES", 1)
    _, _, parts = read(tmp_path / "r.tif", 0.7, 128, 90, fast=False)
    assert all(np.array_equal(*pair) for pair in zip(whole, parts, strict=True))


def test_a_damaged_tile_costs_the_patches_that_touch_it(tmp_path):
    path = tmp_path / "d.tif"
    write_waves(path, 256)
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages.first.dataoffsets[8 + 2]  # the third tile of the second row of 8
    with path.open("r+b") as handle:
        handle.seek(offset)
        handle.write(b"\0" * 600)
    with open_slide(path) as slide:
        tiles = checked_tiles(slide, 0)
        assert tiles is not None
        plan, grid = planned(slide, 0.5, 64, 64, fast=True)
        patches = list(TilePatches(tiles, plan, 64, fast=True).read(grid))
    x, y = grid.coords.T
    hit = (x + 128 > 512) & (x < 768) & (y + 128 > 256) & (y < 512)
    assert hit.any()
    assert [patch is None for patch in patches] == hit.tolist()


@pytest.mark.data
@pytest.mark.parametrize("ratio", [1.25, 2, 3.7, 4, 5])
@pytest.mark.parametrize(("fast", "least"), [(True, 44), (False, 58)])
def test_decibels_against_area_averages(shared_data, ratio, fast, least):
    path = shared_data / "slides/aperio/CMU-1-Small-Region.svs"
    with openslide.OpenSlide(path) as slide:
        level0 = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    with open_slide(path, mpp_override=0.25) as slide:
        tiles = checked_tiles(slide, 0)
        assert tiles is not None
        flat = ArraySlide(sizes=[level0.shape[1::-1]], mpp=(0.25, 0.25))
        plan, grid = planned(flat, 0.25 * ratio, 128, 128, fast=fast)
        squares = []
        for (x, y), patch in zip(
            grid.coords, TilePatches(tiles, plan, 128, fast=fast).read(grid), strict=True
        ):
            assert patch is not None
            truth = averages(level0[y:, x:], ratio, 128)
            squares.append(np.mean((patch - truth) ** 2))
    assert 10 * math.log10(255**2 / np.mean(squares)) >= least


def averages(rgb: np.ndarray, scale: float, count: int) -> np.ndarray:
    """The integrals over the footprints of a patch at the corner of ``rgb``."""
    length = math.ceil(count * scale - 1e-6)
    edges, px = np.arange(count + 1) * scale, np.arange(length)
    covered = np.minimum(px + 1, edges[1:, None]) - np.maximum(px, edges[:-1, None])
    weights = covered.clip(0, 1) / scale
    inside = rgb[:length, :length].astype(float)
    return np.einsum("ij,jkc,lk->ilc", weights, inside, weights, optimize=True)
