"""Virtual stores: their patches are those of a raw store, and a slide that is not there is told."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from test_modes import damage_tile
from two_stains import HE_32, concentrations, stained

from wsi_hr.bags.bag_set import BagSet
from wsi_hr.config import TileConfig
from wsi_hr.errors import SlideError, StoreError
from wsi_hr.geometry import Point, Size
from wsi_hr.slides import openslide_reader
from wsi_hr.slides.source import Source
from wsi_hr.store.patch_store import PatchStore, verify_store
from wsi_hr.testing.svs import TILE_PX, write_svs
from wsi_hr.tiling import slide_pixels
from wsi_hr.tiling.slide_pixels import SLIDES_VARIABLE, open_store, require_slide
from wsi_hr.tiling.tile import tile_slide

TISSUE = stained(concentrations(1024), HE_32)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def jpeg_slide(tmp_path_factory) -> Path:
    """1280 x 1024 px of stained tissue at 0.25 um/px, in JPEG tiles of 256 px."""
    path = tmp_path_factory.mktemp("slides") / "s.svs"

    def tile_at(corner: Point):
        x, y = corner.x % 768, corner.y
        return np.ascontiguousarray(TISSUE[y : y + TILE_PX, x : x + TILE_PX])

    glass = np.full((1, TILE_PX, TILE_PX, 3), 244, np.uint8)
    write_svs(path, size=Size(1280, 1024), mpp=0.25, tile_at=tile_at, glass=glass)
    return path


@pytest.fixture(scope="module")
def odd_pyramid(tmp_path_factory) -> Path:
    """Lossless tiles; the second level is no whole part of the first."""
    path = tmp_path_factory.mktemp("odd") / "s.tif"
    half = np.ascontiguousarray(TISSUE[:1020:2, :1018:2][:450, :450])
    with tifffile.TiffWriter(path) as writer:
        for picture, subfile in ((TISSUE, 0), (half, 1)):
            writer.write(
                picture,
                tile=(128, 128),
                photometric="rgb",
                compression="zlib",
                subfiletype=subfile,
                metadata=None,
                resolution=(40_000, 40_000),
                resolutionunit="CENTIMETER",
            )
    return path


def tiled(path: Path, folder: Path, codec: str, **settings: object) -> PatchStore:
    config = TileConfig.model_validate({"min_tissue": 0.0, **settings, "codec": codec})
    result = tile_slide(path, "s", folder / codec / "s.zarr", config, None, "x")
    assert result.status == "done"
    assert verify_store(folder / codec / "s.zarr") == []
    return open_store(folder / codec / "s.zarr")


@pytest.mark.parametrize(
    ("slide", "settings", "reader"),
    [
        ("jpeg_slide", {"mpp": 0.25}, "jpeg tiles"),
        ("jpeg_slide", {"mpp": 0.5, "patch_size": 128}, "jpeg tiles"),
        ("jpeg_slide", {"mpp": 0.25, "patch_size": 96, "stride": 40}, "jpeg tiles"),
        ("jpeg_slide", {"mpp": 0.4, "patch_size": 64, "resample": "exact"}, "jpeg tiles"),
        ("jpeg_slide", {"mpp": 0.25, "stain": "macenko"}, "jpeg tiles"),
        ("jpeg_slide", {"mpp": 0.5, "patch_size": 48, "stain": "reinhard"}, "jpeg tiles"),
        ("odd_pyramid", {"mpp": 0.25, "patch_size": 64}, "OpenSlide"),
        ("odd_pyramid", {"mpp": 0.6, "patch_size": 16}, "tifffile"),
    ],
)
def test_patches_are_those_of_a_raw_store(tmp_path, request, slide, settings, reader):
    path = request.getfixturevalue(slide)
    raw, virtual = (tiled(path, tmp_path, codec, **settings) for codec in ("raw", "virtual"))
    assert (virtual.info.mode, virtual.info.reader, raw.info.reader) == ("virtual", reader, reader)
    assert not virtual.holds_jpeg
    assert np.array_equal(virtual.grid.coords, raw.grid.coords)
    everything = np.arange(len(raw))
    pixels = raw.read(everything)
    assert np.array_equal(virtual.read(everything), pixels)
    for some in (RNG.permutation(len(raw))[:50], np.array([3, 3, 1]), np.array([], np.int64)):
        assert np.array_equal(virtual.read(some), pixels[some])
    for patch in RNG.permutation(len(raw))[:12].tolist():
        assert np.array_equal(virtual.read(np.array([patch]))[0], pixels[patch])
    assert not list((tmp_path / "virtual/s.zarr").rglob("patches"))


def test_what_openslide_interpolates_is_read_as_it_was(tmp_path, odd_pyramid, monkeypatch):
    """By where a read begins the px differ that it shows of such a level."""
    monkeypatch.setattr(openslide_reader, "PLAIN_PYRAMIDS", frozenset())
    asked = {"mpp": 0.6, "patch_size": 16}
    config = TileConfig.model_validate({"min_tissue": 0.0, **asked})
    result = tile_slide(odd_pyramid, "s", tmp_path / "s.zarr", config, None, "x")
    assert result.reason == (
        "OpenSlide interpolates between the px of level 1, whose size is no whole part of the "
        "slide's"
    )
    raw, virtual = (tiled(odd_pyramid, tmp_path, codec, **asked) for codec in ("raw", "virtual"))
    assert (raw.info.reader, raw.info.plan.level) == ("OpenSlide", 1)
    pixels = raw.read(np.arange(len(raw)))
    for some in (np.arange(len(raw)), RNG.permutation(len(raw))[:50], RNG.permutation(12)):
        assert np.array_equal(virtual.read(some), pixels[some])
    monkeypatch.undo()
    again = open_store(virtual.path)
    with pytest.raises(StoreError, match="by OpenSlide when it was tiled and is by tifffile here"):
        again.read(np.array([0]))


def test_every_scale_is_read_from_its_level(tmp_path, jpeg_slide):
    settings = {"mpp": 0.25, "more_mpp": [0.5], "patch_size": 128}
    for codec in ("raw", "virtual"):
        tiled(jpeg_slide, tmp_path, codec, **settings)
    for mpp in (0.25, 0.5):
        raw, virtual = (open_store(tmp_path / c / "s.zarr", mpp) for c in ("raw", "virtual"))
        assert virtual.info.tile.mpp == mpp
        everything = np.arange(len(raw))
        assert np.array_equal(virtual.read(everything), raw.read(everything))


def test_what_the_slide_does_not_give_is_found_out_while_tiling(tmp_path, jpeg_slide):
    path = shutil.copy(jpeg_slide, tmp_path / "d.svs")
    damage_tile(path, tile=7, how="header")
    settings = {"mpp": 0.25, "max_unreadable": 0.2}
    raw, virtual = (tiled(path, tmp_path, codec, **settings) for codec in ("raw", "virtual"))
    assert (~virtual.valid).sum() == 1
    assert np.array_equal(virtual.valid, raw.valid)
    readable = np.flatnonzero(raw.valid)
    assert np.array_equal(virtual.read(readable), raw.read(readable))
    with pytest.raises(StoreError, match="could not be read from the slide"):
        virtual.read(np.flatnonzero(~virtual.valid))


def test_a_slide_that_is_gone_or_changed_is_told_with_its_store(tmp_path, jpeg_slide):
    path = Path(shutil.copy(jpeg_slide, tmp_path / "s.svs"))
    store = tiled(path, tmp_path, "virtual", mpp=0.25)
    first = np.array([0])
    store.read(first)
    content = path.read_bytes()
    both = rf"virtual/s\.zarr: holds no pixels.*{path}"
    path.unlink()
    for opened in (store, open_store(store.path)):
        opened._pixels._slide and setattr(opened._pixels._slide, "_looked", 0)  # pyright: ignore
        with pytest.raises(StoreError, match=rf"{both}, which cannot be read \(No such file"):
            opened.read(first)
    path.write_bytes(content[:-1] + b"!")
    with pytest.raises(StoreError, match=rf"{both} is not the file it was made from any more"):
        store.read(first)
    with pytest.raises(StoreError, match="is not the file"):
        BagSet(tmp_path / "virtual").open("s")
    path.write_bytes(content)
    assert len(BagSet(tmp_path / "virtual").open("s")) == len(store)
    store.read(first)
    with pytest.raises(StoreError, match="holds no pixels, they are in its slide"):
        PatchStore.open(store.path).read(first)


def test_a_slide_that_moved_is_found_where_the_user_says(tmp_path, jpeg_slide, monkeypatch):
    site = tmp_path / "old/site/a ü"
    site.mkdir(parents=True)
    shutil.copy(jpeg_slide, site / "s.svs")
    store = tiled(site / "s.svs", tmp_path, "virtual", mpp=0.25)
    pixels = store.read(np.array([4]))
    (tmp_path / "old").rename(tmp_path / "new")
    for folder in ("new", "new/site", "new/site/a ü"):
        monkeypatch.setenv(SLIDES_VARIABLE, f"/nowhere:{tmp_path / folder}")
        assert require_slide(store) == tmp_path / "new/site/a ü/s.svs"
        assert np.array_equal(open_store(store.path).read(np.array([4])), pixels)
    (tmp_path / "new/site/a ü/s.svs").write_bytes(b"another")
    with pytest.raises(StoreError, match=r"new/site/a ü/s\.svs is not the file it was made from"):
        open_store(store.path).read(np.array([4]))


def test_no_slide_is_looked_for_beside_the_folder_the_user_says(tmp_path, monkeypatch):
    """A store may say what it likes: ``..`` in it never leads out of that folder."""
    (tmp_path / "slides").mkdir()
    (tmp_path / "secret.svs").write_bytes(b"of somebody")
    monkeypatch.setenv(SLIDES_VARIABLE, str(tmp_path / "slides"))
    for told in ("/a/../secret.svs", "/a/b/../../secret.svs", "../secret.svs"):
        assert slide_pixels._whereabouts(Path(told)) == Path(told)
    (tmp_path / "slides/secret.svs").write_bytes(b"mine")
    found = slide_pixels._whereabouts(Path("/a/../secret.svs"))
    assert found == tmp_path / "slides/secret.svs"


def test_a_pipe_that_a_store_names_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.svs")
    with pytest.raises(SlideError, match="not a regular file"):
        Source.of(tmp_path / "pipe.svs")


def test_threads_and_forks_read_what_one_process_reads(tmp_path, jpeg_slide, monkeypatch):
    monkeypatch.setattr(slide_pixels, "_MAX_OPEN_SLIDES", 2)
    settings = {"mpp": 0.25, "patch_size": 64}
    paths = [tiled(jpeg_slide, tmp_path / str(k), "virtual", **settings).path for k in range(4)]
    stores = [open_store(path) for path in paths]
    everything = np.arange(len(stores[0]))
    pixels = stores[0].read(everything)

    def right(number: int) -> bool:
        some = np.random.default_rng(number).integers(0, len(everything), 40)
        return np.array_equal(stores[number % 4].read(some), pixels[some])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(60)))
    opened = [store for store in stores if store._pixels._slide is not None]  # pyright: ignore
    assert len(opened) <= 2, "the slides of the others were closed"
    child = os.fork()
    if child == 0:
        os._exit(0 if right(1) and right(2) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert right(3)


def test_a_slide_of_other_levels_than_it_was_tiled_from_is_refused(tmp_path, monkeypatch):
    """An earlier version took a macro in the midst of the levels for one of them."""
    x, y = np.meshgrid(np.arange(1024), np.arange(1024))
    slide = np.dstack([120 + x // 16, 60 + y // 16, 150 + (x + y) // 32]).astype(np.uint8)
    macro = np.full((512, 512, 3), (20, 240, 110), np.uint8)
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        for pixels in (slide, macro, np.ascontiguousarray(slide[2::4, 2::4])):
            writer.write(
                pixels,
                tile=(64, 64),
                compression="zlib",
                photometric="rgb",
                metadata=None,
                subfiletype=int(pixels is not slide),
                resolution=(40_000, 40_000),
                resolutionunit="CENTIMETER",
            )
    with monkeypatch.context() as patch:
        patch.setattr(
            "wsi_hr.slides.openslide_reader.levels_alike",
            lambda slide, doubtful: tuple(range(len(slide.level_dimensions))),
        )
        store = tiled(tmp_path / "s.tif", tmp_path, "virtual", mpp=1.0, patch_size=64)
        assert store.info.plan.level == 2
    store = open_store(tmp_path / "virtual/s.zarr")
    with pytest.raises(StoreError, match="other images are levels here than when it was tiled"):
        store.read(np.arange(2))
