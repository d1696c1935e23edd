"""What is in a folder. ``Path.glob`` takes a folder that it cannot list for an empty one."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

from wsi_hr.file_names import P


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
