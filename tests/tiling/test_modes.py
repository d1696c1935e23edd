"""How patches come into the store: as the slide's own tiles, decoded and encoded, or as pixels."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import zarr

from wsi_hr.config import TileConfig
from wsi_hr.geometry import Point, Size
from wsi_hr.runtime import sha256_file
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.slides.open import open_slide
from wsi_hr.store.patch_store import PatchStore, verify_store
from wsi_hr.testing.svs import TILE_PX, write_svs
from wsi_hr.tiling.tile import tile_slide

WIDTH, HEIGHT = 1280, 1024


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory) -> Path:
    """Pink noise, 0.25 um/px, in YCbCr tiles of 256 px."""
    path = tmp_path_factory.mktemp("slides") / "s.svs"
    rng = np.random.default_rng(0)

    def tile_at(corner: Point):
        coarse = rng.integers(0, 60, (TILE_PX // 8, TILE_PX // 8, 1))
        noise = np.kron(coarse, np.ones((8, 8, 1))) * (1.0, 1.0, 1.0)
        return (np.array([215, 120, 170]) - noise).astype(np.uint8)

    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)
    write_svs(path, size=Size(WIDTH, HEIGHT), mpp=0.25, tile_at=tile_at, glass=glass)
    return path


def tiled(path: Path, store: Path, threads: int = 1, **settings: object) -> PatchStore:
    config = TileConfig.model_validate(settings)
    result = tile_slide(path, "s", store, config, None, "x", threads)
    assert result.status == "done"
    assert verify_store(store) == []
    return PatchStore.open(store)


def openslides_pixels(path: Path, store: PatchStore, edge: int) -> list[np.ndarray]:
    with openslide.OpenSlide(path) as slide:
        return [
            np.asarray(slide.read_region((x, y), 0, (edge, edge)))[..., :3]
            for x, y in store.grid.coords.tolist()
        ]


def test_patches_that_are_tiles_are_copied_bit_for_bit(tmp_path, slide_path):
    store = tiled(slide_path, tmp_path / "s.zarr", mpp=0.25)
    assert (store.info.mode, store.info.reader) == ("passthrough", "jpeg tiles")
    assert len(store) == 20
    pixels = store.read(np.arange(20))
    expected = openslides_pixels(slide_path, store, 256)
    assert all(np.array_equal(*pair) for pair in zip(pixels, expected, strict=True))
    assert np.array_equal(zarr.open(tmp_path / "s.zarr")["scale_0.25/patches"][...], pixels)


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"codec": "jpeg"}, "jpeg"),
        ({"codec": "raw"}, "raw"),
        ({"patch_size": 128}, "jpeg"),
        ({"stride": 128}, "jpeg"),
        ({"mpp": 0.5}, "jpeg"),
    ],
)
def test_other_settings_are_no_passthrough(tmp_path, slide_path, settings, mode):
    store = tiled(slide_path, tmp_path / "s.zarr", **({"mpp": 0.25} | settings))
    assert (store.info.mode, store.info.reader) == (mode, "jpeg tiles")


@pytest.mark.parametrize("settings", [{"mpp": 0.25}, {"patch_size": 96}, {"mpp": 0.4}])
def test_the_store_does_not_depend_on_the_number_of_threads(tmp_path, slide_path, settings):
    for threads in (1, 3):
        tiled(slide_path, tmp_path / str(threads) / "s.zarr", threads, **settings)
    one, three = (
        {
            file.relative_to(tmp_path / name): sha256_file(file)
            for file in (tmp_path / name).rglob("*")
            if file.is_file()
        }
        for name in ("1", "3")
    )
    assert one == three


def test_rgb_tiles_keep_their_colours(tmp_path):
    """Photometric RGB without a marker in the stream: a decoder left alone would see YCbCr."""
    path = tmp_path / "rgb.tif"
    rgb = np.zeros((512, 512, 3), np.uint8) + np.array([200, 60, 140], np.uint8)
    rgb[::7] //= 2
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            rgb,
            tile=(256, 256),
            photometric="rgb",
            compression="jpeg",
            compressionargs={"level": 95, "outcolorspace": "RGB"},
            metadata=None,
            resolution=(40_000, 40_000),
            resolutionunit="CENTIMETER",
        )
    store = tiled(path, tmp_path / "s.zarr", mpp=0.25, min_tissue=0.0)
    assert store.info.mode == "passthrough"
    pixels = store.read(np.arange(len(store)))
    expected = openslides_pixels(path, store, 256)
    assert all(np.array_equal(*pair) for pair in zip(pixels, expected, strict=True))
    assert np.abs(pixels[0].astype(int) - rgb[:256, :256]).mean() < 6


def test_tiles_that_show_something_else_are_not_used(tmp_path, slide_path, caplog, monkeypatch):
    """The table of tiles is read wrongly, as it might be in a format we misunderstand."""
    right = JpegTiles.stream
    monkeypatch.setattr(
        JpegTiles,
        "stream",
        lambda tiles, col, row: right(tiles, (col + 1) % tiles.grid_size.w, row),
    )
    with caplog.at_level(logging.WARNING):
        store = tiled(slide_path, tmp_path / "s.zarr", mpp=0.25, codec="raw")
    assert store.info.reader == "OpenSlide"
    assert "differs from what OpenSlide shows" in caplog.text
    expected = openslides_pixels(slide_path, store, 256)
    pixels = store.read(np.arange(len(store)))
    assert all(np.array_equal(*pair) for pair in zip(pixels, expected, strict=True))


@pytest.mark.parametrize("mode", ["passthrough", "jpeg"])
@pytest.mark.parametrize("damage", ["zeroed", "header", "beyond", "empty", "larger"])
def test_a_damaged_tile_costs_its_patches(tmp_path, slide_path, mode, damage):
    path = tmp_path / "d.svs"
    shutil.copy(slide_path, path)
    damage_tile(path, tile=7, how=damage)  # column 2, row 1 of 5 columns
    settings = {"codec": "auto" if mode == "passthrough" else mode, "max_unreadable": 0.2}
    store = tiled(path, tmp_path / "d.zarr", mpp=0.25, **settings)
    assert store.info.mode == mode
    intact = tiled(slide_path, tmp_path / "s.zarr", mpp=0.25, **settings)
    assert np.array_equal(store.grid.coords, intact.grid.coords)
    hit = (store.grid.coords == (512, 256)).all(axis=1)
    assert hit.sum() == 1
    assert np.array_equal(store.valid, ~hit)
    readable = np.flatnonzero(store.valid)
    assert np.array_equal(store.read(readable), intact.read(readable))


def damage_tile(path: Path, tile: int, how: str) -> None:
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        offset = page.dataoffsets[tile]
        offsets, counts = page.tags["TileOffsets"], page.tags["TileByteCounts"]
        places = offsets.valueoffset + 4 * tile, counts.valueoffset + 4 * tile
        stream = path.read_bytes()[offset : offset + page.databytecounts[tile]]
    with path.open("r+b") as handle:
        match how:
            case "zeroed":
                handle.seek(offset)
                handle.write(b"\0" * len(stream))
            case "header":
                handle.seek(offset + stream.index(b"\xff\xda"))
                handle.write(b"\xff\x00\xff\x00")
            case "beyond":
                handle.seek(places[0])
                handle.write((2**31).to_bytes(4, "little"))
            case "empty":
                handle.seek(places[1])
                handle.write((0).to_bytes(4, "little"))
            case "larger":
                handle.seek(offset + stream.index(b"\xff\xc0") + 5)
                handle.write((30_000).to_bytes(2, "big") * 2)


def test_several_scales_in_one_store(tmp_path, slide_path):
    settings = {"mpp": 0.25, "more_mpp": [0.5, 1.0], "patch_size": 128, "codec": "raw"}
    store = tiled(slide_path, tmp_path / "s.zarr", **settings)
    assert store.info.tile.mpp == 0.25
    assert store.info.asked.scales == (0.25, 0.5, 1.0)
    for mpp in (0.25, 0.5, 1.0):
        seen = PatchStore.open(tmp_path / "s.zarr", mpp)
        alone = tiled(
            slide_path, tmp_path / f"{mpp}.zarr", **(settings | {"mpp": mpp, "more_mpp": []})
        )
        assert seen.info.tile == alone.info.tile
        assert seen.info.plan == alone.info.plan
        assert np.array_equal(seen.grid.coords, alone.grid.coords)
        everything = np.arange(len(alone))
        assert np.array_equal(seen.read(everything), alone.read(everything))
    elsewhere = PatchStore.open(tmp_path / "s.zarr", 0.7)
    assert elsewhere.info.tile.mpp == 0.25, "a scale that is not there: the first"


def test_a_scale_without_patches_is_told(tmp_path, slide_path):
    config = TileConfig.model_validate({"mpp": 0.25, "more_mpp": [2.0]})
    result = tile_slide(slide_path, "s", tmp_path / "s.zarr", config, None, "x")
    assert result.status == "done"
    assert result.reason.startswith("at 2 um/px smaller than one patch (1280 x 1024 px")
    assert verify_store(tmp_path / "s.zarr") == []


@pytest.mark.data
def test_passthrough_of_a_real_slide(tmp_path, shared_data):
    path = shared_data / "slides/aperio/CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        assert slide.level_tile_sizes[0] == (240, 240)
    store = tiled(path, tmp_path / "s.zarr", patch_size=240)
    assert store.info.mode == "passthrough"
    expected = openslides_pixels(path, store, 240)
    pixels = store.read(np.arange(len(store)))
    assert all(np.array_equal(*pair) for pair in zip(pixels, expected, strict=True))
