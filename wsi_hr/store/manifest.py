"""What a finished store consists of: every file with its size and SHA-256, written last.

A store is complete when its ``manifest.json`` is there, sound, and every file it lists has the size
it says. The manifest ends with a mark, the SHA-256 of the list, so that damage to the manifest is
found like damage to any other file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wsi_hr.errors import StoreError, StoreReadError, reading
from wsi_hr.file_names import P, beside, file_below, name_problem
from wsi_hr.listing import is_there, walk_files
from wsi_hr.remote import Place, RemotePath
from wsi_hr.runtime import fsync_dir, fsync_file, sha256_file

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
TMP_SUFFIX = ".tmp"
OLD_SUFFIX = ".old"
FSYNCS_AT_A_TIME = 8
"""A file system takes many in one go."""


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hexadecimal) of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files of a store.

    Attributes:
        files: path relative to the store, with ``/``, to its entry; the manifest itself is not
            among them.
    """

    files: Mapping[str, FileEntry]

    def to_bytes(self) -> bytes:
        """The manifest as it lies on disk; equal files give equal bytes."""
        files = {
            name: {"size": entry.size, "sha256": entry.sha256}
            for name, entry in sorted(self.files.items())
        }
        mark = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        document = {"schema_version": SCHEMA_VERSION, "files": files, "complete": mark}
        return (json.dumps(document, indent=1) + "\n").encode()


