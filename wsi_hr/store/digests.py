"""Which slide a store is of, by what it holds: two files can have one name, and one file two."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from wsi_hr.errors import StoreError
from wsi_hr.remote import Place
from wsi_hr.store.manifest import Manifest, read_manifest
from wsi_hr.store.skeleton import read_root
from wsi_hr.store.store_info import SCALE_PREFIX


class Digests(NamedTuple):
    """What tells a slide from all others; two stores that share one are of the same slide.

    Attributes:
        source_sha256: of the slide's file, hexadecimal.
        pixels_sha256: of what the manifest says of the patches at all scales. Equal for copies of a
            slide whose metadata differ, cut alike; empty where the store holds no pixels.
        content_sha256: of what the manifest says of all but mask and thumbnail, and of the file.
    """

    source_sha256: str
    pixels_sha256: str
    content_sha256: str


def digests_of(manifest: Manifest, source_sha256: str) -> Digests:
    """The digests of a store with this manifest, of a slide file with that SHA-256."""
    line_of = {
        name: f"{name} {entry.size} {entry.sha256}\n"
        for name, entry in sorted(manifest.files.items())
        if name.startswith(SCALE_PREFIX)
    }
    pixels = "".join(line for name, line in line_of.items() if "/patches/c" in name)
    return Digests(
        source_sha256,
        hashlib.sha256(pixels.encode()).hexdigest() if pixels else "",
        hashlib.sha256("".join([source_sha256, *line_of.values()]).encode()).hexdigest(),
    )


def read_digests(path: Place) -> Digests:
    """The digests of the finished store at ``path``; reads two small files.

    Raises:
        StoreError: no store, not ours, not finished, or damaged.
    """
    manifest = read_manifest(path)
    return digests_of(manifest, _attribute(path, manifest, "source_sha256"))


def read_edges_sha256(path: Place) -> str:
    """SHA-256 of the first and last 64 KiB of the slide of the finished store at ``path``.

    Raises:
        StoreError: no store, not ours, not finished, or damaged.
    """
    return _attribute(path, read_manifest(path), "source_edges_sha256")


def _attribute(path: Place, manifest: Manifest, name: str) -> str:
    try:
        return str(read_root(path, manifest)[name])
    except (ValueError, KeyError, TypeError) as cause:
        raise StoreError(f"{path}: not laid out as wsi-hr does it ({cause})") from cause
