from __future__ import annotations

import os
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Mpp, Pair, Point, Size
from wsi_hr.slides.mpp import WAY_OUT
from wsi_hr.slides.open import SLIDE_SUFFIXES, open_slide, slide_id_of
from wsi_hr.testing.coordinate_slide import write_coordinate_slide


def _refusal(path: Path) -> str:
    """The sentence with which a file is refused: one line that begins with the path."""
    with pytest.raises(SlideError) as refused:
        open_slide(path)
    sentence = str(refused.value)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence
    return sentence.removeprefix(f"{path}: ")


@pytest.fixture(scope="module")
def coordinate_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("open") / "coordinates.tif"
    write_coordinate_slide(path, size=Size(1024, 768), levels=(1, 4))
    return path


@pytest.mark.parametrize(
    ("content", "what", "way_out"),
    [
        (b"", "the file is empty", "copy it again"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "this is a PNG picture", "the scanner wrote"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "this is a JPEG picture", "the scanner wrote"),
        (b"PK\x03\x04" + bytes(99), "this is a zip archive", "unpack it"),
        (b"\x1f\x8b\x08" + bytes(99), "this is a gzip archive", "unpack it"),
        (b"%PDF-1.7", "this is a PDF document", "the scanner wrote"),
        (b"\n<!DOCTYPE html><html>404", "this is a web page", "download it again"),
        (b"<!-- x --><HTML lang=en>", "this is a web page", "download it again"),
        (bytes(4096), "nothing but zeros", "copy it again"),
        (b"no slide at all", "OpenSlide cannot open it", "pyramidal TIFF"),
        (b"II*\0", "OpenSlide cannot open it", "as a TIFF"),
        (b"II*\0" + bytes(60), "OpenSlide cannot open it", "as a TIFF"),
        (b"MM\0+\0\x08\0\0" + b"\xff" * 60, "the file is damaged", "copy the file again"),
    ],
)
def test_wrong_content_under_a_slide_s_name_is_told_apart(tmp_path, content, what, way_out):
    path = tmp_path / "a.svs"
    path.write_bytes(content)
    sentence = _refusal(path)
    assert what in sentence
    assert way_out in sentence


def test_what_is_no_file_is_told_apart(tmp_path):
    assert "no such file" in _refusal(tmp_path / "absent.svs")
    (tmp_path / "link.svs").symlink_to(tmp_path / "gone.svs")
    assert "a link to a file that is gone" in _refusal(tmp_path / "link.svs")
    (tmp_path / "folder.svs").mkdir()
    assert "a folder, not a slide" in _refusal(tmp_path / "folder.svs")
    (tmp_path / "circle.svs").symlink_to(tmp_path / "circle.svs")
    assert "cannot be read" in _refusal(tmp_path / "circle.svs")
    os.mkfifo(tmp_path / "pipe.svs")  # opening it would wait for a writer for ever
    assert "not a regular file" in _refusal(tmp_path / "pipe.svs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said_so(tmp_path):
    path = tmp_path / "secret.svs"
    path.write_bytes(b"II*\0")
    path.chmod(0)
    assert "may not be read; change its permissions" in _refusal(path)


def test_an_mrxs_needs_its_folder(tmp_path):
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    assert "needs the folder a with Slidedat.ini beside it" in _refusal(path)
    (tmp_path / "a").mkdir()
    assert "needs the folder a with Slidedat.ini beside it" in _refusal(path)
    (tmp_path / "a" / "Slidedat.ini").write_text("")
    assert "OpenSlide cannot open it" in _refusal(path)
    assert "give a.mrxs, the file beside it" in _refusal(tmp_path / "a")


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.99, -1])
@pytest.mark.parametrize("compression", ["zlib", "webp"], ids=["OpenSlide", "tifffile"])
@pytest.mark.parametrize("tables_first", [False, True])
def test_of_a_truncated_slide_no_wrong_pixel_comes_out(
    tmp_path, noise, part, compression, tables_first
):
    whole = tmp_path / "whole.tif"
    options = {"compressionargs": {"lossless": True}} if compression == "webp" else {}
    tifffile.imwrite(
        whole,
        noise[:200, :300],
        photometric="rgb",
        tile=(64, 64),
        compression=compression,
        **options,
    )
    content = whole.read_bytes()
    if not tables_first:  # as scanners write: the directory of images at the end
        start = struct.unpack("<I", content[4:8])[0]
        end = start + 2 + 12 * struct.unpack("<H", content[start : start + 2])[0] + 4
        content = content[:4] + struct.pack("<I", len(content)) + content[8:] + content[start:end]
    length = len(content) - 1 if part == -1 else int(part * len(content))
    path = tmp_path / "a.svs"
    path.write_bytes(content[:length])
    if not tables_first:
        sentence = _refusal(path)
        assert "cut off" in sentence or "OpenSlide cannot open it" in sentence
        return
    with open_slide(path) as slide:
        assert "cut off" in slide.mpp_problem
        sentences = []
        for y in range(0, 200, 64):
            for x in range(0, 300, 64):
                size = Size(min(64, 300 - x), min(64, 200 - y))
                try:
                    rgb, valid = slide.read_region(Point(x, y), 0, size)
                except SlideError as refused:
                    sentences.append(str(refused))
                    continue
                assert valid.all()
                assert np.array_equal(rgb, noise[y : y + size.h, x : x + size.w])
        assert sentences
        assert all("copy the file again" in sentence for sentence in sentences)


