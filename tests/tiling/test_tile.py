"""One slide into one store, on files with known pixels and known damage."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from wsi_hr.config import TileConfig
from wsi_hr.errors import SlideError
from wsi_hr.geometry import Point, Size
from wsi_hr.runtime import sha256_file
from wsi_hr.slides.open import open_slide
from wsi_hr.slides.source import Source
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.testing.coordinate_slide import write_coordinate_slide
from wsi_hr.testing.svs import TILE_PX, write_svs
from wsi_hr.tiling.tile import tile_slide

RAW = TileConfig(patch_size=64, codec="raw")  # pyright: ignore[reportCallIssue]


def write_slide(path: Path, *, blank: bool = False) -> Path:
    """Pink noise with a glass margin of one tile on the left."""
    rng = np.random.default_rng(0)
    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)

    def tile_at(corner: Point):
        if blank or corner.x == 0:
            return None
        coarse = rng.integers(0, 60, (TILE_PX // 8, TILE_PX // 8, 1))
        noise = np.kron(coarse, np.ones((8, 8, 1))) * (1.0, 1.0, 1.0)
        return (np.array([215, 120, 170]) - noise).astype(np.uint8)

    write_svs(path, size=Size(1024, 768), mpp=0.5, tile_at=tile_at, glass=glass)
    return path


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "s.svs")


def damage_tile(path: Path, page: int, tile: int) -> None:
    """Make one JPEG tile undecodable: its start is overwritten."""
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[page].dataoffsets[tile]  # pyright: ignore[reportAttributeAccessIssue]
    with path.open("r+b") as handle:
        handle.seek(offset)
        handle.write(b"\0" * 400)


def test_raw_patches_equal_openslides_pixels(tmp_path, slide_path):
    result = tile_slide(slide_path, "s", tmp_path / "s.zarr", RAW, None, "mpp-override")
    store = PatchStore.open(tmp_path / "s.zarr")
    assert (result.status, result.reason) == ("done", "")
    assert result.num_patches == len(store) > 100
    assert result.mpp == 0.5
    assert result.source_sha256 == store.info.source_sha256 == sha256_file(slide_path)
    assert store.info.source_size == slide_path.stat().st_size
    assert store.info.source_name == "s.svs"
    assert store.valid.all()
    assert store.grid.coords[:, 0].min() >= TILE_PX - 64, "the glass margin is left out"
    pixels = store.read(np.arange(len(store)))
    slide = openslide.OpenSlide(slide_path)
    for (x, y), patch in zip(store.grid.coords.tolist(), pixels, strict=True):
        assert np.array_equal(patch, np.asarray(slide.read_region((x, y), 0, (64, 64)))[..., :3])
    slide.close()


def test_equal_input_gives_equal_bytes(tmp_path, slide_path):
    config = TileConfig(patch_size=128, mpp=0.7)  # pyright: ignore[reportCallIssue]
    for name in ("one", "two"):
        tile_slide(slide_path, "s", tmp_path / name / "s.zarr", config, None, "x")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def tree(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): sha256_file(file)
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_the_mpp_and_whose_word_it_is(tmp_path, slide_path):
    result = tile_slide(slide_path, "s", tmp_path / "s.zarr", RAW, 0.4, "manifest")
    assert (result.mpp, result.mpp_source) == (0.4, "manifest")
    store = PatchStore.open(tmp_path / "s.zarr")
    assert store.info.plan.patch_px0 == pytest.approx((80, 80))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (RAW, "no tissue found"),
        (
            RAW.model_copy(update={"patch_size": 800}),
            "smaller than one patch (1024 x 768 px at level 0, a patch needs 800 x 800)",
        ),
    ],
)
def test_a_slide_without_patches_has_a_reason_and_no_store(tmp_path, config, reason):
    path = write_slide(tmp_path / "blank.svs", blank=True)
    result = tile_slide(path, "blank", tmp_path / "blank.zarr", config, None, "x")
    assert (result.status, result.reason, result.num_patches) == ("no_tissue", reason, 0)
    assert not (tmp_path / "blank.zarr").exists()


def test_too_little_tissue_in_every_patch_is_told_with_the_share(tmp_path):
    path = write_slide(tmp_path / "s.svs")
    config = RAW.model_copy(update={"patch_size": 768, "min_tissue": 0.99})
    result = tile_slide(path, "s", tmp_path / "s.zarr", config, None, "x")
    assert result.status == "no_tissue"
    assert "no patch has 99 % tissue (tissue covers 7" in result.reason


def test_a_slide_without_mpp_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "c.tif"
    write_coordinate_slide(path, size=Size(512, 512), mpp=None, levels=(1,))
    with pytest.raises(SlideError, match=r"c\.tif: .*mpp.*--mpp-override"):
        tile_slide(path, "c", tmp_path / "c.zarr", RAW, None, "x")


def test_damage_costs_only_the_patches_it_hits(tmp_path, slide_path):
    damaged = tmp_path / "d.svs"
    shutil.copy(slide_path, damaged)
    damage_tile(damaged, page=0, tile=6)  # column 2, row 1 of 4 columns
    lenient = RAW.model_copy(update={"max_unreadable": 0.2})
    result = tile_slide(damaged, "d", tmp_path / "d.zarr", lenient, None, "x")
    tile_slide(slide_path, "s", tmp_path / "s.zarr", RAW, None, "x")
    store, intact = PatchStore.open(tmp_path / "d.zarr"), PatchStore.open(tmp_path / "s.zarr")
    assert np.array_equal(store.grid.coords, intact.grid.coords)
    x, y = store.grid.coords.T
    hit = (x >= 512) & (x < 768) & (y >= 256) & (y < 512)
    assert np.array_equal(~store.valid, hit)
    assert result.reason == f"{hit.sum()} of {len(store)} patches unreadable"
    readable = np.flatnonzero(store.valid)
    assert np.array_equal(store.read(readable), intact.read(readable))


def test_too_much_damage_fails_the_slide_with_the_count(tmp_path, slide_path):
    damaged = tmp_path / "d.svs"
    shutil.copy(slide_path, damaged)
    damage_tile(damaged, page=0, tile=6)
    with pytest.raises(SlideError, match=r"d\.svs: \d+ of the first \d+ patches .* max_unreadable"):
        tile_slide(damaged, "d", tmp_path / "d.zarr", RAW, None, "x")
    assert [child.name for child in tmp_path.iterdir()] == ["d.svs"], "nothing half-written"


def test_damage_at_low_power_costs_nothing_that_can_be_read(tmp_path, slide_path):
    damaged = tmp_path / "d.svs"
    shutil.copy(slide_path, damaged)
    with open_slide(slide_path) as slide:
        assert len(slide.level_dimensions) == 3
    with tifffile.TiffFile(damaged) as tif:
        levels = [k for k, page in enumerate(tif.pages) if page.is_tiled]
    for page in levels[1:]:
        damage_tile(damaged, page=page, tile=0)
    result = tile_slide(damaged, "d", tmp_path / "d.zarr", RAW, None, "x")
    intact = tile_slide(slide_path, "s", tmp_path / "s.zarr", RAW, None, "x")
    assert result.status == "done"
    assert result.num_patches >= intact.num_patches
    assert PatchStore.open(tmp_path / "d.zarr").valid.all()


def test_a_source_that_changes_is_noticed(tmp_path):
    path = tmp_path / "a.svs"
    path.write_bytes(b"x" * 200_000)
    before = Source.of(path)
    before.check_unchanged()
    with path.open("r+b") as handle:
        handle.seek(100_000)
        handle.write(b"y")
    os.utime(path, ns=(0, before.stamps[0].mtime_ns + 1))
    with pytest.raises(SlideError, match=r"a\.svs: the file changed while it was read"):
        before.check_unchanged()
    replaced = Source.of(path)
    (tmp_path / "b").write_bytes(path.read_bytes())
    os.replace(tmp_path / "b", path)
    with pytest.raises(SlideError, match="changed"):
        replaced.check_unchanged()
    path.unlink()
    with pytest.raises(SlideError, match="cannot be read"):
        replaced.check_unchanged()


def test_digests_cover_the_companions_of_a_slide(tmp_path):
    path = tmp_path / "m.mrxs"
    path.write_bytes(b"index")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/Data0000.dat").write_bytes(b"a" * 300_000)
    before = Source.of(path)
    digests = before.sha256(), before.edges_sha256()
    assert before.size == 300_005
    (tmp_path / "m/Data0000.dat").write_bytes(b"a" * 299_999 + b"b")
    after = Source.of(path)
    assert after.sha256() != digests[0]
    assert after.edges_sha256() != digests[1]
    with pytest.raises(SlideError, match="changed"):
        before.check_unchanged()


@pytest.mark.data
def test_a_real_slide_equals_openslides_pixels(tmp_path, shared_data):
    path = shared_data / "slides/aperio/CMU-1-Small-Region.svs"
    config = TileConfig(codec="raw")  # pyright: ignore[reportCallIssue]
    result = tile_slide(path, "cmu", tmp_path / "cmu.zarr", config, None, "x")
    assert (result.mpp, result.mpp_source) == (0.499, "openslide.mpp-x")
    store = PatchStore.open(tmp_path / "cmu.zarr")
    pixels = store.read(np.arange(len(store)))
    slide = openslide.OpenSlide(path)
    for (x, y), patch in zip(store.grid.coords.tolist(), pixels, strict=True):
        assert np.array_equal(patch, np.asarray(slide.read_region((x, y), 0, (256, 256)))[..., :3])
    slide.close()
