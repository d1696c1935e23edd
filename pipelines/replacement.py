"""A store takes another's place: nothing finished is lost before what replaces it is finished.

From the moment a slide is known to have changed, its store is offered to nobody: it would be taken
for what the slide says now. But it is kept, in ``outdated/``, until the slide has been tiled again
or turned out to have no tissue. A slide that fails leaves it there, and if the slide becomes again
what it was (a copy that was cut short is copied once more), the store comes back as it is.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi_hr.errors import StoreError
from wsi_hr.runtime import fsync_dir
from wsi_hr.store.manifest import is_ours
from wsi_hr.store.patch_store import STORE_SUFFIX

OUTDATED = "outdated"
ATTEMPT = ".attempt-"


def outdated_path(path: Path) -> Path:
    """Where the store ``path`` is kept while it no longer says what its slide says."""
    return path.parent / OUTDATED / path.name


def set_aside(path: Path) -> None:
    """Keep a store that no longer says what its slide says where nobody takes it for current.

    Raises:
        StoreError: something else than a store is there, or it cannot be moved.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not is_ours(path):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
            return
        raise StoreError(
            f"{path}: exists and is not a patch store; move it or choose another output folder"
        )
    kept = outdated_path(path)
    with _mendable_errors(path):
        kept.parent.mkdir(exist_ok=True)
        _remove(kept)
        path.rename(kept)
        fsync_dir(path.parent)


def bring_back(path: Path) -> None:
    """Put a store that was set aside in its place again, instead of the one there, if any.

    Raises:
        StoreError: it cannot be moved.
    """
    with _mendable_errors(path):
        _remove(path)
        outdated_path(path).rename(path)
        fsync_dir(path.parent)


def drop_outdated(path: Path) -> None:
    """Remove what was set aside for the store ``path``; its slide has been dealt with."""
    _remove(outdated_path(path))


@contextmanager
def attempt(path: Path) -> Iterator[Path]:
    """A place beside the store ``path`` that no other attempt uses; gone when this one ends.

    Raises:
        StoreError: the folder cannot be written; messages name ``path``, not the place.
    """
    folder = path.with_name(f"{ATTEMPT}{uuid.uuid4().hex}")
    with _mendable_errors(path):
        folder.mkdir()
    try:
        yield folder / path.name
    except StoreError as error:
        raise StoreError(str(error).replace(f"{folder}/", f"{path.parent}/")) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(written: Path, path: Path) -> None:
    """Rename a finished store to its place; one that another attempt put there says the same.

    Raises:
        StoreError: it cannot be moved.
    """
    with _mendable_errors(path):
        _remove(path)
        written.rename(path)
        fsync_dir(path.parent)


def sweep_attempts(store: Path) -> None:
    """Remove what a killed run, or a worker given up for dead, left half-written in ``store``."""
    patterns = (
        f"{ATTEMPT}*",
        f"{OUTDATED}/{ATTEMPT}*",
        f"*{STORE_SUFFIX}.tmp",
        f"*{STORE_SUFFIX}.old",
    )
    for pattern in patterns:
        for stray in store.glob(pattern):
            shutil.rmtree(stray, ignore_errors=True)
    with suppress(OSError):  # absent, or not empty
        (store / OUTDATED).rmdir()


def _remove(path: Path) -> None:
    """Remove a store, by a rename first, so that there is never half of one."""
    if path.exists():
        doomed = path.with_name(f"{ATTEMPT}{uuid.uuid4().hex}")
        path.rename(doomed)
        shutil.rmtree(doomed)


@contextmanager
def _mendable_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise StoreError(
            f"{path}: cannot be written ({cause.strerror}); see that the output folder has space "
            "and may be written, then run again"
        ) from cause
