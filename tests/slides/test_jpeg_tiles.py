"""Tiles read past the library that opened the slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile
from jpeg_slide import write_jpeg_slide

from wsi_hr.errors import SlideError
from wsi_hr.slides.jpeg_tiles import JpegTiles

TILE = 64


def tiles_of(path: Path, across: int = 2) -> tuple[JpegTiles, np.ndarray]:
    """Tiles of coloured squares, as many down as across, and what a decoder makes of them."""
    squares = across * TILE // 8
    colours = np.random.default_rng(0).integers(60, 200, (squares, squares, 3))
    rgb = np.kron(colours, np.ones((8, 8, 1))).astype(np.uint8)
    shown = write_jpeg_slide(path, rgb, TILE, "420")
    with tifffile.TiffFile(path) as file:
        return JpegTiles(path, file.pages.first), shown


def decoded(tiles: JpegTiles, stream: bytes, **how: bool) -> np.ndarray:
    out = np.empty((TILE, TILE, 3), np.uint8)
    tiles.decode_into(stream, out, 1, **how)
    return out


def test_every_tile_is_what_a_decoder_shows(tmp_path):
    tiles, shown = tiles_of(tmp_path / "t.tif")
    for row in (0, 1):
        for col in (0, 1):
            expected = shown[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
            assert np.array_equal(decoded(tiles, tiles.stream(col, row)), expected)
    tiles.close()


def test_a_tile_of_another_size_is_refused_before_and_after_others_were_sound(tmp_path):
    tiles, _ = tiles_of(tmp_path / "t.tif")
    stream = tiles.stream(0, 0)
    frame = stream.index(b"\xff\xc0")
    huge = stream[: frame + 5] + (65000).to_bytes(2, "big") * 2 + stream[frame + 9 :]
    for _ in range(2):
        assert not tiles.begins_as_proven(huge)
        with pytest.raises(SlideError, match="announces 65000 x 65000 px"):
            decoded(tiles, huge)
        decoded(tiles, stream)
        assert tiles.begins_as_proven(tiles.stream(1, 1))
    tiles.close()


def test_a_stream_cut_off_is_an_error_though_its_header_is_known(tmp_path):
    tiles, _ = tiles_of(tmp_path / "t.tif")
    stream = tiles.stream(0, 0)
    decoded(tiles, stream)
    with pytest.raises(SlideError, match="damaged"):
        decoded(tiles, stream[: len(stream) // 2])
    tiles.close()


def test_repeated_colours_survive_a_store_that_halves_them_too(tmp_path):
    """What is stored is nearer to what the slide shows than if they had been interpolated."""
    tiles, shown = tiles_of(tmp_path / "t.tif")
    errors = {}
    for smooth in (True, False):
        pixels = decoded(tiles, tiles.stream(1, 0), smooth_chroma=smooth)
        stored = simplejpeg.encode_jpeg(pixels, quality=90, colorsubsampling="420")
        difference = simplejpeg.decode_jpeg(stored).astype(float) - shown[:TILE, TILE:]
        errors[smooth] = (difference**2).mean()
    assert errors[False] < errors[True]
    tiles.close()


@pytest.mark.parametrize("tag", ["TileOffsets", "TileByteCounts"])
def test_a_table_of_tiles_that_became_text_is_refused(tmp_path, tag):
    path = tmp_path / "t.tif"
    tiles_of(path, across=1)[0].close()
    with tifffile.TiffFile(path) as file:
        entry = file.pages.first.tags[tag].offset
    data = bytearray(path.read_bytes())
    data[entry + 2 : entry + 4] = (2).to_bytes(2, "little")  # ASCII
    path.write_bytes(data)
    with tifffile.TiffFile(path) as file, pytest.raises(SlideError, match="whole numbers"):
        JpegTiles(path, file.pages.first)
