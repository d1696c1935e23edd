"""Randomness that any worker can reproduce; files that appear whole."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from wsi_hr.errors import writing
from wsi_hr.file_names import beside, file_in
from wsi_hr.listing import matching
from wsi_hr.remote import Place, RemotePath
from wsi_hr.scratch import scratch_folder, temporary_folder

_TEMPORARY = ".wsi-hr.tmp"


def rng_for(*key: int | str) -> np.random.Generator:
    """A generator that depends on ``key`` alone, e.g. ``rng_for(seed, epoch, slide_id, "drop")``.

    The key is hashed (SHA-256, not Python's salted ``hash``), so every process on every machine,
    and every resumed run, draws the same numbers.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def seed_for(*key: int | str) -> int:
    """A 63-bit seed for libraries that want an int (torch), drawn as :func:`rng_for` draws."""
    return int(rng_for(*key).integers(2**63 - 1))


@contextmanager
def atomic_path(path: Place) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success fsync it and rename it into place.

    Where ``path`` is a URL, the temporary name is a local one, and its content is uploaded.

    A reader sees the old file or the new one, never a half-written one, also after a power cut.
    The temporary name is :func:`temporary_name`'s, so a killed run leaves at most one stray a file,
    which the next run into the folder sweeps.

    Raises:
        WriteError: the disk or the server does not take it.
    """
    if isinstance(path, RemotePath):
        with writing(temporary_folder()), scratch_folder() as folder:
            written = file_in(folder, path.name, of="file")
            yield written
            with writing(path):
                path.upload(written)
        return
    tmp = temporary_name(path)
    with writing(path):
        if tmp.is_symlink():
            tmp.unlink()  # not ours: what it leads to would be written over
        try:
            yield tmp
            fsync_file(tmp)
            tmp.replace(path)
            fsync_dir(path.parent)
        finally:
            tmp.unlink(missing_ok=True)


def write_text_atomic(path: Place, text: str) -> None:
    """Write UTF-8 ``text`` to ``path`` whole or not at all.

    Raises:
        WriteError: the disk or the server does not take it.
    """
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8", newline="")


def temporary_name(path: Path) -> Path:
    """Under which name ``path`` is written before it is renamed; nothing else is called so."""
    return beside(path, ".", _TEMPORARY)


def sweep_temporaries(folder: Path) -> None:
    """Remove the files, and folders, that killed runs had begun to write in ``folder``.

    Whoever calls it holds the folder, so that no other run is writing there.

    Raises:
        WriteError: one cannot be removed.
    """
    with writing(folder):
        strays = matching(folder, f".*{_TEMPORARY}")
    for stray in strays:
        with writing(stray):
            if stray.is_dir() and not stray.is_symlink():
                shutil.rmtree(stray)
            else:
                stray.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder of ours with all that is in it, if it is there.

    Raises:
        WriteError: it cannot be removed.
    """
    with writing(folder), suppress(FileNotFoundError):
        shutil.rmtree(folder)


def remove_empty_folder(folder: Path) -> None:
    """Remove a folder if it is there and holds nothing.

    Raises:
        WriteError: it cannot be removed.
    """
    with writing(folder):
        try:
            folder.rmdir()
        except OSError as cause:
            if cause.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise


def fsync_file(path: Path) -> None:
    """Make what was written to a file durable."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def fsync_dir(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Place) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
