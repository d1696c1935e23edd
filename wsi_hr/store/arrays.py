"""The parts of a store that zarr-python writes and reads: groups, metadata and small arrays.

zarr returns zeros for a chunk that is missing. So the small arrays are one chunk each, that chunk
is always written, and reading starts from bytes that were compared with the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, cpu
from zarr.storage import LocalStore, MemoryStore

from wsi_hr.config import TileConfig
from wsi_hr.errors import StoreError
from wsi_hr.remote import Place
from wsi_hr.store.chunks import JpegChunks, chunk_codec_for
from wsi_hr.store.codec import JpegCodec
from wsi_hr.store.manifest import Manifest, read_checked
from wsi_hr.store.shards import CHUNKS_PER_SHARD

ATTRIBUTES_KEY = "wsi_hr"
_SEPARATOR = "."  # one file per chunk, no folders: `c.0.0.0.0`


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write the metadata of a group whose attributes under ``wsi_hr`` are ``attributes``."""
    zarr.create_group(LocalStore(folder), attributes={ATTRIBUTES_KEY: dict(attributes)})


def write_small_array(folder: Path, values: npt.NDArray[Any], names: tuple[str, ...]) -> None:
    """Write an array as one compressed chunk with a checksum.

    Args:
        folder: the array's folder.
        values: at least one element.
        names: name of every dimension.
    """
    array = zarr.create_array(
        LocalStore(folder),
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        serializer=BytesCodec(endian="little"),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": _SEPARATOR},
        dimension_names=names,
        config={"write_empty_chunks": True},
    )
    array[...] = values


def write_patches_metadata(folder: Path, num_patches: int, tile: TileConfig) -> None:
    """Write the metadata of the array ``patches``; its shards are written directly."""
    codec = chunk_codec_for(tile)
    patch = (tile.patch_size, tile.patch_size, 3)
    zarr.create_array(
        LocalStore(folder),
        shape=(num_patches, *patch),
        dtype=np.uint8,
        chunks=(1, *patch),
        shards=(CHUNKS_PER_SHARD, *patch),
        serializer=JpegCodec(codec.quality, codec.subsampling)
        if isinstance(codec, JpegChunks)
        else BytesCodec(endian=None),
        compressors=[Crc32cCodec()],
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": _SEPARATOR},
        dimension_names=("patch", "y", "x", "channel"),
    )


def read_small_array(folder: Place, manifest: Manifest, name: str) -> npt.NDArray[Any]:
    """Read the small array ``name`` (relative to the store) as it was written.

    Raises:
        StoreError: a file of the array is missing or has changed.
    """
    keys = [key for key in manifest.files if key.startswith(f"{name}/")]
    if len(keys) != 2:
        raise StoreError(
            f"{folder}: its {name} is not one array of one chunk; do not use this store"
        )
    files: dict[str, Buffer] = {
        key.removeprefix(f"{name}/"): cpu.Buffer.from_bytes(read_checked(folder, manifest, key))
        for key in keys
    }
    array = zarr.open_array(MemoryStore(store_dict=files), mode="r")
    return np.asarray(array[...])
