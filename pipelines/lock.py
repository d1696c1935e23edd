"""One run per output folder. The kernel holds the lock, so a killed run never leaves it closed.

Where a file system has no locks, the lock file names its process, and a run is refused only if that
one lives on this machine. Behind a URL it only says who is at work, or was when killed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi_hr.errors import StoreError, reading, writing
from wsi_hr.listing import is_there, matching
from wsi_hr.living import lives, this_process
from wsi_hr.remote import Place, RemotePath
from wsi_hr.runtime import sweep_temporaries

logger = logging.getLogger(__name__)

LOCK_FILE = ".run-lock"

_URL = re.compile(r"[a-z][a-z0-9+.]+:/")  # as it looks after Path has made one slash of two
_HELD = (errno.EAGAIN, errno.EACCES)
_FAILS = (  # of the disk or the machine: another folder is no way out
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT),
)
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW  # no link is a lock of ours
_TRIES = 100  # each is lost to a run that ends in the same moment


@contextmanager
def run_lock(folder: Place, *inner: str) -> Iterator[None]:
    """Make ``folder`` if need be and hold it for this run.

    The lock file says who holds it; a file left by a run that was killed is taken over, and what
    it had begun to write is swept. A folder that was made here is gone again if nothing was written
    into it.

    Args:
        folder: where the run writes.
        inner: patterns of folders in it that it writes files to.

    Raises:
        StoreError: another run holds the folder, or nobody could write there.
        WriteError: the disk is full or fails.
        ReadError: who holds it cannot be read.
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
    made: list[Path] = []
    try:
        with writing(folder), _choose_another(folder):
            handle = _acquire(folder, made)
        try:
            for place in (folder, *_inside(folder, inner)):
                if place.resolve().is_relative_to(folder.resolve()):  # no link leads out
                    sweep_temporaries(place)
            yield
        finally:
            (folder / LOCK_FILE).unlink(missing_ok=True)
            os.close(handle)
    finally:
        for empty in made:
            with suppress(OSError):  # it is not empty
                empty.rmdir()


def _inside(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """The folders in ``folder`` that patterns with slashes name; links are not followed."""
    for pattern in patterns:
        first, _, rest = pattern.partition("/")
        for place in matching(folder, first):
            if not rest:
                yield place
            elif not place.is_symlink():
                yield from _inside(place, [rest])


@contextmanager
def _choose_another(folder: Path) -> Iterator[None]:
    """Tell of what is wrong with the folder itself, not with its disk."""
    try:
        yield
    except FileExistsError as cause:
        raise StoreError(f"{folder}: a file, not a folder; choose another output folder") from cause
    except OSError as cause:
        if cause.errno in _FAILS:
            raise
        raise StoreError(
            f"{folder}: cannot be written ({cause.strerror}); choose another output folder"
        ) from cause


@contextmanager
def _remote_note(folder: RemotePath) -> Iterator[None]:
    """Say in the folder who works there, as long as that is so.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        with reading(path), suppress(FileNotFoundError):
            logger.warning(
                "%s: another run works there (%s), or was killed; two at the same time disturb "
                "each other, and nothing here can tell",
                folder,
                path.read_text().partition("\n")[0],
            )
        path.write_bytes(_holder().encode())
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
    return f"host {socket.gethostname()}, pid {os.getpid()}\n{this_process()}\n"


def _acquire(folder: Path, made: list[Path]) -> int:
    """An open file descriptor that holds the lock.

    Args:
        folder: made if need be.
        made: gets the folders that were made, innermost first.

    Raises:
        StoreError: another run holds it.
        OSError: it cannot be written.
    """
    path = folder / LOCK_FILE
    for _ in range(_TRIES):
        made += [each for each in (folder, *folder.parents) if not (each in made or is_there(each))]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, _OPEN, 0o666)
        except FileNotFoundError:  # the run that had made the folder has just removed it
            continue
        try:
            _lock(folder, handle)
            if _is_still(path, handle):
                _sign(path, handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        # The holder unlinked the file between our open and our lock: this one is nobody's.
        os.close(handle)
    raise StoreError(
        f"{path}: is another file whenever it is looked at, so that no run can hold {folder}; "
        "choose an output folder on another file system"
    )


def _lock(folder: Path, handle: int) -> None:
    """Lock the lock file; where that cannot be done, see that no run of this machine is there.

    Raises:
        StoreError: another run works there.
    """
    with reading(folder / LOCK_FILE):
        said = os.pread(handle, 300, 0)
    holder, _, process = said.decode("utf-8", "replace").partition("\n")
    refused = StoreError(
        f"{folder}: another run works here ({holder or 'just started'}); wait for it, stop it, or "
        "choose another output folder"
    )
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        if cause.errno in _HELD:
            raise refused from cause
        alive = lives(process.strip())
        if alive:
            raise refused from cause
        note = "start no second run on another machine"
        if holder and alive is None:
            note = f"a run on another machine ({holder}) works there, or was killed: see which"
        logger.warning("%s: cannot be locked (%s); %s", folder, cause.strerror, note)


def _sign(path: Path, handle: int) -> None:
    """Say in the lock file who holds it.

    Raises:
        OSError: the disk does not take it; the file is gone then.
    """
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, _holder().encode(), 0)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
