"""Decoded tiles: each once, whatever the block its patches belong to, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import pytest
from jpeg_slide import write_waves
from planned_patches import planned

from wsi_hr.geometry import PatchGrid, Size, UInt8Array
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.slides.open import open_slide
from wsi_hr.tiling import decoded_tiles
from wsi_hr.tiling.blocks import tasks_of
from wsi_hr.tiling.decoded_tiles import Borders, DecodedTiles
from wsi_hr.tiling.tile_pixels import TilePatches

PATCH = 32
"""In px: a slide of 2000 x 1500 px has blocks of 512 px of them, several each way."""


@contextmanager
def reading(path, *, mpp=0.25, stride=PATCH) -> Iterator[tuple[TilePatches, PatchGrid, JpegTiles]]:
    with open_slide(path) as slide:
        tiles = slide.jpeg_tiles(0)
        assert tiles is not None
        plan, grid = planned(slide, mpp, PATCH, stride, fast=True)
        yield TilePatches(tiles, plan, PATCH, fast=True), grid, tiles


@pytest.fixture
def decoded(monkeypatch) -> Counter[bytes]:
    """How often each stream was decoded."""
    counts: Counter[bytes] = Counter()
    decode = JpegTiles.decode_into

    def counted(self, stream, *args, **kwargs):
        counts[stream] += 1
        decode(self, stream, *args, **kwargs)

    monkeypatch.setattr(JpegTiles, "decode_into", counted)
    return counts


@pytest.fixture
def made(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the tiles that memory was taken for."""
    shapes: list[tuple[int, ...]] = []
    make = decoded_tiles.empty_pixels

    def noted(*shape: int) -> UInt8Array:
        shapes.append(shape)
        return make(*shape)

    monkeypatch.setattr(decoded_tiles, "empty_pixels", noted)
    return shapes


def blocks_of(grid: PatchGrid) -> list[PatchGrid]:
    return [grid.take(task) for task in tasks_of(grid, PATCH)]


def read_blocks(reader: TilePatches, grid: PatchGrid) -> Iterator[tuple[int, int, UInt8Array]]:
    for block in blocks_of(grid):
        for (x, y), pixels in zip(block.coords.tolist(), reader.read(block), strict=True):
            assert pixels is not None
            yield x, y, pixels


def ragged(grid: PatchGrid) -> PatchGrid:
    """Half of the patches, as tissue has them: some blocks begin lower than their neighbours."""
    x, y = grid.coords.T
    return grid.take(np.flatnonzero((x - 900) ** 2 / 2 + (y - 700) ** 2 < 600**2))


@pytest.mark.parametrize("tile", [256, 240, 112])
@pytest.mark.parametrize("cut", [lambda grid: grid, ragged])
@pytest.mark.parametrize("stride", [PATCH, 19, 50])
def test_a_tile_is_decoded_once_for_all_blocks(tmp_path, decoded, tile, cut, stride):
    shown = write_waves(tmp_path / "s.tif", tile)
    with reading(tmp_path / "s.tif", stride=stride) as (reader, grid, _):
        grid = cut(grid)
        assert len(blocks_of(grid)) > 3
        for x, y, pixels in read_blocks(reader, grid):
            assert np.array_equal(pixels, shown[y : y + PATCH, x : x + PATCH])
    assert len(decoded) > 1
    assert set(decoded.values()) == {1}


def test_a_tile_is_decoded_once_where_a_step_is_no_whole_number_of_px(tmp_path, decoded):
    write_waves(tmp_path / "s.tif", 240)
    with reading(tmp_path / "s.tif", mpp=0.31) as (reader, grid, _):
        assert sum(1 for _ in read_blocks(reader, grid)) == len(grid)
    assert len(decoded) > 1
    assert set(decoded.values()) == {1}


@pytest.mark.parametrize("num_tiles", [1, 2, 5, 9])
def test_with_little_memory_the_pixels_are_the_same(
    tmp_path, monkeypatch, decoded, made, num_tiles
):
    shown = write_waves(tmp_path / "s.tif", 112)
    monkeypatch.setattr(decoded_tiles, "MAX_TILE_BYTES", num_tiles * 112 * 112 * 3)
    with reading(tmp_path / "s.tif", stride=19) as (reader, grid, _):
        for x, y, pixels in read_blocks(reader, grid):
            assert np.array_equal(pixels, shown[y : y + PATCH, x : x + PATCH])
    assert made == [(112, 112, 3)] * num_tiles
    assert max(decoded.values()) > 1


def test_memory_is_that_of_the_tiles_in_use(tmp_path, made):
    """Two rows of a block's tiles where blocks end on tiles, however many blocks there are."""
    write_waves(tmp_path / "s.tif", 128)
    with reading(tmp_path / "s.tif") as (reader, grid, _):
        assert sum(1 for _ in read_blocks(reader, grid)) == len(grid)
    assert len(made) <= 2 * 512 // 128


def test_a_damaged_tile_is_tried_once_a_block_and_its_memory_used_again():
    tiles, tried = DecodedTiles(Size(2, 2)), []

    def decode(col: int, row: int, out: UInt8Array) -> bool:
        tried.append((col, row))
        out[...] = 10 * col + row
        return (col, row) != (1, 0)

    tiles.enter([(1, 0), (0, 0), (1, 0), (0, 0)], Borders(0, 9, 9))
    assert tiles.use((1, 0), decode) is None
    first = tiles.use((0, 0), decode)
    assert first is not None
    assert (first == 0).all()
    assert tiles.use((1, 0), decode) is None
    assert tiles.use((0, 0), decode) is first
    assert tried == [(1, 0), (0, 0)]
    tiles.enter([(1, 0)], Borders(0, 9, 9))
    assert tiles.use((1, 0), decode) is None
    assert tried == [(1, 0), (0, 0), (1, 0)]


def test_blocks_that_were_left_half_read_leave_no_tile_behind(tmp_path, made):
    write_waves(tmp_path / "s.tif", 128)
    with reading(tmp_path / "s.tif") as (reader, grid, _):
        for block in blocks_of(grid):
            half = len(list(islice(reader.read(block), len(block) // 2)))
            assert half > 16
    assert len(made) <= 2 * 512 // 128
