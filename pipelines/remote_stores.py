"""Stores behind a URL put in place, moved and removed, where nothing can be renamed.

A store is complete once its manifest is there, so that is written last and removed first; its
``zarr.json``, by which it is known as ours, is written first and removed last. Whatever was cut
short in between is no store, and :func:`sweep_unfinished` finds it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from wsi_hr.errors import StoreError
from wsi_hr.listing import matching
from wsi_hr.remote import RemotePath
from wsi_hr.store.manifest import (
    MANIFEST_NAME,
    Manifest,
    check_sizes,
    files_below,
    is_ours,
    read_manifest,
)
from wsi_hr.store.patch_store import STORE_SUFFIX

_FIRST = "zarr.json"


def upload_store(written: Path, path: RemotePath) -> None:
    """Upload a finished store; what is at ``path`` goes before.

    Raises:
        StoreError: something was lost on the way.
        OSError: the server does not take it.
    """
    remove_store(path)
    manifest = read_manifest(written)
    for names in _in_order(manifest.files):
        path.upload_below(written, names)
    check_sizes(path, manifest)
    path.upload_below(written, [MANIFEST_NAME])


def upload_unfinished(written: Path, path: RemotePath) -> None:
    """Upload a store that is laid out and has no patches yet.

    Nothing is removed: who was given up for dead may come late, and uploads the same again.

    Raises:
        OSError: the server does not take it.
    """
    for names in _in_order(files_below(written)):
        path.upload_below(written, names)


def finish_upload(path: RemotePath, manifest: Manifest) -> None:
    """Make what was uploaded file by file a store; what is not in its manifest goes before.

    Raises:
        StoreError: something was lost on the way.
        OSError: the server does not take it.
    """
    path.remove_below(sorted(path.sizes().keys() - manifest.files.keys()))
    check_sizes(path, manifest)
    (path / MANIFEST_NAME).write_bytes(manifest.to_bytes())


def move_store(path: RemotePath, target: RemotePath) -> None:
    """Move a store, finished or not; what is at ``target`` goes before.

    Raises:
        OSError: the server does not do it.
    """
    remove_store(target)
    names = path.sizes().keys()
    for part in _in_order(names - {MANIFEST_NAME}):
        path.copy_below(target, part)
    path.copy_below(target, sorted(names & {MANIFEST_NAME}))
    remove_store(path)


def remove_store(path: RemotePath) -> None:
    """Remove a store; there is never half of one.

    Raises:
        OSError: the server does not do it.
    """
    names = path.sizes().keys()
    for part in reversed([*_in_order(names - {MANIFEST_NAME}), sorted(names & {MANIFEST_NAME})]):
        path.remove_below(part)
    path.remove_empty()


def sweep_unfinished(folder: RemotePath) -> None:
    """Remove the stores in a folder whose upload, move or removal was cut short.

    Raises:
        StoreError: the server does not answer.
    """
    try:
        for path in matching(folder, f"*{STORE_SUFFIX}"):
            if not (path / MANIFEST_NAME).is_file() and is_ours(path):
                remove_store(path)
    except OSError as cause:
        raise StoreError(f"{folder}: cannot be cleared up ({cause.strerror})") from cause


def _in_order(names: Collection[str]) -> list[list[str]]:
    """The files of a store but for the manifest, in the two steps in which they are written."""
    others = sorted(set(names) - {_FIRST})
    return [[_FIRST] if _FIRST in names else [], others]
