from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import zarr
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore, MemoryStore

from wsi_hr.store.codec import JpegCodec


def tiles(num: int, edge: int = 16) -> np.ndarray:
    colours = np.random.default_rng(0).integers(0, 256, (num, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colours, (num, edge, edge, 3)).copy()


@pytest.mark.parametrize("shards", [None, (4, 16, 16, 3)], ids=["chunks", "shards"])
def test_zarr_stores_what_libjpeg_makes_of_the_pixels(shards: tuple[int, ...] | None) -> None:
    pixels = tiles(10)
    array = zarr.create_array(
        MemoryStore(),
        shape=pixels.shape,
        dtype=np.uint8,
        chunks=(1, 16, 16, 3),
        shards=shards,
        serializer=JpegCodec(90, "420"),
        compressors=[Crc32cCodec()],
    )
    array[...] = pixels
    expected = [
        simplejpeg.decode_jpeg(
            simplejpeg.encode_jpeg(tile, quality=90, colorsubsampling="420", colorspace="RGB")
        )
        for tile in pixels
    ]
    assert np.array_equal(np.asarray(array[...]), np.stack(expected))


def test_zarr_alone_finds_the_codec_by_its_entry_point(tmp_path: Path) -> None:
    array = zarr.create_array(
        LocalStore(tmp_path / "a.zarr"),
        data=tiles(2),
        chunks=(1, 16, 16, 3),
        serializer=JpegCodec(90, "420"),
    )
    program = (
        "import sys, zarr, hashlib; values = zarr.open_array(sys.argv[1], mode='r')[...];"
        "print(hashlib.sha256(values.tobytes()).hexdigest())"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.zarr")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == hashlib.sha256(np.asarray(array[...]).tobytes()).hexdigest()


def test_the_metadata_say_everything() -> None:
    codec = JpegCodec(83, "422")
    assert JpegCodec.from_dict(codec.to_dict()) == codec


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "other", "configuration": {}}, "not the metadata"),
        ({"name": "wsi_hr_jpeg"}, "not the metadata"),
        ({"name": "wsi_hr_jpeg", "configuration": {"quality": 90}}, "settings quality and"),
        (
            {"name": "wsi_hr_jpeg", "configuration": {"quality": 0, "subsampling": "420"}},
            "quality 0 is not 1 to 100",
        ),
        (
            {"name": "wsi_hr_jpeg", "configuration": {"quality": "90", "subsampling": "420"}},
            "quality '90' is not 1 to 100",
        ),
        (
            {"name": "wsi_hr_jpeg", "configuration": {"quality": 90, "subsampling": "410"}},
            "subsampling '410' is none of",
        ),
    ],
)
def test_metadata_that_are_not_its_own_are_refused(data: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JpegCodec.from_dict(data)


@pytest.mark.parametrize(
    ("shape", "chunks", "dtype"),
    [
        ((4, 16, 16, 3), (2, 16, 16, 3), np.uint8),
        ((4, 16, 16, 4), (1, 16, 16, 4), np.uint8),
        ((4, 16, 16, 3), (1, 16, 16, 3), np.uint16),
        ((16, 16), (16, 16), np.uint8),
    ],
)
def test_what_is_not_one_rgb_patch_is_refused(
    shape: tuple[int, ...], chunks: tuple[int, ...], dtype: type
) -> None:
    array = zarr.create_array(
        MemoryStore(),
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        serializer=JpegCodec(90, "420"),
        compressors=None,
    )
    with pytest.raises(ValueError, match=r"takes chunks u8\[1, h, w, 3\]"):
        array[...] = np.ones(shape, dtype)
