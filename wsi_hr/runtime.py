"""Randomness that any worker can reproduce; files that appear whole; folders that do not stay."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from wsi_hr.remote import Place, RemotePath

_SCRATCH = "wsi-hr-scratch-"


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
    The temporary name is fixed (``.<name>.tmp``), so a killed run leaves at most one stray, which
    the next run overwrites.
    """
    if isinstance(path, RemotePath):
        with scratch_folder() as folder:
            yield folder / path.name
            path.upload(folder / path.name)
        return
    tmp = path.with_name(f".{path.name}.tmp")
    try:
        yield tmp
        fsync_file(tmp)
        tmp.replace(path)
        fsync_dir(path.parent)
    finally:
        tmp.unlink(missing_ok=True)


def write_text_atomic(path: Place, text: str) -> None:
    """Write UTF-8 ``text`` to ``path`` whole or not at all."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8", newline="")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder in ``TMPDIR`` that is gone afterwards.

    The process holds a lock on it as long as it lives, so the folders that killed processes left
    are known, and removed here.
    """
    for stray in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with suppress(OSError):  # somebody works there, or it is not ours to look at
            os.close(_locked(stray, remove=True))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
        with suppress(OSError):  # another process took it for a stray before it was locked
            handle = _locked(folder)
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _locked(folder: Path, *, remove: bool = False) -> int:
    """A descriptor that holds the lock on a scratch folder, which may be removed under it.

    Raises:
        OSError: another process holds it, or the folder is gone.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()
        if remove:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        os.close(handle)
        raise
    return handle


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
