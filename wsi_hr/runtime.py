"""Randomness that any worker can reproduce, and files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


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
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success fsync it and rename it into place.

    A reader sees the old file or the new one, never a half-written one, also after a power cut.
    The temporary name is fixed (``.<name>.tmp``), so a killed run leaves at most one stray, which
    the next run overwrites.
    """
    tmp = path.with_name(f".{path.name}.tmp")
    try:
        yield tmp
        fsync_file(tmp)
        tmp.replace(path)
        fsync_dir(path.parent)
    finally:
        tmp.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` to ``path`` whole or not at all."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8", newline="")


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


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
