from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
import tifffile
from rich.console import Console

from pipelines.info import print_info, slide_info
from wsi_hr.errors import SlideError
from wsi_hr.geometry import Size
from wsi_hr.testing.coordinate_slide import write_coordinate_slide

SECRET = "DOE_JANE_1961"


def _printed(info: dict) -> str:
    out = io.StringIO()
    print_info(info, Console(file=out, width=40))
    return out.getvalue()


def test_the_facts_of_a_sound_slide(tmp_path):
    path = tmp_path / "[bold]a.tif"
    write_coordinate_slide(path, size=Size(1029, 795), levels=(1, 4))
    info = slide_info(path)
    assert info == {
        "path": str(path),
        "slide_id": "[bold]a",
        "reader": "OpenSlide",
        "vendor": "generic-tiff",
        "num_files": 1,
        "num_bytes": path.stat().st_size,
        "sha256": None,
        "size": [1029, 795],
        "bounds": [0, 0, 1029, 795],
        "levels": [
            {"size": [1029, 795], "downsample": [1.0, 1.0], "tile_size": [256, 256]},
            {"size": [257, 198], "downsample": [4.0, 4.0], "tile_size": [256, 256]},
        ],
        "mpp": [0.5, 0.5],
        "mpp_source": "tiff.XResolution",
        "objective_power": None,
        "associated_images": [],
        "problems": [],
    }
    assert json.loads(json.dumps(info)) == info
    text = _printed(info)
    assert f"{path}\n" in text  # neither wrapped nor taken for markup
    assert "0.5 um/px (tiff.XResolution)" in text
    assert "257 x 198 px, downsample 4, tiles 256 x 256" in text
    assert "problem" not in text


def test_the_sha256_is_that_of_the_bytes_on_request(tmp_path):
    path = tmp_path / "a.tif"
    write_coordinate_slide(path, size=Size(64, 64), levels=(1,))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    info = slide_info(path, sha256=True)
    assert info["sha256"] == digest
    assert digest in _printed(info)


def test_an_override_is_shown_as_such(tmp_path):
    path = tmp_path / "a.tif"
    write_coordinate_slide(path, size=Size(64, 64), levels=(1,))
    assert slide_info(path, mpp_override=0.3)["mpp_source"] == "mpp-override"


def test_problems_are_found_and_the_way_out_is_named(tmp_path):
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (600, 800, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=50, compression="zlib")
    path.write_bytes(path.read_bytes()[:500_000])
    info = slide_info(path)
    problems = "\n".join(info["problems"])
    assert info["mpp"] is None
    assert "tiles or strips of its largest image lie behind its end" in problems
    assert "level 0 cannot be read" in problems
    text = _printed(info)
    assert "mpp            unknown" in text
    assert text.count("problem ") == len(info["problems"]) > 1


def test_a_large_flat_slide_is_called_slow(tmp_path):
    path = tmp_path / "a.tif"
    pixels = np.zeros((20, 10_001, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib")
    assert any("no pyramid" in problem for problem in slide_info(path)["problems"])


def test_a_file_that_is_no_slide_is_one_sentence(tmp_path):
    with pytest.raises(SlideError, match=r"absent\.svs: no such file"):
        slide_info(tmp_path / "absent.svs")


def test_no_name_of_a_patient_is_among_the_facts(tmp_path):
    path = tmp_path / "a.svs"
    pixels = np.zeros((512, 512, 3), np.uint8)
    label = np.zeros((40, 40, 3), np.uint8)
    scan = "Aperio Image Library v1\r\n512x512 (256x256) -> 512x512 |AppMag = 20|MPP = 0.5"
    for key in ("Filename", "Title", "User", "Date", "Barcode"):
        scan += f"|{key} = {SECRET}"
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            pixels,
            photometric="rgb",
            tile=(256, 256),
            compression="jpeg",
            description=scan,
            metadata=None,
        )
        writer.write(
            label,
            photometric="rgb",
            compression="lzw",
            subfiletype=1,
            rowsperstrip=40,
            description=f"Aperio Image Library v1\r\nlabel 40x40 {SECRET}",
            metadata=None,
        )
    info = slide_info(path)
    assert info["vendor"] == "aperio"
    assert info["mpp"] == [0.5, 0.5]
    assert SECRET not in json.dumps(info)
    assert SECRET not in _printed(info)


@pytest.mark.data
def test_every_shared_slide_is_described_or_refused_in_one_sentence(shared_data):
    described = 0
    sentences = []
    for path in sorted((shared_data / "slides").rglob("*")):
        if path.is_dir():
            continue
        try:
            info = slide_info(path)
        except SlideError as refused:
            sentences.append((path, str(refused)))
            continue
        described += 1
        assert (info["mpp"] is None) == (info["mpp_source"] is None)
        assert (info["mpp"] is None) == any("--mpp-override" in text for text in info["problems"])
        if path.name == "unreadable.svs":
            assert "cannot be read" in info["problems"][0]
        if path.name == "CMU-1-Small-Region.svs":
            assert "label, macro, thumbnail (never read)" in _printed(info)
        assert path.name in _printed(info)
    assert described > 8
    assert len(sentences) == 4
    for path, sentence in sentences:
        assert sentence.startswith(f"{path}: ")
        assert "\n" not in sentence
