"""Patches handed out undecoded: the same pixels in the end, and only what any decoder reads."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_hr.errors import StoreError
from wsi_hr.store.jpeg_patches import JpegPatches, join_patches
from wsi_hr.store.patch_store import PatchStore


def test_they_decode_to_what_the_store_gives(tmp_path: Path, store_maker) -> None:
    store = PatchStore.open(store_maker().write(tmp_path / "a.zarr"))
    some = np.array([7, 200, 7, 298])
    patches = store.read_jpeg(some)
    assert patches.any_decoder
    assert np.array_equal(patches.decode(), store.read(some))
    assert np.array_equal(patches[1:3].decode(), store.read(some[1:3]))


def test_joined_they_stay_streams_as_long_as_all_are(tmp_path: Path, store_maker) -> None:
    store = PatchStore.open(store_maker().write(tmp_path / "a.zarr"))
    one, two = np.array([5, 1]), np.array([9])
    pixels = store.read(np.concatenate([one, two]))
    streams = join_patches([store.read_jpeg(one), store.read_jpeg(two)])
    assert isinstance(streams, JpegPatches)
    assert np.array_equal(streams.decode(), pixels)
    mixed = join_patches([store.read_jpeg(one), store.read(two)])
    assert isinstance(mixed, np.ndarray)
    assert np.array_equal(mixed, pixels)


@pytest.mark.parametrize(("mode", "options"), [("RGB", {"keep_rgb": True}), ("L", {})])
def test_other_colours_are_not_for_any_decoder(mode: str, options: dict) -> None:
    file = io.BytesIO()
    Image.new(mode, (16, 16)).save(file, "JPEG", **options)
    assert not JpegPatches((file.getvalue(),), (("a", 0),), 16).any_decoder


def test_what_cannot_be_decoded_is_named() -> None:
    patches = JpegPatches((b"nonsense",), (("slide.zarr", 17),), 16)
    assert not patches.any_decoder
    with pytest.raises(StoreError, match="slide.zarr: patch 17 cannot be read"):
        patches.decode()
