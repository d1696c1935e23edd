"""One store into one export, which exists whole or not at all and says what it was made from.

An export of one file (coordinates) says so in an attribute, one of many files in ``export.json``.
That is how a finished one is told from an older one, and ours from somebody else's files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from wsi_hr import __version__
from wsi_hr.errors import StoreError, writing
from wsi_hr.exchange.coords_h5 import read_notes
from wsi_hr.exchange.coords_out import clam_place, trident_place, write_clam, write_trident
from wsi_hr.exchange.patch_files import write_folder
from wsi_hr.exchange.webdataset import write_webdataset
from wsi_hr.file_names import beside, file_in, require_own
from wsi_hr.listing import is_there
from wsi_hr.runtime import (
    atomic_path,
    fsync_dir,
    sha256_file,
    temporary_name,
    write_text_atomic,
)
from wsi_hr.store.manifest import MANIFEST_NAME
from wsi_hr.store.patch_store import PatchStore

NOTE_NAME = "export.json"
_ATTRIBUTE = "wsi_hr"

CoordsWriter = Callable[[PatchStore, Path, dict[str, str]], None]
FolderWriter = Callable[[PatchStore, Path], None]


@dataclass(frozen=True)
class ToFile:
    """An export of one HDF5 file: where it goes below the output folder, and who writes it."""

    place: Callable[[PatchStore], PurePath]
    write: CoordsWriter


@dataclass(frozen=True)
class ToFolder:
    """An export of a folder named after the slide, and who fills it.

    Attributes:
        write: fills the folder.
        revision: goes up when it fills it with something else; what an earlier one left is made
            again.
    """

    write: FolderWriter
    revision: int = 1


FORMATS: dict[str, ToFile | ToFolder] = {
    "clam": ToFile(clam_place, write_clam),
    "trident": ToFile(trident_place, write_trident),
    "webdataset": ToFolder(write_webdataset, revision=2),  # 1 copied what JPEG holds beside pixels
    "png": ToFolder(partial(write_folder, kind="png")),
    "jpeg": ToFolder(partial(write_folder, kind="jpg"), revision=2),  # as above
}


@dataclass(frozen=True)
class Exported:
    """What became of one store.

    Attributes:
        path: the file or folder.
        num_patches: patches in it; those the slide did not give are left out.
        kept: it was there already, made from the same store.
    """

    path: Path
    num_patches: int
    kept: bool


def export_store(store: PatchStore, out: Path, form: str) -> Exported:
    """Write a store in another program's form; an export that is there already is kept.

    Args:
        store: the slide.
        out: output folder, shared by the exports of all slides.
        form: one of :data:`FORMATS`.

    Raises:
        StoreError: the store is damaged or has no readable patch, the form cannot express it, or
            something that is no such export stands where it would go.
        WriteError: the disk does not take it.
    """
    target = FORMATS[form]
    num_patches = int(np.count_nonzero(store.valid))
    if not num_patches:
        raise StoreError(
            f"{store.path}: none of its patches could be read from the slide; leave it out, or "
            "mend the slide and run wsi-hr tile again"
        )
    place = _place(store, out, target)
    note = {
        "wsi_hr_version": __version__,
        "format": form,
        "slide_id": store.slide_id,
        "num_patches": num_patches,
        "patch_px": store.info.tile.patch_size,
        "mpp": store.info.tile.mpp,
        "store_sha256": sha256_file(store.path / MANIFEST_NAME),  # it has those of all files
    }
    if isinstance(target, ToFolder) and target.revision > 1:
        note["revision"] = target.revision
    found = _note_of(place)
    if found is None and (is_there(place) or place.is_symlink()):
        raise StoreError(
            f"{place}: exists and is no finished export; move it or choose another output folder"
        )
    if found is not None and found.get("format") != form:
        raise StoreError(
            f"{place}: is the export as {found.get('format')}; choose another output folder"
        )
    if found is not None and found.get("mpp") != note["mpp"]:
        raise StoreError(
            f"{place}: is the export of the patches at {found.get('mpp')} um/px; choose another "
            "output folder"
        )
    if found is not None and note.items() <= found.items() and _is_whole(place, found):
        return Exported(place, num_patches, kept=True)
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(target, ToFile):
        with atomic_path(place) as path:
            target.write(store, path, {_ATTRIBUTE: json.dumps(note)})
    else:
        with _atomic_folder(place) as folder:
            target.write(store, folder)
            held = {"num_files": len(list(folder.iterdir())), "num_bytes": _bytes_in(folder)}
            write_text_atomic(folder / NOTE_NAME, json.dumps({**note, **held}, indent=1) + "\n")
    return Exported(place, num_patches, kept=False)


def _place(store: PatchStore, out: Path, target: ToFile | ToFolder) -> Path:
    """Where an export goes, in folders of the output folder that are its own."""
    if isinstance(target, ToFolder):
        return file_in(out, store.slide_id, of="slide id")
    *folders, name = target.place(store).parts
    for folder in folders:
        out = require_own(out, folder)
    return file_in(out, name, of="slide id")


def _note_of(place: Path) -> dict[str, Any] | None:
    """What an export says it was made from; None: there is none of ours.

    Raises:
        StoreError: it is there and cannot be read just now.
    """
    try:
        if place.is_dir():
            note = json.loads((place / NOTE_NAME).read_bytes())
        else:
            note = json.loads(read_notes(place)[_ATTRIBUTE])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    except OSError as cause:
        raise StoreError(
            f"{place}: cannot be read ({cause.strerror}); see that the disk is there and lets you, "
            "or choose another output folder"
        ) from cause
    return note if isinstance(note, dict) and "format" in note else None


def _is_whole(place: Path, note: dict[str, Any]) -> bool:
    """Whether no file of a folder was lost or cut; an HDF5 file that opens is."""
    if not place.is_dir():
        return True
    count = sum(1 for _ in place.iterdir()) - 1
    return (count, _bytes_in(place)) == (note.get("num_files"), note.get("num_bytes"))


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in os.scandir(folder) if file.name != NOTE_NAME)


@contextmanager
def _atomic_folder(place: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``place`` that takes its place on success.

    Files are not flushed one by one: of one that a power cut loses or shortens, :func:`_is_whole`
    tells, and the export is made again.
    """
    fresh, old = temporary_name(place), temporary_name(beside(place, after=".old"))
    for stray in (fresh, old):
        shutil.rmtree(stray, ignore_errors=True)
    with writing(place):
        fresh.mkdir()
        try:
            yield fresh
            if is_there(place):
                place.rename(old)
            fresh.rename(place)
            fsync_dir(place.parent)
        finally:
            for stray in (fresh, old):
                shutil.rmtree(stray, ignore_errors=True)
