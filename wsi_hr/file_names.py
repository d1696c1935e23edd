"""Names that come from data, made into paths here and nowhere else, so that none leaves its folder.

A slide's id, the name of a store's file or of a class may come from a table, an archive or a slide
that somebody else made. Only a plain name becomes a file: not ``../../x``, not ``/etc/x``, none
that holds a control character, and none that begins with a dot, as our own temporary files do.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from wsi_hr.errors import FileNameError, writing

if TYPE_CHECKING:
    from wsi_hr.remote import Place

P = TypeVar("P", bound="Place")

_SEPARATORS = "/\\"  # the latter on shares and in archives that other systems read
_UNSAFE_CATEGORIES = {
    "Cc": "a control character",
    "Cs": "bytes of no encoding",
    "Zl": "a line break",
    "Zp": "a line break",
}
_MOST_BYTES = 239  # a file system takes 255, and temporary names are longer
_CHAIN = "::"  # of URLs: what follows would be taken for another one


def name_problem(name: object, suffix: str = "") -> str | None:
    """Why ``name`` with ``suffix`` behind it is no name for a file, as a clause; None: it is one.

    Args:
        name: what was read; anything but text is refused too.
        suffix: ours, a constant.
    """
    if not isinstance(name, str):
        return "is no text"
    if not name:
        return "is empty"
    if any(separator in name for separator in _SEPARATORS):
        return "holds a separator of folders"
    if name.startswith("."):
        return "begins with a dot"
    if not name.isprintable():
        found = {unicodedata.category(character) for character in name} & _UNSAFE_CATEGORIES.keys()
        if found:
            return f"holds {_UNSAFE_CATEGORIES[min(found)]}"
    if len(os.fsencode(name)) + len(suffix) > _MOST_BYTES:
        return f"is longer than {_MOST_BYTES - len(suffix)} bytes"
    return None


def plain_name(text: str) -> str:
    """``text`` with what no file name may hold replaced, for names that are ours to choose."""
    safe = "".join(
        "_"
        if character in _SEPARATORS or unicodedata.category(character) in _UNSAFE_CATEGORIES
        else character
        for character in text
    )
    return f"_{safe}" if not safe or safe.startswith(".") else safe


def file_name(name: str, suffix: str = "", *, of: str) -> str:
    """``name`` and ``suffix``, where that is a plain name.

    Args:
        name: from data.
        suffix: ours, a constant.
        of: what the name is of and where it was read, for the message: ``slide id in x/qc.csv``.

    Raises:
        FileNameError: it is not.
    """
    problem = name_problem(name, suffix)
    if problem is not None:
        shown = name if len(name) <= _MOST_BYTES else f"{name[:_MOST_BYTES]}..."
        raise FileNameError(
            f"{of} {shown!r}: {problem}, so no file can be named after it; give it a plain name"
        )
    return f"{name}{suffix}"


def file_in(folder: P, name: str, suffix: str = "", *, of: str) -> P:
    """The file or folder ``name`` with ``suffix`` in ``folder``; arguments as :func:`file_name`'s.

    Raises:
        FileNameError: the name is not plain, or would change the URL that the folder is.
    """
    whole = file_name(name, suffix, of=of)
    if _CHAIN in whole and not isinstance(folder, Path):
        raise FileNameError(f"{of} {name!r}: holds {_CHAIN}, which splits URLs; rename it")
    return cast(P, folder / whole)


def file_below(folder: P, name: str, *, of: str) -> P:
    """The file ``name`` of a folder and its folders, relative to it, with ``/`` between.

    Raises:
        FileNameError: a part of the name is not plain.
    """
    for part in name.split("/"):
        folder = file_in(folder, part, of=of)
    return folder


def beside(path: P, before: str = "", after: str = "") -> P:
    """What is named as ``path``, with constants of ours before and after, in the same folder."""
    return cast(P, path.parent / f"{before}{path.name}{after}")


def own_folder(folder: Path, name: str) -> Path:
    """Make the folder ``name`` in an output folder, where it is not there yet.

    Raises:
        FileNameError: see :func:`require_own`.
        WriteError: it cannot be made.
    """
    inner = require_own(folder, name)
    with writing(inner):
        inner.mkdir(parents=True, exist_ok=True)
    return inner


def require_own(folder: Path, name: str) -> Path:
    """Where the folder ``name`` of an output folder is, or would be.

    Raises:
        FileNameError: a link that leads out of the output folder stands there: what is written and
            removed in it would be somebody else's.
    """
    inner = file_in(folder, name, of="folder")
    if inner.is_symlink() and not inner.resolve().is_relative_to(folder.resolve()):
        raise FileNameError(
            f"{inner}: is a link that leads out of {folder}; remove it, or choose another output "
            "folder"
        )
    return inner