def test_directories_that_lead_in_a_circle_end(tmp_path, noise):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise, photometric="rgb", rowsperstrip=64, metadata=None)
    with tifffile.TiffFile(path) as file:
        first = file.pages.first
        end = first.offset + 2 + 12 * len(first.tags)
        offset = first.offset
    with path.open("r+b") as handle:
        handle.seek(end)
        handle.write(struct.pack("<I", offset))
    assert "lead round in a circle" in _refusal(path)


def test_a_hundred_thousand_px_squared_in_a_small_file(tmp_path):
    path = tmp_path / "large.tif"
    tile = np.full((1024, 1024, 3), 7, np.uint8)
    tifffile.imwrite(
        path,
        (tile if number == 0 else None for number in range(98 * 98)),
        shape=(100_000, 100_000, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(1024, 1024),
        compression="zlib",
    )
    assert path.stat().st_size < 1 << 20
    with open_slide(path, mpp_override=0.5) as slide:
        assert slide.level_dimensions == ((100_000, 100_000),)
        rgb, valid = slide.read_region(Point(1000, 0), 0, Size(48, 9))
        assert (rgb[:, :24] == 7).all()
        assert np.array_equal(valid[0], np.arange(48) < 24)
        assert (rgb[:, 24:] == 255).all()
        assert not slide.read_region(Point(99_000, 99_000), 0, Size(64, 64))[1].any()


@pytest.mark.parametrize("tiles", [{"tile": (16, 16), "compression": "zlib"}, {}])
def test_one_pixel_is_a_slide(tmp_path, tiles):
    path = tmp_path / "one.tif"
    pixel = np.array([[[3, 5, 7]]], np.uint8)
    padded = np.full((16, 16, 3), pixel[0, 0])
    data = iter([padded]) if tiles else pixel
    tifffile.imwrite(path, data, shape=(1, 1, 3), dtype=np.uint8, photometric="rgb", **tiles)
    with open_slide(path) as slide:
        rgb, valid = slide.read_region(Point(0, 0), 0, Size(1, 1))
        assert np.array_equal(rgb, pixel)
        assert valid.all()
        assert np.array_equal(slide.thumbnail(100), pixel)


def test_plain_tiffs_go_to_openslide_and_ome_tiffs_do_not(tmp_path, noise, coordinate_path):
    with open_slide(coordinate_path) as slide:
        assert slide.reader == "OpenSlide"
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(
        path,
        noise,
        photometric="rgb",
        tile=(64, 64),
        metadata={"axes": "YXS", "PhysicalSizeX": 0.25},
    )
    with open_slide(path) as slide:
        assert slide.reader == "tifffile"
        assert slide.mpp == Mpp(0.25, 0.25, "ome.PhysicalSizeX")


@pytest.mark.parametrize(
    ("shape", "dtype", "why"), [((64, 64), "u2", "16-bit"), ((5, 64, 64), "u1", "5 planes")]
)
def test_what_openslide_would_misread_is_refused(tmp_path, shape, dtype, why):
    """It shows 16 bits cut down to 8, and the first of five channels, without a word."""
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.ones(shape, dtype), photometric="minisblack", tile=(64, 64))
    assert why in _refusal(path)


def test_a_bomb_in_a_vendor_s_xml_is_not_expanded(tmp_path, noise):
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 20}">' for n in range(1, 20))
    description = (
        f'<?xml version="1.0"?><!DOCTYPE scn [<!ENTITY e0 "ha">{entities}]><scn '
        'xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection>&e19;</collection>'
        "</scn>"
    )
    path = tmp_path / "a.scn"
    tifffile.imwrite(
        path, noise, photometric="rgb", tile=(64, 64), description=description, metadata=None
    )
    sentence = _refusal(path)
    assert "haha" not in sentence