def read_manifest(folder: Place) -> Manifest:
    """Read and check the manifest of the store in ``folder``.

    Raises:
        StoreError: there is none, it is damaged, or a newer wsi-hr wrote it.
        StoreReadError: it cannot be read just now.
    """
    path = folder / MANIFEST_NAME
    with reading(path, StoreReadError):
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as cause:
            raise StoreError(_without_manifest(folder)) from cause
    damaged = StoreError(f"{path}: damaged; {_way_out(folder)}")
    try:
        document = json.loads(content)
        version = document["schema_version"]
    except (ValueError, KeyError, TypeError) as cause:
        raise damaged from cause
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StoreError(
            f"{folder}: written by a newer wsi-hr (store schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}); update wsi-hr"
        )
    try:
        manifest = Manifest(
            {
                name: FileEntry(size=int(entry["size"]), sha256=str(entry["sha256"]))
                for name, entry in document["files"].items()
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise damaged from cause
    if manifest.to_bytes() != content:
        raise damaged
    for name in manifest.files:
        if any(map(name_problem, name.split("/"))):
            raise StoreError(
                f"{path}: lists {name!r}, which lies outside or is no plain name; do not use this "
                "store"
            )
    return manifest


def check_sizes(folder: Place, manifest: Manifest) -> None:
    """Check that every file is there and has its size, without reading any.

    Raises:
        StoreError: naming the first file that does not.
        StoreReadError: one cannot be looked at just now.
    """
    size_problem = _sizes_in(folder)
    for name, entry in manifest.files.items():
        problem = size_problem(name, entry)
        if problem:
            raise StoreError(f"{_file(folder, name)}: {problem}; {_way_out(folder)}")


def read_checked(folder: Place, manifest: Manifest, name: str) -> bytes:
    """Read one small file of a store and compare it with the manifest.

    Raises:
        StoreError: it is not listed, is missing, or has changed.
        StoreReadError: it cannot be read just now.
    """
    entry = manifest.files.get(name)
    if entry is None:
        raise StoreError(f"{folder}: has no {name}, not by its own manifest; {_way_out(folder)}")
    file = _file(folder, name)
    with reading(file, StoreReadError):
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as cause:
            raise StoreError(f"{file}: missing; {_way_out(folder)}") from cause
    if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise StoreError(f"{file}: damaged; {_way_out(folder)}")
    return content


def verify_store(folder: Place) -> list[str]:
    """Read every file of a store back against its manifest; also where the store does not open.

    Returns:
        One sentence per problem, in order of the files' names; empty if the store is sound.
    """
    return list(map(str, problems_of(folder)))


def problems_of(folder: Place) -> list[StoreError]:
    """What :func:`verify_store` tells; a ``StoreReadError`` of what cannot be read just now."""
    try:
        manifest = read_manifest(folder)
        size_problem = _sizes_in(folder)
    except StoreError as problem:
        return [problem]
    problems: dict[str, StoreError] = {}
    for name, entry in manifest.files.items():
        file = _file(folder, name)
        try:
            problem = size_problem(name, entry) or _content_problem(file, entry)
        except StoreReadError as error:
            problems[name] = error
        else:
            if problem:
                problems[name] = StoreError(f"{file}: {problem}; {_way_out(folder)}")
    try:
        with reading(folder, StoreReadError):
            strangers = files_below(folder) - manifest.files.keys() - {MANIFEST_NAME}
    except StoreReadError as error:
        return [*(problems[name] for name in sorted(problems)), error]
    for name in strangers:
        problems[name] = StoreError(f"{folder}/{name}: not part of the store; delete this file")
    return [problems[name] for name in sorted(problems)]


def sweep(path: Path) -> None:
    """Delete what an interrupted run left beside the store ``path``."""
    for suffix in (TMP_SUFFIX, OLD_SUFFIX):
        stray = beside(path, after=suffix)
        if stray.is_symlink():
            stray.unlink()
        elif stray.is_dir():
            shutil.rmtree(stray)


def commit_folder(folder: Path, path: Path, known: Mapping[str, FileEntry]) -> None:
    """Make everything below ``folder`` durable, write its manifest, and rename it to ``path``.

    Files in ``known`` are durable already. They are listed with what was meant to be written, not
    with what is read back, so that a disk which lost some of it is found out. A store that is
    already at ``path`` is replaced. At no moment is there half a store at ``path``, also after a
    power cut.

    Raises:
        StoreError: a file in ``known`` is not there.
    """
    names = sorted(files_below(folder))
    lost = sorted(known.keys() - names)
    if lost:  # others wrote them, and this machine does not see them
        raise StoreError(f"{_file(folder, lost[0])}: was written and is gone; run again")
    with ThreadPoolExecutor(FSYNCS_AT_A_TIME) as pool:
        list(pool.map(lambda name: fsync_file(_file(folder, name)), set(names) - known.keys()))
    files = {name: known.get(name) or entry_of(_file(folder, name)) for name in names}
    with (folder / MANIFEST_NAME).open("wb") as handle:
        handle.write(Manifest(files).to_bytes())
        handle.flush()
        os.fsync(handle.fileno())
    for inner in sorted({_file(folder, name).parent for name in names} | {folder}):
        fsync_dir(inner)
    if is_there(path):
        path.rename(beside(path, after=OLD_SUFFIX))
    folder.rename(path)
    fsync_dir(path.parent)
    sweep(path)


def _file(folder: P, name: str) -> P:
    return file_below(folder, name, of=f"{folder}: file of the store")


def entry_of(file: Path) -> FileEntry:
    """What a file is now."""
    return FileEntry(file.stat().st_size, sha256_file(file))


def files_below(folder: Place) -> set[str]:
    """The files in a folder and its folders, relative to it, with ``/``.

    Raises:
        OSError: one of the folders cannot be listed; ``rglob`` would take it for an empty one.
    """
    if isinstance(folder, RemotePath):
        return set(folder.sizes())
    return {file.relative_to(folder).as_posix() for file in walk_files(folder)}


def _sizes_in(folder: Place) -> Callable[[str, FileEntry], str | None]:
    """What tells what is wrong with the size of a file of a store; None: nothing.

    Raises:
        StoreReadError: the sizes cannot be had just now; so does what is returned.
    """
    if not isinstance(folder, RemotePath):
        return lambda name, entry: _size_problem(_file(folder, name), entry)
    with reading(folder, StoreReadError):
        sizes = folder.sizes()  # all of them by one request, not one each

    def problem(name: str, entry: FileEntry) -> str | None:
        if name not in sizes:
            return "missing"
        return _of_other_size(sizes[name], entry)

    return problem


def _size_problem(file: Path, entry: FileEntry) -> str | None:
    with reading(file, StoreReadError):
        try:
            found = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
    if not stat.S_ISREG(found.st_mode):
        return "not a file"
    return _of_other_size(found.st_size, entry)


def _of_other_size(size: int, entry: FileEntry) -> str | None:
    return None if size == entry.size else f"has {size} bytes instead of {entry.size}"


def _content_problem(file: Place, entry: FileEntry) -> str | None:
    with reading(file, StoreReadError):
        digest = sha256_file(file)
    return None if digest == entry.sha256 else "its bytes have changed"


def _way_out(folder: Place) -> str:
    return f"delete {folder} and run wsi-hr tile again"


def is_ours(folder: Place) -> bool:
    """Whether ``folder`` is or was a patch store, sound or not.

    Raises:
        ReadError: it cannot be looked at just now.
    """
    with reading(folder), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
        if (folder / MANIFEST_NAME).is_file():
            return True
        return b'"wsi_hr"' in (folder / "zarr.json").read_bytes()
    return False


def _without_manifest(folder: Place) -> str:
    if not is_there(folder):
        return f"{folder}: no such patch store; run wsi-hr tile to make it"
    if not folder.is_dir():
        return f"{folder}: a file, not a patch store; give the folder that wsi-hr tile wrote"
    if is_ours(folder):
        return f"{folder}: not finished, or its {MANIFEST_NAME} is gone; {_way_out(folder)}"
    if any(
        file.is_file() for file in (folder / "zarr.json", folder / ".zgroup", folder / ".zarray")
    ):
        return (
            f"{folder}: a zarr of another program, not a patch store; "
            "run wsi-hr tile on the slides to make one"
        )
    return f"{folder}: not a patch store; run wsi-hr tile on the slides to make one"
