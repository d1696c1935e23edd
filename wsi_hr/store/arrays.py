"""Groups, metadata and small arrays of a store, as zarr v3 lays them out.

They are written directly: a dozen small files take zarr-python longer than a thousand patches take
us. It reads them back, as anybody else's would be.

zarr returns zeros for a chunk that is missing. So the small arrays are one chunk each, that chunk
is always written, and reading starts from bytes that were compared with the manifest.

Source: the Zarr v3 specification; codecs bytes, zstd, crc32c and sharding_indexed 1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.buffer import Buffer, cpu
from zarr.storage import MemoryStore

from wsi_hr.config import TileConfig
from wsi_hr.errors import StoreError
from wsi_hr.file_names import file_in
from wsi_hr.remote import Place
from wsi_hr.store.chunks import JpegChunks, chunk_codec_for, seal, unseal
from wsi_hr.store.codec import JpegCodec
from wsi_hr.store.manifest import Manifest, read_checked
from wsi_hr.store.shards import CHUNKS_PER_SHARD

ATTRIBUTES_KEY = "wsi_hr"
_SEPARATOR = "."  # one file per chunk, no folders: `c.0.0.0.0`
_METADATA_NAME = "zarr.json"
_ZSTD_LEVEL = 3
_MOST_BYTES = 1 << 30  # of one array: more than a hundred million patches have
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_PLAIN_BYTES = {"name": "bytes"}
_CRC32C = {"name": "crc32c"}
_CODECS = {"bytes", "zstd", "crc32c"}
"""Those of small arrays."""


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write the metadata of a group whose attributes under ``wsi_hr`` are ``attributes``."""
    _write_metadata(
        folder,
        {
            "attributes": {ATTRIBUTES_KEY: dict(attributes)},
            "zarr_format": 3,
            "node_type": "group",
        },
    )


def write_small_array(folder: Path, values: npt.NDArray[Any], names: tuple[str, ...]) -> None:
    """Write an array as one compressed chunk with a checksum.

    Args:
        folder: the array's folder.
        values: at least one element.
        names: name of every dimension.
    """
    zstd = {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}}
    order = _LITTLE_ENDIAN if values.itemsize > 1 else _PLAIN_BYTES
    codecs = [order, zstd, _CRC32C]
    _write_metadata(folder, _array(values.shape, values.dtype, values.shape, codecs, names))
    content = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    chunk = file_in(folder, _SEPARATOR.join(["c", *("0" * values.ndim)]), of="chunk")
    chunk.write_bytes(seal(bytes(imagecodecs.zstd_encode(content, level=_ZSTD_LEVEL))))


def write_patches_metadata(folder: Path, num_patches: int, tile: TileConfig) -> None:
    """Write the metadata of the array ``patches``; its shards are written directly."""
    codec = chunk_codec_for(tile)
    patch = (tile.patch_size, tile.patch_size, 3)
    encoded = (
        JpegCodec(codec.quality, codec.subsampling).to_dict()
        if isinstance(codec, JpegChunks)
        else _PLAIN_BYTES
    )
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, *patch],
            "codecs": [encoded, _CRC32C],
            "index_codecs": [_LITTLE_ENDIAN, _CRC32C],
            "index_location": "end",
        },
    }
    shape, shard = (num_patches, *patch), (CHUNKS_PER_SHARD, *patch)
    names = ("patch", "y", "x", "channel")
    _write_metadata(folder, _array(shape, np.dtype(np.uint8), shard, [sharding], names))


def _array(
    shape: Sequence[int],
    dtype: np.dtype[Any],
    chunk: Sequence[int],
    codecs: Sequence[Mapping[str, Any]],
    names: Sequence[str],
) -> dict[str, Any]:
    """The metadata of an array; numpy and zarr call the types that are used here alike."""
    return {
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": _SEPARATOR}},
        "fill_value": dtype.type(0).item(),
        "codecs": list(codecs),
        "attributes": {},
        "dimension_names": list(names),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _METADATA_NAME).write_text(json.dumps(metadata, indent=2), encoding="ascii")


def read_small_array(folder: Place, manifest: Manifest, name: str) -> npt.NDArray[Any]:
    """Read the small array ``name`` (relative to the store) as it was written.

    Raises:
        StoreError: a file of the array is missing or has changed, or holds more than the array.
    """
    keys = [key for key in manifest.files if key.startswith(f"{name}/")]
    strange = StoreError(
        f"{folder}: its {name} is not one array of one chunk; do not use this store"
    )
    if len(keys) != 2:
        raise strange
    files: dict[str, Buffer] = {
        key.removeprefix(f"{name}/"): cpu.Buffer.from_bytes(read_checked(folder, manifest, key))
        for key in keys
    }
    try:
        codecs = {codec["name"] for codec in json.loads(files[_METADATA_NAME].to_bytes())["codecs"]}
        if not codecs <= _CODECS:  # others may be anybody's code, found by its name
            raise ValueError(f"codecs {', '.join(sorted(codecs))}")  # noqa: TRY301
        array = zarr.open_array(MemoryStore(store_dict=files), mode="r")
        chunk_name = array.metadata.encode_chunk_key((0,) * array.ndim)
    except (ValueError, LookupError, TypeError, OSError) as cause:
        raise strange from cause
    if array.chunks != array.shape or files.keys() != {_METADATA_NAME, chunk_name}:
        raise strange  # zarr would give zeros for the chunks it does not find
    chunk = files[chunk_name].to_bytes()
    if array.nbytes > _MOST_BYTES or not _decodes_to(array.nbytes, chunk):
        raise StoreError(
            f"{folder}: its {name} does not hold the {array.nbytes} bytes that it announces; do "
            "not use this store"
        )
    return np.asarray(array[...])


def _decodes_to(num_bytes: int, chunk: bytes) -> bool:
    """Whether a chunk holds so many bytes; no more of them than these are decoded."""
    try:
        return len(imagecodecs.zstd_decode(unseal(chunk), out=num_bytes)) == num_bytes
    except (ValueError, imagecodecs.ZstdError):
        return False
