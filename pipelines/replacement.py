"""A store takes another's place: nothing finished is lost before what replaces it is finished.

From the moment a slide is known to have changed, its store is offered to nobody: it would be taken
for what the slide says now. But it is kept, in ``outdated/``, until the slide has been tiled again
or turned out to have no tissue. A slide that fails leaves it there, and if the slide becomes again
what it was (a copy that was cut short is copied once more), the store comes back as it is.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.remote_stores import (
    finish_upload,
    move_store,
    remove_store,
    sweep_unfinished,
    upload_store,
    upload_unfinished,
)
from wsi_hr.errors import StoreError, WriteError, WsiHrError, writing
from wsi_hr.file_names import beside, file_below, file_in, require_own
from wsi_hr.geometry import BoolArray
from wsi_hr.listing import is_there, matching
from wsi_hr.remote import Place, RemotePath
from wsi_hr.runtime import fsync_dir, remove_empty_folder
from wsi_hr.scratch import scratch_folder
from wsi_hr.store.manifest import (
    OLD_SUFFIX,
    TMP_SUFFIX,
    FileEntry,
    Manifest,
    commit_folder,
    entry_of,
    files_below,
    is_ours,
)
from wsi_hr.store.patch_store import STORE_SUFFIX
from wsi_hr.store.skeleton import write_valid
from wsi_hr.tiling.spans import PARTS

OUTDATED = "outdated"
ATTEMPT = ".attempt-"
_ATTEMPT = re.compile(rf"{re.escape(ATTEMPT)}[0-9a-f]{{32}}")


def outdated_path(path: Place) -> Place:
    """Where the store ``path`` is kept while it no longer says what its slide says.

    Raises:
        FileNameError: a link that leads out of the folder of stores stands there.
    """
    folder = path.parent
    aside = require_own(folder, OUTDATED) if isinstance(folder, Path) else folder / OUTDATED
    return file_in(aside, path.name, of="store")


def set_aside(path: Place) -> None:
    """Keep a store that no longer says what its slide says where nobody takes it for current.

    Raises:
        StoreError: something else than a store is there.
        WriteError: it cannot be moved.
    """
    if not is_there(path) and (isinstance(path, RemotePath) or not path.is_symlink()):
        return
    if not is_ours(path):
        if isinstance(path, Path) and _is_empty_folder(path):
            path.rmdir()
            return
        raise StoreError(
            f"{path}: exists and is not a patch store; move it or choose another output folder"
        )
    with writing(path):
        _move(path, outdated_path(path))


def bring_back(path: Place) -> None:
    """Put a store that was set aside in its place again, instead of the one there, if any.

    Raises:
        WriteError: it cannot be moved.
    """
    with writing(path):
        _move(outdated_path(path), path)


def drop_outdated(path: Place) -> None:
    """Remove what was set aside for the store ``path``; its slide has been dealt with.

    Raises:
        WriteError: it cannot be removed.
    """
    with writing(path):
        _remove(outdated_path(path))


@contextmanager
def attempt(path: Place) -> Iterator[Path]:
    """A place beside the store ``path`` that no other attempt uses; gone when this one ends.

    A worker that was given up for dead may still be writing; it must not write where others do.
    For a store behind a URL it is a folder in ``TMPDIR``, and if that is full it is named.

    Raises:
        WriteError: the folder cannot be written; messages name ``path``, not the place.
    """
    if isinstance(path, RemotePath):
        with scratch_folder() as folder, _named(folder, path, StoreError):
            yield file_in(folder, path.name, of="store")
        return
    folder = _attempt_beside(path)
    with writing(path):
        folder.mkdir()
    try:
        with _named(folder, path, StoreError, WriteError):
            yield file_in(folder, path.name, of="store")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _named(folder: Path, path: Place, *kinds: type[WsiHrError]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise type(error)(str(error).replace(str(folder), str(path.parent))) from error


def publish(written: Path, path: Place) -> None:
    """Put a finished store in its place; one that another attempt put there says the same.

    Raises:
        WriteError: it cannot be moved.
    """
    with writing(path):
        if isinstance(path, RemotePath):
            upload_store(written, path)
        else:
            _move(written, path)


def move_out(written: Path, path: Place) -> Place:
    """Take a store that is laid out away from its attempt, for others to fill it.

    Args:
        written: where it is.
        path: where it is to be when it is finished.

    Returns:
        Where it is now: until :func:`finish_store`, nobody takes it for a store.

    Raises:
        WriteError: it cannot be moved.
    """
    with writing(path):
        if isinstance(path, RemotePath):
            upload_unfinished(written, path)
            return path
        folder = _attempt_beside(path)
        folder.mkdir()
        return written.rename(file_in(folder, path.name, TMP_SUFFIX, of="store"))


def finish_store(
    folder: Place, files: Mapping[str, FileEntry], valid: Mapping[float, BoolArray], path: Place
) -> None:
    """Put a store that others have filled in its place.

    Args:
        folder: where :func:`move_out` put it.
        files: what it has, durable.
        valid: which patches bool[N] the slide gave, by mpp.
        path: where it is to be.

    Raises:
        StoreError: a file is gone.
        WriteError: the disk does not take it.
    """
    with writing(path):
        if isinstance(folder, RemotePath):
            with scratch_folder() as scratch:
                for mpp, given in valid.items():
                    write_valid(scratch, mpp, given)
                more = {
                    name: entry_of(file_below(scratch, name, of="file of a store"))
                    for name in files_below(scratch)
                }
                folder.upload_below(scratch, sorted(more))
            finish_upload(folder, Manifest({**files, **more}))
            return
        for mpp, given in valid.items():
            write_valid(folder, mpp, given)
        shutil.rmtree(folder / PARTS)
        written = file_in(folder.parent, path.name, of="store")
        commit_folder(folder, written, files)
        assert isinstance(path, Path), "as its folder is"
        _move(written, path)
        folder.parent.rmdir()


def discard_unfinished(folder: Place) -> None:
    """Remove a store that others were filling; what is left for now is swept when the run ends."""
    with suppress(OSError):
        if isinstance(folder, RemotePath):
            remove_store(folder)
        else:
            shutil.rmtree(folder.parent, ignore_errors=True)


def sweep_attempts(store: Place) -> None:
    """Remove what a killed run, or a worker given up for dead, left half-written in ``store``.

    What only looks like it, under a name that we do not give or without a store in it, is not ours.

    Raises:
        StoreError: the store is behind a URL, and the server does not answer.
        FileNameError: ``outdated`` is a link that leads out of ``store``.
        WriteError: it is empty, and cannot be removed.
    """
    if isinstance(store, RemotePath):
        for folder in (store, store / OUTDATED):
            sweep_unfinished(folder)
        with writing(store):
            (store / OUTDATED).remove_empty()
        return
    outdated = require_own(store, OUTDATED)
    for folder in (store, outdated):
        for stray in matching(folder, f"{ATTEMPT}*"):
            if _ATTEMPT.fullmatch(stray.name):
                shutil.rmtree(stray, ignore_errors=True)
    for pattern in (f"*{STORE_SUFFIX}{TMP_SUFFIX}", f"*{STORE_SUFFIX}{OLD_SUFFIX}"):
        for stray in matching(store, pattern):
            if is_ours(stray) or _is_empty_folder(stray):
                shutil.rmtree(stray, ignore_errors=True)
    remove_empty_folder(outdated)


def _move(path: Place, target: Place) -> None:
    """Move a store to where another may be."""
    if isinstance(path, RemotePath):
        assert isinstance(target, RemotePath), "both are behind one URL"
        move_store(path, target)
        return
    assert isinstance(target, Path), "both are folders"
    target.parent.mkdir(exist_ok=True)
    _remove(target)
    path.rename(target)
    fsync_dir(path.parent)
    fsync_dir(target.parent)


def _attempt_beside(path: Path) -> Path:
    return beside(path.parent / ATTEMPT, after=uuid.uuid4().hex)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _remove(path: Place) -> None:
    """Remove a store, by a rename first, so that there is never half of one."""
    if isinstance(path, RemotePath):
        remove_store(path)
    elif path.is_symlink():
        path.unlink()  # what it leads to is not ours to remove
    elif is_there(path):
        doomed = _attempt_beside(path)
        path.rename(doomed)
        shutil.rmtree(doomed)
