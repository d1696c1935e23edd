from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_hr.slides.tiff_damage import tiff_damage


@pytest.fixture(params=["classic", "big", "big-endian", "strips"])
def whole(request, tmp_path, noise):
    options = {
        "classic": {"tile": (64, 64)},
        "big": {"tile": (64, 64), "bigtiff": True},
        "big-endian": {"tile": (64, 64), "byteorder": ">"},
        "strips": {"rowsperstrip": 50},
    }[request.param]
    path = tmp_path / "whole.tif"
    with tifffile.TiffWriter(
        path, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", None)
    ) as writer:
        for image in (noise, noise[::2, ::2]):
            writer.write(image, photometric="rgb", compression="zlib", **options)
    return path


def test_nothing_is_wrong_with_a_whole_file(whole):
    assert tiff_damage(whole) is None


def test_nothing_is_said_of_what_is_no_tiff(tmp_path):
    path = tmp_path / "a.svs"
    for content in (b"", b"II", b"\x89PNG" + bytes(99), b"II\x07\0" + bytes(99)):
        path.write_bytes(content)
        assert tiff_damage(path) is None


def test_a_missing_directory_is_fatal(whole):
    with tifffile.TiffFile(whole) as file:
        second = file.pages[1].offset
    whole.write_bytes(whole.read_bytes()[: second + 20])
    damage = tiff_damage(whole)
    assert damage.fatal
    assert f"a directory of images at byte {second} of {second + 20} is missing" in damage.what


def test_missing_pixels_are_counted(tmp_path, noise):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise, photometric="rgb", tile=(256, 256), compression="zlib")
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        end = page.dataoffsets[-2] + page.databytecounts[-2]
        num_tiles = len(page.dataoffsets)
    path.write_bytes(path.read_bytes()[:end])
    assert tiff_damage(path).what.startswith(f"1 of the {num_tiles} tiles or strips")
    path.write_bytes(path.read_bytes()[: end - 1])
    damage = tiff_damage(path)
    assert damage.what.startswith(f"2 of the {num_tiles} tiles or strips")
    assert not damage.fatal


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32 - 1), flips=st.integers(1, 20))
def test_whatever_is_damaged_it_ends_with_a_clause_or_none(whole, seed, flips):
    intact = whole.read_bytes()
    rng = np.random.default_rng(seed)
    damaged = bytearray(intact)
    with tifffile.TiffFile(whole) as file:
        tables = [0, file.pages.first.offset, file.pages[1].offset]
    for position in rng.choice(tables, flips) + rng.integers(0, 200, flips):
        damaged[position % len(damaged)] = int(rng.integers(256))
    path = whole.with_name("damaged.tif")
    path.write_bytes(damaged)
    damage = tiff_damage(path)
    assert damage is None or (damage.what and "\n" not in damage.what)
