"""A label of a striking colour, in every place a file has for one: no output shows a px of it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_hr.store.patch_store import PatchStore

GREEN = np.array([20, 240, 110], np.uint8)
EDGE = 1024
HOW = {"photometric": "rgb", "metadata": None}
TILES = {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 95}}
STRIPS = {"rowsperstrip": 64, "compression": "lzw"}
HALF_UM = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
APERIO = "Aperio Image Library v11.2.1\r\n"
BASE = f"{APERIO}1024x1024 [0,0 1024x1024] (256x256) JPEG/RGB Q=95|AppMag = 20|MPP = 0.5"
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0" Name="label image"><Pixels ID="P:0" DimensionOrder="XYCZT" Type="uint8" '
    'SizeX="256" SizeY="256" SizeC="3" SizeZ="1" SizeT="1"><Channel ID="C:0" '
    'SamplesPerPixel="3"/><TiffData IFD="0"/></Pixels></Image><Image ID="Image:1" Name="a.svs">'
    '<Pixels ID="P:1" DimensionOrder="XYCZT" Type="uint8" SizeX="1024" SizeY="1024" SizeC="3" '
    'SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5"><Channel ID="C:1" '
    'SamplesPerPixel="3"/><TiffData IFD="1"/></Pixels></Image></OME>'
)


def tissue() -> np.ndarray:
    """Pink and grainy, u8[1024, 1024, 3]."""
    grain = np.random.default_rng(0).integers(0, 60, (EDGE // 8, EDGE // 8, 1))
    coarse = np.kron(grain, np.ones((8, 8, 1)))
    return (np.array([225, 120, 175]) - coarse * (1.0, 0.8, 0.6)).astype(np.uint8)


def label(width: int, height: int) -> np.ndarray:
    """Green stripes on white, as wide as a mask px at least."""
    striped = np.full((height, width, 3), 250, np.uint8)
    striped[np.arange(height) % 96 < 64] = GREEN
    return striped


SLIDE = (tissue(), HOW | TILES | HALF_UM)
FILES = {
    "first.tif": [(label(200, 300), HOW | STRIPS | {"description": "Label"}), SLIDE],
    "tiled.tif": [SLIDE, (label(256, 256), HOW | TILES | {"description": "m", "subfiletype": 9})],
    "macro.tif": [SLIDE, (label(256, 320), HOW | TILES | {"subfiletype": 1})],
    "aperio.svs": [
        (SLIDE[0], HOW | TILES | {"description": BASE}),
        (label(256, 256), HOW | TILES | {"description": f"{APERIO}macro 256x256"}),
        (label(200, 300), HOW | STRIPS | {"description": f"{APERIO}label 200x300"}),
    ],
    "ome.ome.tif": [(label(256, 256), HOW | TILES | {"description": OME}), SLIDE],
    "only_label.tif": [(label(1024, 1024), HOW | TILES | HALF_UM | {"description": "label"})],
    "only_macro.tif": [(label(600, 300), HOW | STRIPS | HALF_UM | {"subfiletype": 9})],
    "refused.tif": [
        (label(600, 300), HOW | STRIPS | HALF_UM | {"description": "Thumbnail"}),
        (SLIDE[0], HOW | TILES | {"description": "level=0 mag=40 quality=90"}),
    ],
}
FAIL = {"only_label", "only_macro", "refused"}


def shows_green(pixels: np.ndarray) -> bool:
    return bool((np.abs(pixels.astype(int) - GREEN).max(axis=-1) < 60).any())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    for name, pages in FILES.items():
        with tifffile.TiffWriter(folder / name) as writer:
            for pixels, options in pages:
                writer.write(pixels, **options)
    return folder


@pytest.mark.fault("G6")
@pytest.mark.parametrize("mpp", [0.5, 2.0])
def test_no_picture_of_any_output_shows_the_label(cli, folder, tmp_path, mpp):
    out = tmp_path / "store"
    ended = cli(
        *("tile", folder, "-o", out, "--mpp", mpp, "--patch-size", 64, "--mpp-override", 0.5),
        *("--set", "tile.min_tissue=0", "--set", "tile.artifacts=[]"),
    )
    assert ended.code == 1
    with (out / "status.csv").open() as handle:
        rows = {row["slide_id"]: row for row in csv.DictReader(handle)}
    assert {name for name, row in rows.items() if row["status"] != "done"} == FAIL
    assert not any("mpp" in rows[name]["reason"] for name in FAIL)
    stores = sorted(out.glob("*.zarr"))
    assert len(stores) == len(FILES) - len(FAIL)
    for path in stores:
        store = PatchStore.open(path)
        assert store.info.level0_size == (EDGE, EDGE)
        assert not shows_green(store.thumbnail), path
        assert not shows_green(store.read(np.flatnonzero(store.valid))), path
        assert store.mask.mask.mean() > 0.9, "the tissue's, not the label's"
    pictures = sorted(out.rglob("*.png"))
    assert {picture.parent.name for picture in pictures} == {"store", "qc"}
    for picture in pictures:
        with Image.open(picture) as opened:
            assert not shows_green(np.asarray(opened.convert("RGB"))), picture


def test_the_search_would_find_it(cli, tmp_path):
    """The oracle's own proof: a label that is a part of the slide is found in all of these."""
    slides = tmp_path / "slides"
    slides.mkdir()
    with tifffile.TiffWriter(slides / "s.tif") as writer:
        mixed = tissue()
        mixed[256:640, 256:640] = label(384, 384)
        writer.write(mixed, **HOW, **TILES, **HALF_UM)
    out = tmp_path / "store"
    ended = cli(
        *("tile", slides, "-o", out, "--mpp", 2.0, "--patch-size", 64),
        *("--set", "tile.min_tissue=0", "--set", "tile.artifacts=[]"),
    )
    assert ended.code == 0, ended.err
    store = PatchStore.open(out / "s.zarr")
    assert shows_green(store.thumbnail)
    assert shows_green(store.read(np.flatnonzero(store.valid)))
    for picture in (out / "contact_sheet.png", out / "qc/s.png"):
        with Image.open(picture) as opened:
            assert shows_green(np.asarray(opened.convert("RGB"))), picture
