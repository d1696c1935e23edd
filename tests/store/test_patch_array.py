"""What zarr-python writes, read directly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.storage import LocalStore

from wsi_hr.errors import StoreError
from wsi_hr.store.codec import JpegCodec
from wsi_hr.store.layout import PatchLayout, parse_layout
from wsi_hr.store.patch_array import PatchArray


def write_with_zarr(
    folder: Path, pixels: np.ndarray, *, codec: str, separator: str, num_slots: int
) -> zarr.Array:
    patch = pixels.shape[1:]
    array = zarr.create_array(
        LocalStore(folder),
        shape=pixels.shape,
        dtype=np.uint8,
        chunks=(1, *patch),
        shards=(num_slots, *patch),
        serializer=JpegCodec(90, "420") if codec == "jpeg" else BytesCodec(),
        compressors=[Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": separator},  # pyright: ignore
        config={"write_empty_chunks": True},
    )
    array[...] = pixels
    return array


def open_array(folder: Path) -> tuple[PatchArray, PatchLayout]:
    layout = parse_layout((folder / "zarr.json").read_bytes())
    sizes = [
        (folder / layout.shard_name(shard)).stat().st_size for shard in range(layout.num_shards)
    ]
    return PatchArray(folder, layout, sizes), layout


def read(array: PatchArray, layout: PatchLayout, indices: list[int]) -> np.ndarray:
    out = np.zeros((len(indices), layout.patch_px, layout.patch_px, 3), dtype=np.uint8)
    array.read_into(indices, out)
    return out


@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize(("num", "num_slots"), [(40, 16), (32, 16), (3, 256)])
def test_bit_for_bit_as_zarr_reads_it(
    tmp_path: Path, codec: str, separator: str, num: int, num_slots: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)
    pixels[1] = 0  # equals the fill value
    written = write_with_zarr(
        tmp_path / "a", pixels, codec=codec, separator=separator, num_slots=num_slots
    )
    array, layout = open_array(tmp_path / "a")
    assert np.array_equal(read(array, layout, list(range(num))), np.asarray(written[...]))


def test_a_chunk_that_zarr_left_out_is_an_error_and_not_black(tmp_path: Path) -> None:
    pixels = np.full((4, 8, 8, 3), 9, dtype=np.uint8)
    written = write_with_zarr(tmp_path / "a", pixels, codec="raw", separator=".", num_slots=4)
    sparse = zarr.open_array(
        LocalStore(tmp_path / "a"), mode="r+", config={"write_empty_chunks": False}
    )
    sparse[2] = 0
    assert not np.asarray(written[2]).any()
    array, layout = open_array(tmp_path / "a")
    assert (read(array, layout, [0, 1, 3]) == 9).all()
    with pytest.raises(StoreError, match=r"c\.0\.0\.0\.0: patch 2 cannot be read \(it is missing"):
        read(array, layout, [2])


def test_one_damaged_patch_does_not_hide_the_others(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    write_with_zarr(tmp_path / "a", pixels, codec="raw", separator=".", num_slots=16)
    shard = tmp_path / "a" / "c.1.0.0.0"
    content = bytearray(shard.read_bytes())
    content[5 * (8 * 8 * 3 + 4) + 7] ^= 1  # patch 21
    shard.write_bytes(content)
    array, layout = open_array(tmp_path / "a")
    others = [patch for patch in range(40) if patch != 21]
    assert np.array_equal(read(array, layout, others), pixels[others])
    with pytest.raises(StoreError, match=r"patch 21 cannot be read \(its checksum"):
        read(array, layout, list(range(40)))
