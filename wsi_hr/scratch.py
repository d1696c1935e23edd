"""Folders that do not stay: gone when their process ends, or else when the next one comes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi_hr.errors import writing
from wsi_hr.listing import matching
from wsi_hr.living import kernel, lives, this_process

_LOCKED, _UNLOCKED = "wsi-hr-scratch-", "wsi-hr-unlocked-"
_TRIES = 3  # another process may take a new folder for a stray before it is locked
_NAME = re.compile(rf"(?:{_LOCKED}[0-9a-f]+|{_UNLOCKED}([0-9a-f]+-\d+-\d+-\d+))-\w{{8}}")


def temporary_folder() -> Path:
    """``TMPDIR``, or what the machine has in its place.

    Raises:
        WriteError: there is none that can be written.
    """
    with writing("TMPDIR"):
        return Path(tempfile.gettempdir())


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder in ``TMPDIR`` that is gone afterwards.

    The process holds a lock on it as long as it lives, so the folders that killed processes left
    are known, and removed here. Where the file system has no locks, the folder is named after its
    process instead. What a process on another machine left, or on this one before it was booted,
    stays: whether that process is gone cannot be known here.

    Raises:
        WriteError: ``TMPDIR`` cannot be written.
    """
    top = temporary_folder()
    _sweep(top)
    with writing(top):
        folder, lock = _made(top)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def has_locks(folder: Path) -> bool:
    """Whether the file system of ``folder`` lets a process lock a folder; found by trying.

    Raises:
        OSError: ``folder`` cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=_LOCKED) as tried:
        try:
            os.close(_locked(Path(tried)))
        except OSError:
            return False
    return True


def _made(top: Path) -> tuple[Path, int | None]:
    """A new folder and the descriptor that holds its lock; None: it has none."""
    for _ in range(_TRIES):
        folder = Path(tempfile.mkdtemp(prefix=f"{_LOCKED}{kernel()}-", dir=top))
        try:
            return folder, _locked(folder)
        except OSError:  # no locks here, or taken for a stray
            with suppress(OSError):
                folder.rmdir()
    return Path(tempfile.mkdtemp(prefix=f"{_UNLOCKED}{this_process()}-", dir=top)), None


def _sweep(top: Path) -> None:
    """Remove what killed processes left, as far as it is certain that they are gone.

    A lock says so only of processes of this kernel: some file systems lock per machine.
    """
    for stray in matching(top, "wsi-hr-*"):
        found = _NAME.fullmatch(stray.name)
        if found is None:
            continue
        if found[1] is not None:
            if lives(found[1]) is False:
                shutil.rmtree(stray, ignore_errors=True)
        elif stray.name.startswith(f"{_LOCKED}{kernel()}-"):
            with suppress(OSError):  # somebody works there, or it is not ours to look at
                os.close(_locked(stray, remove=True))


def _locked(folder: Path, *, remove: bool = False) -> int:
    """A descriptor that holds the lock on a scratch folder, which may be removed under it.

    Raises:
        OSError: another process holds it, the folder is gone, or there are no locks.
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
