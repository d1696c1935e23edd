"""Levels whose size is no whole part of the slide's: their own px, whoever else interpolates."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Bounds, Pair, Point, Size, UInt8Array
from wsi_hr.slides import level_pages, openslide_reader
from wsi_hr.slides.levels import nearest
from wsi_hr.slides.open import open_slide
from wsi_hr.slides.self_check import checked_tiles
from wsi_hr.slides.slide import Slide
from wsi_hr.slides.tiff_page import TiffPageReader

SIZES = [Size(2053, 1539), Size(1026, 769), Size(513, 385), Size(128, 96)]
APERIO = "Aperio Image Library\r\n{w}x{h} [0,0 {w}x{h}] (256x256) |AppMag = 40|MPP = 0.25"
CODECS = {
    "jpeg": {"compression": "jpeg"},
    "jpeg of rgb": {"compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}},
    "deflate": {"compression": "zlib"},
    "uncompressed": {},
}


@lru_cache(1)
def pictures() -> list[UInt8Array]:
    """Levels that show the same, each of them rich in contrast from px to px."""
    noise = np.random.default_rng(0).normal(0, 1, (SIZES[0].h, SIZES[0].w, 3)).astype(np.float32)
    parts = [cv2.GaussianBlur(noise, (0, 0), sigma) for sigma in (0.8, 2.0, 4.0, 16.0)]
    whole = sum(40 * part / part.std() for part in parts) + 128
    whole = np.asarray(whole).clip(0, 255).round().astype(np.uint8)
    return [
        np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)
        for size in SIZES
    ]


def write(path: Path, levels: list[UInt8Array], *, aperio: bool = False, **codec: object) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for number, level in enumerate(levels):
            writer.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                subfiletype=0 if aperio else int(number > 0),
                description=APERIO.format(h=level.shape[0], w=level.shape[1]) if aperio else "",
                metadata=None,
                resolution=(40_000, 40_000),
                resolutionunit="CENTIMETER",
                **codec,
            )
    return path


def misses(slide: Slide, level: int, truth: UInt8Array, num: int = 25) -> int:
    """The most by which rectangles at places drawn at random differ from a level's own px."""
    rng, downsample = np.random.default_rng(level), slide.level_downsamples[level]
    most = 0
    for _ in range(num):
        w, h = (min(edge, 70) for edge in slide.level_dimensions[level])
        x, y = (int(rng.integers(0, edge - 70 + 1)) for edge in slide.level_dimensions[level])
        corner = Point(nearest(x * downsample.x), nearest(y * downsample.y))
        rgb, valid = slide.read_region(corner, level, Size(w, h))
        assert valid.all()
        most = max(most, int(np.abs(rgb.astype(int) - truth[y : y + h, x : x + w]).max()))
    return most


@pytest.mark.parametrize("aperio", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_every_level_gives_its_own_pixels(tmp_path, codec, aperio, caplog):
    path = write(tmp_path / "odd.tif", pictures(), aperio=aperio, **CODECS[codec])
    with open_slide(path) as slide, tifffile.TiffFile(path) as file:
        assert (slide.reader, slide.level_dimensions) == ("OpenSlide", tuple(SIZES))
        for level, page in enumerate(file.pages):
            assert misses(slide, level, page.asarray()) <= 1, level
            assert not slide.interpolates(level)
            assert slide.reader_of(level) == ("tifffile" if level else "OpenSlide")
    assert not caplog.records


@pytest.mark.parametrize("codec", ["jpeg", "jpeg of rgb"])
def test_jpeg_tiles_of_odd_levels_are_read_past_the_reader(tmp_path, codec, caplog):
    path = write(tmp_path / "odd.tif", pictures(), **CODECS[codec])
    with open_slide(path) as slide:
        for level in range(len(SIZES)):
            assert checked_tiles(slide, level) is not None, level
    assert not caplog.records


def test_openslide_alone_would_show_other_pixels(tmp_path, monkeypatch):
    levels = pictures()
    path = write(tmp_path / "odd.tif", levels, **CODECS["deflate"])
    monkeypatch.setattr(level_pages, "opened_tiff", refused)
    with open_slide(path) as slide:
        for level in (1, 2):
            assert misses(slide, level, levels[level]) > 5
            assert slide.interpolates(level)
            assert slide.reader_of(level) == "OpenSlide"
        assert not slide.interpolates(0)


def refused(path: Path) -> None:
    raise SlideError(f"{path}: no")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rgb: rgb[..., ::-1],
        lambda rgb: 255 - rgb,
        lambda rgb: np.roll(rgb, 1, axis=1),
        lambda rgb: rgb[::-1],
        lambda rgb: (rgb * 0.9).astype(np.uint8),
    ],
    ids=["channels", "inverted", "one px off", "upside down", "darker"],
)
def test_a_page_that_is_not_what_openslide_shows_is_not_believed(
    tmp_path, monkeypatch, caplog, wrong
):
    path = write(tmp_path / "odd.tif", pictures(), **CODECS["deflate"])
    read = TiffPageReader.read

    def other(self: TiffPageReader, region: Bounds):
        rgb, valid = read(self, region)
        return np.ascontiguousarray(wrong(rgb)), valid

    monkeypatch.setattr(TiffPageReader, "read", other)
    with open_slide(path) as slide, caplog.at_level(logging.WARNING):
        assert slide.interpolates(1)
        assert slide.reader_of(1) == "OpenSlide"
    (told,) = {record.getMessage() for record in caplog.records if "level 1" in record.getMessage()}
    assert "is another picture to tifffile than to OpenSlide" in told


def test_formats_of_which_pages_are_no_levels_stay_with_openslide(tmp_path, monkeypatch):
    path = write(tmp_path / "odd.tif", pictures(), **CODECS["deflate"])
    with open_slide(path) as slide:
        monkeypatch.setattr(openslide_reader, "PLAIN_PYRAMIDS", frozenset())
        assert slide.interpolates(1)
        assert slide.reader_of(1) == "OpenSlide"


def test_damage_is_told_and_costs_what_it_touches(tmp_path):
    path = write(tmp_path / "odd.tif", pictures(), **CODECS["jpeg"])
    with tifffile.TiffFile(path) as file:
        begin = file.pages[1].dataoffsets[0]  # pyright: ignore[reportAttributeAccessIssue]
    with path.open("r+b") as handle:
        handle.seek(begin)
        handle.write(b"\0" * 400)
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match=r"level 1 cannot be read at \(3, 5\).*copy the file"):
            slide.read_region(Point(6, 10), 1, Size(50, 50))
        slide.read_region(Point(2 * 300, 2 * 300), 1, Size(50, 50))


def test_a_closed_slide_is_not_read(tmp_path):
    path = write(tmp_path / "odd.tif", pictures(), **CODECS["deflate"])
    for read_before in (False, True):
        slide = open_slide(path)
        if read_before:
            slide.read_region(Point(0, 0), 1, Size(5, 5))
        slide.close()
        with pytest.raises(ValueError, match="was closed"):
            slide.read_region(Point(0, 0), 1, Size(5, 5))


@pytest.mark.parametrize("start", [0.0, 1.0, 0.25, 1.875])
def test_between_two_rows_lies_their_mean(start):
    rows = np.array([[0, 100], [80, 0], [40, 40], [8, 16]], np.uint8)
    got = level_pages._between(rows, start)
    at = np.arange(len(got)) + start
    wanted = [np.interp(at, np.arange(4), rows[:, column].astype(float)) for column in (0, 1)]
    assert np.allclose(got, np.stack(wanted, axis=1))
    assert Pair(*got.shape) == Pair(4 - int(np.ceil(start)), 2)
