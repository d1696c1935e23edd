"""Tiles that are copied into a store leave behind what is no picture."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import ImageCms
from told_jpeg import (
    COMMENT,
    EOI,
    EXIF,
    NAME,
    TOLD,
    WARNED_OF,
    before,
    between_scans,
    first,
    profile_segments,
    segment,
)
from told_slide import ACROSS, DOWN, TILE, write_told

from wsi_hr.config import TileConfig
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.slides.open import open_slide
from wsi_hr.store.patch_store import PatchStore, verify_store
from wsi_hr.tiling.survey import survey_slide
from wsi_hr.tiling.tile import tile_slide

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def alone(stream: bytes) -> bytes:
    return stream


def tiled(path: Path, **settings: object) -> PatchStore:
    config = TileConfig.model_validate(
        {"mpp": 0.25, "patch_size": TILE, "min_tissue": 0.0, **settings}
    )
    store = path.with_suffix(".zarr")
    result = tile_slide(path, path.stem, store, config, None, "x")
    assert result.status == "done", result.reason
    assert verify_store(store) == []
    return PatchStore.open(store)


def check(path: Path) -> PatchStore:
    """Tile a slide that tells the name: copied, told nowhere, and every pixel the slide's own."""
    assert NAME in path.read_bytes()
    store = tiled(path)
    assert store.info.mode == "passthrough"
    assert len(store) == ACROSS * DOWN
    assert store.valid.all()
    files = [file for file in store.path.rglob("*") if file.is_file()]
    assert not [file for file in files if NAME in file.read_bytes()]
    with openslide.OpenSlide(path) as slide:
        for corner, pixels in zip(
            store.grid.coords.tolist(), store.read(np.arange(len(store))), strict=True
        ):
            seen = np.asarray(slide.read_region(tuple(corner), 0, (TILE, TILE)))[..., :3]
            assert np.array_equal(pixels, seen)
    return store


@pytest.mark.fault("G8")
@pytest.mark.parametrize("told", [told for told in TOLD if told not in WARNED_OF])
def test_a_name_in_every_tile_stays_behind(tmp_path, told):
    check(write_told(tmp_path / "s.tif", TOLD[told]))


@pytest.mark.parametrize("told", WARNED_OF)
def test_a_name_in_every_tile_that_decoders_warn_of_stays_behind(tmp_path, told):
    store = tiled(write_told(tmp_path / "s.tif", TOLD[told]))
    files = [file for file in store.path.rglob("*") if file.is_file()]
    assert not [file for file in files if NAME in file.read_bytes()]


@pytest.mark.parametrize("kind", ["halved colours", "RGB", "restart markers", "progressive"])
def test_whatever_the_kind_of_stream(tmp_path, kind):
    check(write_told(tmp_path / "s.tif", TOLD["everywhere"], kind=kind))


@pytest.mark.parametrize(
    "kind", ["progressive", "progressive, restart markers", "a scan per component"]
)
def test_a_name_between_scans_stays_behind(tmp_path, kind):
    check(write_told(tmp_path / "s.tif", [alone, between_scans], kind=kind))


@pytest.mark.parametrize("told", TOLD)
def test_a_name_in_few_tiles_stays_behind_though_the_others_are_copied_at_once(tmp_path, told):
    check(write_told(tmp_path / "s.tif", [*[alone] * 6, TOLD[told]]))


def test_a_name_in_the_tables_that_tiles_share_stays_behind(tmp_path):
    def tables(stream: bytes) -> bytes:
        return before(first(stream, COMMENT, EXIF), EOI, COMMENT) + NAME

    check(write_told(tmp_path / "s.tif", alone, tables=tables))


def test_another_comment_in_every_tile(tmp_path):
    count = iter(range(ACROSS * DOWN))
    check(
        write_told(
            tmp_path / "s.tif",
            lambda stream: first(stream, segment(0xFE, NAME + bytes((next(count),)))),
        )
    )


@pytest.mark.parametrize("told", ["EXIF in APP1", "before the end", "behind the end", "everywhere"])
def test_tiles_are_still_not_decoded(tmp_path, monkeypatch, told):
    path = write_told(tmp_path / "s.tif", TOLD[told])
    decoded = []
    right = JpegTiles.decode_into

    def counted(tiles, stream, out, decode_scale, **how):
        decoded.append(stream)
        right(tiles, stream, out, decode_scale, **how)

    with open_slide(path) as slide:
        config = TileConfig.model_validate({"mpp": 0.25, "patch_size": TILE, "min_tissue": 0.0})
        survey = survey_slide(slide, config)
        (scale,) = survey.scales
        monkeypatch.setattr(JpegTiles, "decode_into", counted)
        chunks = scale.encoder().encode(scale.grid)
    assert all(chunk is not None and NAME not in chunk for chunk in chunks)
    assert len(chunks) == ACROSS * DOWN
    assert len(decoded) <= 1


def test_a_tile_whose_markers_lead_nowhere_costs_itself(tmp_path):
    def broken(stream: bytes) -> bytes:
        return before(stream, EOI, b"\xff\xfe\xff\xff" + NAME)

    path = write_told(tmp_path / "s.tif", [*[alone] * 7, broken])
    store = tiled(path, max_unreadable=0.5)
    assert store.info.mode == "passthrough"
    files = [file for file in store.path.rglob("*") if file.is_file()]
    assert not [file for file in files if NAME in file.read_bytes()]
    assert np.count_nonzero(store.valid) >= ACROSS * DOWN - 3


def test_a_profile_in_the_tiles_is_the_slides_where_it_has_no_other(tmp_path):
    def told(stream: bytes) -> bytes:
        return first(stream, profile_segments(SRGB, 300))

    for name, changes in {
        "tiles": {"told": told},
        "tables": {"told": alone, "tables": told},
    }.items():
        with open_slide(write_told(tmp_path / f"{name}.tif", **changes)) as slide:
            assert slide.icc_profile == SRGB, name
    other = b"not the tiles' profile".ljust(200, b".")
    with open_slide(write_told(tmp_path / "tag.tif", told, profile=other)) as slide:
        assert slide.icc_profile == other


def test_a_profile_that_patches_do_not_get_is_told_of_or_used(tmp_path, caplog):
    def told(stream: bytes) -> bytes:
        return first(stream, profile_segments(SRGB))

    path = write_told(tmp_path / "s.tif", told)
    with caplog.at_level(logging.WARNING):
        store = tiled(path)
    assert store.info.mode == "passthrough"
    assert caplog.text.count("hold an ICC profile, which patches do not get") == 1
    assert not any(b"ICC_PROFILE" in file.read_bytes() for file in store.path.rglob("c.*"))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        store = tiled(path, icc="srgb")
    assert store.info.colour["icc"]["applied"] is True
    assert "ICC profile" not in caplog.text
