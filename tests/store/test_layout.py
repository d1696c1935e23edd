from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from wsi_hr.config import TileConfig
from wsi_hr.store.arrays import write_patches_metadata
from wsi_hr.store.chunks import JpegChunks, RawChunks
from wsi_hr.store.layout import parse_layout


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("layout") / "patches"
    write_patches_metadata(folder, 300, TileConfig.model_validate({"patch_size": 16}))
    return json.loads((folder / "zarr.json").read_text())


def test_what_zarr_writes_is_understood(metadata: dict[str, Any]) -> None:
    layout = parse_layout(json.dumps(metadata).encode())
    assert (layout.num_patches, layout.patch_px, layout.num_slots) == (300, 16, 256)
    assert (layout.num_shards, layout.shard_name(1)) == (2, "c.1.0.0.0")
    assert layout.codec == JpegChunks(90, "420")


def test_raw_patches_and_folders_are_understood(metadata: dict[str, Any]) -> None:
    metadata = copy.deepcopy(metadata)
    metadata["chunk_key_encoding"] = {"name": "default"}
    metadata["codecs"][0]["configuration"]["codecs"] = ["bytes", "crc32c"]
    layout = parse_layout(json.dumps(metadata).encode())
    assert layout.codec == RawChunks()
    assert layout.shard_name(7) == "c/7/0/0/0"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["zarr_format"], 2, "unknown zarr_format"),
        (["data_type"], "uint16", "unknown data_type"),
        (["shape"], [300, 16, 17, 3], "unknown shape"),
        (["shape"], [300, 16, 16, 4], "unknown shape"),
        (["chunk_grid", "name"], "rectilinear", "unknown chunk_grid"),
        (["chunk_grid", "configuration", "chunk_shape"], [256, 8, 16, 3], "unknown chunk_grid"),
        (["chunk_key_encoding", "name"], "v2", "unknown chunk_key_encoding"),
        (["chunk_key_encoding", "configuration", "separator"], "-", "unknown chunk_key_encoding"),
        (["codecs", 0, "name"], "gzip", "unknown codecs"),
        (["codecs"], [{"name": "bytes"}], "not those of sharded patches"),
        (["codecs", 0, "configuration", "chunk_shape"], [2, 16, 16, 3], "unknown chunk_shape"),
        (["codecs", 0, "configuration", "index_location"], "start", "unknown index_location"),
        (["codecs", 0, "configuration", "index_codecs", 0], "gzip", "unknown index_codecs"),
        (["codecs", 0, "configuration", "codecs", 0, "name"], "zstd", "encoded by 'zstd'"),
        (["codecs", 0, "configuration", "codecs", 1, "name"], "gzip", "unknown codecs"),
    ],
)
def test_what_cannot_be_read_directly_is_refused(
    metadata: dict[str, Any], place: list[Any], value: object, message: str
) -> None:
    metadata = copy.deepcopy(metadata)
    node = metadata
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    with pytest.raises(ValueError, match=message):
        parse_layout(json.dumps(metadata).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff"])
def test_what_is_no_metadata_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_layout(content)
