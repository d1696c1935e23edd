"""The files a slide consists of, and whether they are still the same ones."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wsi_hr.errors import SlideError
from wsi_hr.file_names import file_in, name_problem
from wsi_hr.listing import walk_files
from wsi_hr.runtime import sha256_file
from wsi_hr.slides.content import unreadable
from wsi_hr.slides.dicom_series import DICOM_SUFFIXES, series_members

_EDGE_BYTES = 1 << 16


class FileStamp(NamedTuple):
    """What changes when a file is replaced or written to."""

    device: int
    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Source:
    """The files of one slide as they were found at one moment.

    Attributes:
        files: the file that was asked for first, then its companions, sorted.
        stamps: one per file.
    """

    files: tuple[Path, ...]
    stamps: tuple[FileStamp, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(stamp.size for stamp in self.stamps)

    @classmethod
    def of(cls, path: Path) -> Source:
        """Look at the slide at ``path`` and its companions.

        Raises:
            SlideError: a file is absent or cannot be looked at.
        """
        try:
            files = (path, *_companions(path))
            return cls(files, tuple(stamp_of(file) for file in files))
        except OSError as cause:
            raise unreadable(path, cause) from cause

    def sha256(self) -> str:
        """SHA-256 of the slide's bytes; of the files' names and hashes where they are several.

        Raises:
            SlideError: a file cannot be read.
        """
        try:
            if len(self.files) == 1:
                return sha256_file(self.files[0])
            return self._combined([sha256_file(file) for file in self.files])
        except OSError as cause:
            raise unreadable(self.files[0], cause) from cause

    def edges_sha256(self) -> str:
        """SHA-256 of the sizes and of the first and last 64 KiB of the files: cheap at any size.

        Raises:
            SlideError: a file cannot be read.
        """
        try:
            return self._combined([_edges(file) for file in self.files])
        except OSError as cause:
            raise unreadable(self.files[0], cause) from cause

    def check_unchanged(self) -> None:
        """Make sure that what was read came from these files.

        Raises:
            SlideError: a file was replaced, removed or written to since.
        """
        if Source.of(self.files[0]) != self:
            raise self._changed()

    def check_same(self, size: int, edges_sha256: str, mtimes_ns: tuple[int, ...]) -> None:
        """Make sure that these are the files that another machine found.

        Device and inode are numbers of one machine.

        Args:
            size: the other's :attr:`size`.
            edges_sha256: its :meth:`edges_sha256`.
            mtimes_ns: its :attr:`mtimes_ns`.

        Raises:
            SlideError: they are not, or cannot be read.
        """
        own = (self.size, self.mtimes_ns, self.edges_sha256())
        if own != (size, mtimes_ns, edges_sha256):
            raise self._changed()

    @property
    def mtimes_ns(self) -> tuple[int, ...]:
        """When each file was last written to."""
        return tuple(stamp.mtime_ns for stamp in self.stamps)

    def _changed(self) -> SlideError:
        return SlideError(
            f"{self.files[0]}: the file changed while it was read; run again when nothing "
            "writes to it any more"
        )

    def _combined(self, digests: list[str]) -> str:
        whole = hashlib.sha256()
        for file, digest in zip(self.files, digests, strict=True):
            whole.update(os.fsencode(file.name) + b"\0" + digest.encode() + b"\n")
        return whole.hexdigest()


def _companions(path: Path) -> list[Path]:
    """The other files without which the slide at ``path`` is not whole."""
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        return (
            sorted(file for file in walk_files(folder) if file.is_file()) if folder.is_dir() else []
        )
    if suffix in DICOM_SUFFIXES:
        return [file for file in series_members(path) if file != path]
    if suffix in (".vms", ".vmu"):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        names = {line.partition("=")[2].strip() for line in lines}
        plain = (name for name in names if name_problem(name) is None)
        siblings = (file_in(path.parent, name, of="file of a slide") for name in plain)
        return sorted(file for file in siblings if file.is_file())
    return []


def stamp_of(file: Path) -> FileStamp:
    """The stamp of one file."""
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe, which a store may name, would be read for ever
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    return FileStamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _edges(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as handle:
        digest = hashlib.sha256(f"{size}:".encode() + handle.read(_EDGE_BYTES))
        handle.seek(max(0, size - _EDGE_BYTES))
        digest.update(handle.read(_EDGE_BYTES))
    return digest.hexdigest()
