"""What is there. A disk that fails makes no file absent and no folder empty.

``Path.glob`` takes a folder that it cannot list for an empty one, and ``exists`` and its kin, some
of them or all by the version of Python, a file that cannot be looked at for one that is not there.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

from wsi_hr.errors import reading
from wsi_hr.file_names import P
from wsi_hr.remote import Place


def is_there(place: Place) -> bool:
    """Whether a file or folder is there; a link that leads nowhere is not.

    Raises:
        ReadError: it cannot be looked at just now.
    """
    with reading(place), suppress(FileNotFoundError, NotADirectoryError):
        if isinstance(place, Path):
            place.stat()
            return True
        return place.exists()
    return False


def read_if_there(place: Place) -> bytes | None:
    """All of a file; None: there is none.

    Raises:
        ReadError: it cannot be read just now.
    """
    with reading(place), suppress(FileNotFoundError, NotADirectoryError):
        return place.read_bytes()
    return None


def matching(folder: P, pattern: str) -> list[P]:
    """The files and folders in ``folder`` whose names match, sorted; none where it is not there.

    Raises:
        OSError: it cannot be listed.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        there = (cast(P, path) for path in folder.iterdir())
        return sorted(path for path in there if fnmatch.fnmatchcase(path.name, pattern))
    return []


def walk_files(folder: Path) -> Iterator[Path]:
    """All files and links in a folder and its folders; links are not followed.

    Raises:
        OSError: one of the folders is not there or cannot be listed.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from walk_files(path)
        else:
            yield path
