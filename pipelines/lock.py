"""One run per output folder. The kernel holds the lock, so a killed run never leaves it closed.

Behind a URL there is no kernel and no lock: the file only says who is at work, or was when killed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi_hr.errors import StoreError
from wsi_hr.remote import Place, RemotePath
from wsi_hr.runtime import write_text_atomic

logger = logging.getLogger(__name__)

LOCK_FILE = ".run-lock"

_URL = re.compile(r"[a-z][a-z0-9+.]+:/")  # as it looks after Path has made one slash of two
_HELD = (errno.EAGAIN, errno.EACCES)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def run_lock(folder: Place) -> Iterator[None]:
    """Make ``folder`` if need be and hold it for this run.

    The lock file says who holds it; a file left by a run that was killed is taken over.

    Raises:
        StoreError: another run holds the folder, or it cannot be written.
    """
    if isinstance(folder, RemotePath):
        with _remote_note(folder):
            yield
        return
    if _URL.match(str(folder)):
        raise StoreError(
            f"{folder}: looks like a URL, and only wsi-hr tile writes to one; choose a folder, "
            "e.g. where the remote storage is mounted"
        )
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _acquire(path)
    except FileExistsError as cause:
        raise StoreError(f"{folder}: a file, not a folder; choose another output folder") from cause
    except OSError as cause:
        raise StoreError(
            f"{folder}: cannot be written ({cause.strerror}); choose another output folder"
        ) from cause
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def _remote_note(folder: RemotePath) -> Iterator[None]:
    """Say in the folder who works there, as long as that is so.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        with suppress(FileNotFoundError):
            logger.warning(
                "%s: another run works there (%s), or was killed; two at the same time disturb "
                "each other, and nothing here can tell",
                folder,
                path.read_text().strip(),
            )
        write_text_atomic(path, _holder())
    except OSError as cause:
        raise StoreError(
            f"{folder}: cannot be written ({cause.strerror}); see that the server is there and "
            "lets you, or choose another output folder"
        ) from cause
    try:
        yield
    finally:
        with suppress(OSError):  # the run is over; what counts has been written
            path.unlink(missing_ok=True)


def _holder() -> str:
    return f"host {socket.gethostname()}, pid {os.getpid()}\n"


def _acquire(path: Path) -> int:
    """An open file descriptor that holds the lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
            os.close(handle)
            if cause.errno in _HELD:
                raise StoreError(
                    f"{path.parent}: another run works here ({holder or 'just started'}); wait "
                    "for it, stop it, or choose another output folder"
                ) from cause
            if cause.errno not in _UNSUPPORTED:
                raise
            logger.warning("%s: this file system has no locks; start no second run", path.parent)
            handle = os.open(path, os.O_RDWR)
        if _is_still(path, handle):
            os.ftruncate(handle, 0)
            os.pwrite(handle, _holder().encode(), 0)
            return handle
        # The holder unlinked the file between our open and our lock: this one is nobody's.
        os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