def test_an_override_stands_above_the_slide_s_word(coordinate_path):
    with open_slide(coordinate_path) as slide:
        assert slide.mpp == Mpp(0.5, 0.5, "tiff.XResolution")
    with open_slide(coordinate_path, mpp_override=0.3, mpp_source="manifest") as slide:
        assert slide.mpp == Mpp(0.3, 0.3, "manifest")
        assert slide.mpp_problem is None
    with pytest.raises(SlideError, match="outside the plausible"):
        open_slide(coordinate_path, mpp_override=250)


def test_a_slide_without_mpp_opens_and_says_how_to_give_it(tmp_path):
    path = tmp_path / "x.tif"
    write_coordinate_slide(path, size=Size(64, 64), mpp=None, levels=(1,), tile=64)
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert slide.mpp_problem.endswith(WAY_OUT)


@pytest.mark.parametrize("name", ["a b.svs", "-rf.svs", "=cmd.svs", "a\nb.svs", "ü.svs", "..svs"])
def test_odd_names_open(tmp_path, coordinate_path, name):
    path = tmp_path / name
    shutil.copy(coordinate_path, path)
    with open_slide(path) as slide:
        assert slide.level_downsamples[1] == Pair(4.0, 4.0)


def test_a_name_in_no_encoding_opens(tmp_path, coordinate_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.svs"))
    shutil.copy(coordinate_path, path)
    with open_slide(path) as slide:
        assert slide.slide_id == "__"


@pytest.mark.parametrize(
    ("name", "slide_id"),
    [
        ("TCGA-1.svs", "TCGA-1"),
        ("a.b.svs", "a.b"),
        ("x.ome.tif", "x"),
        ("x.OME.TIFF", "x"),
        ("a\nb\tc.svs", "a_b_c"),
        ("..svs", "_."),
        ("...svs", "_.."),
        ("no suffix", "no suffix"),
        ("a\u2028b.svs", "a_b"),
    ],
)
def test_a_slide_is_named_by_its_stem(name, slide_id):
    assert slide_id_of(Path("folder") / name) == slide_id


@given(st.text(st.characters(blacklist_characters="\0/"), min_size=1))
def test_every_slide_id_is_fit_for_a_file_name_and_a_line(name):
    slide_id = slide_id_of(Path("folder") / name)
    assert slide_id.encode()
    assert slide_id.strip(".")
    assert not re.search(r"[/\0-\x1f\x7f\u2028\u2029]", slide_id)


def test_the_suffixes_are_lower_case():
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SLIDE_SUFFIXES)


REFUSED = {
    "CMU-1-Saved-1_16_no-datadir.mrxs": "needs the folder",
    "histolab-broken.svs": "it is not a TIFF",
    "largeimage-small_la.tiff": "2 channels",
    "largeimage-zero_gi.tif": "has no pixels",
}
WITHOUT_MPP = {
    "TCGA-CR-7395-01A-01-TS1.svs": "no mpp in its metadata",
    "largeimage-grey10kx5k.tif": "72 dpi",
    "largeimage-yb10kx5k.zstd.tiff": "71.98 dpi",
}


@pytest.mark.data
def test_every_shared_slide_opens_or_is_refused_in_one_sentence(shared_data):
    seen = set()
    for path in sorted((shared_data / "slides").rglob("*")):
        if path.is_dir():
            continue
        seen.add(path.name)
        if path.name in REFUSED:
            assert REFUSED[path.name] in _refusal(path)
            continue
        with open_slide(path) as slide:
            if path.name in WITHOUT_MPP:
                assert WITHOUT_MPP[path.name] in slide.mpp_problem
                assert slide.mpp is None
            else:
                assert slide.mpp is not None
            level = len(slide.level_dimensions) - 1
            size = Size(*(min(64, edge) for edge in slide.level_dimensions[level]))
            if path.name == "unreadable.svs":
                with pytest.raises(SlideError, match="Bogus marker length; copy the file again"):
                    slide.read_region(Point(0, 0), level, size)
                continue
            rgb, valid = slide.read_region(Point(0, 0), level, size)
            assert rgb.shape == (size.h, size.w, 3)
            assert valid.all()
    assert set(REFUSED) | set(WITHOUT_MPP) | {"unreadable.svs"} <= seen


@pytest.mark.data
def test_an_overview_scan_may_be_coarse(shared_data):
    path = shared_data / "slides/dicom/ezwsi-multiframe_camelyon_challenge_image.dcm"
    with open_slide(path) as slide:
        assert slide.mpp.mean == pytest.approx(28.9685)
