"""The patches of a store as WebDataset: tar files, one sample of picture and JSON per patch.

A sample is all members of one name up to its first dot, so dots in a slide's id become ``_`` there;
the JSON has the id as it is. Nothing but the store decides the bytes: members have no time, no
owner, and store order.

Source: the WebDataset format, as its documentation and that of torchdata describe it.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from wsi_hr.exchange.patch_files import patch_files, stored_kind
from wsi_hr.file_names import file_in, file_name
from wsi_hr.store.patch_store import PatchStore

SHARD_BYTES = 1_000_000_000
"""A tar file is at most this large, unless a single sample is larger."""

_BLOCK = tarfile.BLOCKSIZE
_LONG_NAME = 100  # longer names take two more blocks in a tar file


def write_webdataset(store: PatchStore, folder: Path, max_bytes: int = SHARD_BYTES) -> None:
    """Write ``<slide_id>-000000.tar`` and so on into ``folder``.

    Args:
        store: the slide; patches that it could not read are left out.
        folder: where the tar files go.
        max_bytes: least upper bound of a tar file that holds more than one sample.

    Raises:
        StoreError: a patch is damaged.
    """
    kind = stored_kind(store)
    shard, room, num_shards = None, 0, 0
    try:
        for file in patch_files(store, kind):
            key = file_name(file.name.replace(".", "_"), of="patch")
            facts = (json.dumps(file.facts) + "\n").encode()
            members = [(f"{key}.{kind}", file.picture), (f"{key}.json", facts)]
            needed = sum(_bytes_in_tar(name, content) for name, content in members)
            if shard is None or needed > room:
                if shard is not None:
                    shard.close()
                path = file_in(folder, store.slide_id, f"-{num_shards:06d}.tar", of="slide id")
                shard = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
                # a tar file ends with zeros up to a whole record
                room, num_shards = max_bytes - tarfile.RECORDSIZE, num_shards + 1
            for name, content in members:
                _add(shard, name, content)
            room -= needed
    finally:
        if shard is not None:
            shard.close()


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file of which only name and content are told."""
    member = tarfile.TarInfo(name)  # mtime, uid and gid are 0, the names of both empty
    member.size = len(content)
    member.mode = 0o644
    shard.addfile(member, io.BytesIO(content))


def _bytes_in_tar(name: str, content: bytes) -> int:
    blocks = 1 + -(-len(content) // _BLOCK)
    long_name = len(name.encode("utf-8", "surrogateescape"))
    if long_name > _LONG_NAME:
        blocks += 1 + -(-(long_name + 1) // _BLOCK)
    return blocks * _BLOCK
