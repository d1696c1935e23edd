"""What the metadata of the array ``patches`` must say for its shards to be read directly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, get_args

from wsi_hr.store.chunks import ChunkCodec, JpegChunks, RawChunks
from wsi_hr.store.jpeg import Subsampling


@dataclass(frozen=True)
class PatchLayout:
    """An array u8[N, P, P, 3] in shards, one chunk per patch.

    Attributes:
        num_patches: N.
        patch_px: P.
        num_slots: chunks per shard.
        separator: what stands between the numbers of a shard's name, ``.`` or ``/``.
        codec: how a chunk is encoded.
    """

    num_patches: int
    patch_px: int
    num_slots: int
    separator: str
    codec: ChunkCodec

    @property
    def num_shards(self) -> int:
        """Shard files of the array, the last one perhaps not full."""
        return -(-self.num_patches // self.num_slots)

    def shard_name(self, shard: int) -> str:
        """Path of a shard file, relative to the array."""
        return self.separator.join(["c", str(shard), "0", "0", "0"])


def parse_layout(zarr_json: bytes) -> PatchLayout:
    """Read the layout off the array's ``zarr.json``.

    Raises:
        ValueError: the array is laid out in a way that is not ours; says in what.
    """
    try:
        meta = json.loads(zarr_json)
        shape, shard = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
        (sharding,) = meta["codecs"]
        inner = sharding["configuration"]
        payload, checksum = inner["codecs"]
        keys = meta["chunk_key_encoding"]
        layout = PatchLayout(
            num_patches=shape[0],
            patch_px=shape[1],
            num_slots=shard[0],
            separator=_configuration(keys).get("separator", "/"),
            codec=_codec(payload),
        )
        patch = [layout.patch_px, layout.patch_px, 3]
        index_order, index_checksum = inner.get("index_codecs", [None, None])
        rules = {
            "zarr_format": meta["zarr_format"] == 3,
            "data_type": meta["data_type"] == "uint8",
            "shape": shape == [layout.num_patches, *patch],
            "chunk_grid": meta["chunk_grid"]["name"] == "regular"
            and shard == [layout.num_slots, *patch],
            "chunk_key_encoding": _name(keys) == "default" and layout.separator in ("/", "."),
            "codecs": sharding["name"] == "sharding_indexed" and _name(checksum) == "crc32c",
            "chunk_shape": inner["chunk_shape"] == [1, *patch],
            "index_location": inner.get("index_location", "end") == "end",
            "index_codecs": _name(index_order) == "bytes"
            and _configuration(index_order).get("endian") == "little"
            and _name(index_checksum) == "crc32c",
        }
    except (KeyError, TypeError, IndexError, AttributeError) as cause:
        raise ValueError("its metadata are not those of sharded patches") from cause
    broken = [name for name, kept in rules.items() if not kept]
    if broken:
        raise ValueError(f"its metadata have an unknown {' and '.join(broken)}")
    return layout


def _codec(payload: Any) -> ChunkCodec:
    if _name(payload) == "bytes":
        return RawChunks()
    if _name(payload) == "wsi_hr_jpeg":
        settings = _configuration(payload)
        if settings["subsampling"] in get_args(Subsampling):
            return JpegChunks(int(settings["quality"]), settings["subsampling"])
    raise ValueError(f"its patches are encoded by {_name(payload)!r}, which is not known here")


def _name(codec: Any) -> str:
    """A codec without settings may be given by its bare name."""
    return codec if isinstance(codec, str) else codec["name"]


def _configuration(codec: Any) -> dict[str, Any]:
    return {} if isinstance(codec, str) else codec.get("configuration", {})
