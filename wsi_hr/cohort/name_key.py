"""Names of slides and patients as salted hashes, and the one file that tells them back.

An id is a keyed hash (HMAC-SHA-256) of the name with a secret salt: the same name gives the same id
as long as the salt is the same, and without the salt no list of likely names can be tried out.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wsi_hr.cohort.table import read_table, write_table
from wsi_hr.errors import ConfigError, LabelError, writing
from wsi_hr.listing import is_there
from wsi_hr.runtime import temporary_name

logger = logging.getLogger(__name__)

KEY_COLUMNS = ("kind", "id", "name", "path")
SALT, SLIDE, PATIENT = "salt", "slide", "patient"

_SALT_BYTES = 32
_ID_CHARACTERS = 12  # 60 bits: of 20,000 slides two share an id once in 5e9 keys
_INITIALS = {SALT: "k", SLIDE: "s", PATIENT: "p"}  # an id is no number to a spreadsheet


@dataclass(frozen=True)
class _Named:
    """What an id stands for; ``path`` is empty of a patient."""

    name: str
    path: str


class NameKey:
    """The salt and what ids stand for, as a key file has them.

    Args:
        path: of the key file.
        salt: secret, 32 bytes.
    """

    def __init__(self, path: Path, salt: bytes) -> None:
        self.path = path
        self._salt = salt
        self._named: dict[tuple[str, str], _Named] = {}

    @classmethod
    def open(cls, path: Path, *, new: bool = False) -> Self:
        """Read a key file.

        Args:
            path: of it.
            new: where there is none, a key with a salt of its own begins; nothing is written.

        Raises:
            ConfigError: there is none, or it is damaged.
        """
        if not is_there(path):
            if not new:
                raise ConfigError(
                    f"--hash-names {path}: no such file; give the key file that the slides were "
                    "tiled with"
                )
            return cls(path, secrets.token_bytes(_SALT_BYTES))
        return cls._read(path)

    @property
    def fingerprint(self) -> str:
        """Tells one salt from another, and nothing else of it."""
        return self._hash(SALT, "")

    def slide_id(self, name: str, path: Path) -> str:
        """The id of a slide.

        Args:
            name: the id that its file would give it.
            path: of its file.

        Raises:
            ConfigError: another name has that id.
        """
        return self._add(SLIDE, name, _text(str(path.absolute())))

    def patient_id(self, name: str) -> str:
        """The id of a patient.

        Raises:
            ConfigError: another name has that id.
        """
        return self._add(PATIENT, name, "")

    def slide_names(self, slide_ids: Iterable[str]) -> dict[str, str]:
        """The names of slides by id; one that the key does not know keeps its id."""
        named = {slide_id: self._named.get((SLIDE, slide_id)) for slide_id in slide_ids}
        return {slide_id: found.name if found else slide_id for slide_id, found in named.items()}

    def save(self) -> None:
        """Write the key file, readable by its owner only, with what other runs added meanwhile.

        Raises:
            ConfigError: another run made a key file there meanwhile.
            OSError: it cannot be written.
        """
        with _alone(self.path.parent):
            with writing(self.path):  # a run that was killed here left its salt and names
                temporary_name(self.path).unlink(missing_ok=True)
            there: dict[tuple[str, str], _Named] = {}
            if is_there(self.path):
                other = self._read(self.path)
                if other.fingerprint != self.fingerprint:
                    raise ConfigError(
                        f"--hash-names {self.path}: another run made a key file there meanwhile; "
                        "start the same command again"
                    )
                there = other._named
            self._named = there | self._named
            if not there or self._named != there:
                write_table(self.path, KEY_COLUMNS, self._rows(), private=True)

    def _rows(self) -> Iterator[dict[str, str]]:
        salt = base64.b32encode(self._salt).decode()
        yield {"kind": SALT, "id": self.fingerprint, "name": salt, "path": ""}
        for (kind, hashed), named in sorted(self._named.items()):
            yield {"kind": kind, "id": hashed, "name": named.name, "path": named.path}

    @classmethod
    def _read(cls, path: Path) -> Self:
        try:
            table = read_table(path)
        except LabelError as cause:
            raise ConfigError(f"--hash-names {cause}") from cause
        rows = table.rows if table.columns == KEY_COLUMNS else []
        salts = [row for row in rows if row["kind"] == SALT]
        if len(salts) != 1:
            raise ConfigError(
                f"--hash-names {path}: is no key file of wsi-hr, which has one row with the salt; "
                "give the one that the slides were tiled with, or the name of a new file"
            )
        with suppress(OSError):
            if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                logger.warning("%s: others may read it; chmod 600 keeps the names secret", path)
        key = cls(path, _salt_in(salts[0]["name"]))
        for index, row in enumerate(rows):
            name = "" if row["kind"] == SALT else row["name"]
            if row["kind"] not in _INITIALS or key._hash(row["kind"], name) != row["id"]:
                raise ConfigError(
                    f"--hash-names {path}, line {table.line_of(index)}: id and name do not belong "
                    "together, so it was changed, as spreadsheets do; restore the file"
                )
            if row["kind"] != SALT:
                key._named[row["kind"], row["id"]] = _Named(name, row["path"])
        return key

    def _add(self, kind: str, name: str, path: str) -> str:
        name = _text(name)
        hashed = self._hash(kind, name)
        known = self._named.get((kind, hashed))
        if known is not None and known.name != name:
            raise ConfigError(
                f"--hash-names {self.path}: {known.name!r} and {name!r} would both be {hashed}, "
                "which happens once in a thousand million times; use a new key file"
            )
        self._named[kind, hashed] = _Named(name, path)
        return hashed

    def _hash(self, kind: str, name: str) -> str:
        digest = hmac.new(self._salt, f"{kind}:{name}".encode(), hashlib.sha256).digest()
        return _INITIALS[kind] + base64.b32encode(digest).decode().lower()[:_ID_CHARACTERS]


def is_hashed_id(slide_id: str) -> bool:
    """Whether an id looks like one that a key made."""
    initial, characters = slide_id[:1], slide_id[1:]
    letters = set("abcdefghijklmnopqrstuvwxyz234567")
    return (
        initial == _INITIALS[SLIDE]
        and len(characters) == _ID_CHARACTERS
        and letters >= {*characters}
    )


def _text(name: str) -> str:
    """A name as a table can hold it, and in the one form that all systems agree on."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _salt_in(cell: str) -> bytes:
    """The salt of a cell; one that no row agrees with if the cell is damaged."""
    try:
        return base64.b32decode(cell)
    except (binascii.Error, ValueError):
        return b""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other runs from writing key files in ``folder`` for the moment that this one takes."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks: the key is still written whole
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
