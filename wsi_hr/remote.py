"""Paths behind a URL (``s3://bucket/store``): as much of a :class:`~pathlib.Path` as stores need.

fsspec does the work, with the driver of the URL's scheme (``s3fs`` for ``s3``) and that driver's
own settings and credentials. Object stores know no rename and no lock; an object, however, appears
whole or not at all. Whatever a driver raises comes out as an ``OSError`` with a reason.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from wsi_hr.errors import StoreError
from wsi_hr.file_names import file_below

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://.+")
_LOCAL = ("file", "local")
_AT_A_TIME = 8  # files on their way


class Range(NamedTuple):
    """Bytes ``start`` to ``stop`` of a file."""

    path: RemotePath
    start: int
    stop: int


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder behind a URL; see :func:`place` for making one.

    Methods named as those of :class:`~pathlib.Path` do the same. Nothing is remembered between
    calls, so it may be sent to other processes and used after a fork.

    Attributes:
        url: scheme, ``://``, and where; without a slash at the end.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | PurePath) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    def _listed(self, name: str) -> RemotePath:
        """What the server, or a folder that was uploaded, lists below this one."""
        return self / name

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The last part's, with its dot."""
        return PurePath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """All but the last part."""
        return RemotePath(self.url.rpartition("/")[0])

    def absolute(self) -> RemotePath:
        """Itself."""
        return self

    def resolve(self) -> RemotePath:
        """Itself."""
        return self

    def exists(self) -> bool:
        """Whether there is a file or folder."""
        with _os_errors(self.url):
            return self._kind() is not None

    def is_dir(self) -> bool:
        """Whether there are files below."""
        with _os_errors(self.url):
            return self._kind() == "directory"

    def is_file(self) -> bool:
        """Whether there is a file."""
        with _os_errors(self.url):
            return self._kind() == "file"

    def _kind(self) -> str | None:
        """``file``, ``directory`` or None; the drivers' own questions take errors for a no."""
        fs, path = _driver(self.url)
        try:
            return cast(str, fs.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def iterdir(self) -> Iterator[RemotePath]:
        """The files and folders in this one, sorted."""
        with _os_errors(self.url):
            fs, path = _driver(self.url)
            names = {found.rstrip("/").rpartition("/")[2] for found in fs.ls(path, detail=False)}
        # an object store may list a folder as an object of its own name
        yield from (self._listed(name) for name in sorted(names - {self.name, ""}))

    def read_bytes(self) -> bytes:
        """All of the file."""
        with _os_errors(self.url):
            fs, path = _driver(self.url)
            return cast(bytes, fs.cat_file(path))

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of the file, as text."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: Literal["rb"] = "rb") -> io.BytesIO:
        """The file, read whole: a store's are a few MB."""
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, content: bytes) -> None:
        """Make this a file of these bytes, whole or not at all."""
        with _os_errors(self.url):
            fs, path = _driver(self.url)
            fs.pipe_file(path, content)

    def upload(self, local: Path) -> None:
        """Make this what a local file is, whole or not at all."""
        with _os_errors(self.url):
            fs, path = _driver(self.url)
            fs.put_file(os.fspath(local), path)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            with _os_errors(self.url):
                fs, path = _driver(self.url)
                fs.rm_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def sizes(self) -> dict[str, int]:
        """All files below this folder: relative path -> bytes; none where there is no folder."""
        with _os_errors(self.url):
            fs, path = _driver(self.url)
            found = cast(dict[str, Any], fs.find(path, detail=True))
            root = path.rstrip("/") + "/"
            return {
                name.removeprefix(root): int(facts["size"])
                for name, facts in found.items()
                if name.startswith(root) and not name.endswith("/")
            }

    def upload_below(self, folder: Path, names: Sequence[str]) -> None:
        """Upload the files ``names`` of a local folder, several at a time."""

        def upload(name: str) -> None:
            local = file_below(folder, name, of="file of a store")
            self._listed(name).upload(local)

        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(upload, names))

    def copy_below(self, target: RemotePath, names: Sequence[str]) -> None:
        """Copy the files ``names`` of this folder to another on the same server, there."""

        def copy(name: str) -> None:
            with _os_errors(self.url):
                fs, source = _driver(self._listed(name).url)
                fs.cp_file(source, _driver(target._listed(name).url)[1])

        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(copy, names))

    def remove_below(self, names: Sequence[str]) -> None:
        """Remove the files ``names`` of this folder."""
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(lambda name: self._listed(name).unlink(missing_ok=True), names))

    def remove_empty(self) -> None:
        """Remove this folder, without files by now, where the server knows empty folders."""
        with _os_errors(self.url):
            fs, path = _driver(self.url)
            if fs.isdir(path) and not fs.find(path):
                fs.rm(glob.escape(path), recursive=True)  # which takes stars for a pattern


Place = Path | RemotePath
"""Where a store or a folder of stores is."""


def place(text: str) -> Place:
    """What the user calls a place: a URL, or else a path; ``file://`` is a path too.

    Raises:
        StoreError: nothing installed speaks the URL's scheme.
    """
    found = _URL.fullmatch(text)
    if found is None:
        return Path(text)
    scheme = found[1]
    if scheme in _LOCAL:
        return Path(unquote(urlsplit(text).path))
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as cause:
        raise StoreError(
            f"{text}: {scheme}:// needs a driver that is not installed ({cause}); install it, or "
            "choose a folder"
        ) from cause
    except ValueError as cause:
        raise StoreError(
            f"{text}: nothing here knows {scheme}://; choose a folder, or a URL such as "
            "s3://bucket/store"
        ) from cause
    return RemotePath(text.rstrip("/"))


def read_ranges(ranges: Sequence[Range]) -> list[bytes]:
    """Read parts of files of one server, all at the same time where the driver can.

    Raises:
        OSError: one of them cannot be read.
    """
    if not ranges:
        return []
    with _os_errors(ranges[0].path.url):
        fs, _ = _driver(ranges[0].path.url)
        paths = [_driver(part.path.url)[1] for part in ranges]
        starts, stops = [part.start for part in ranges], [part.stop for part in ranges]
        return fs.cat_ranges(paths, starts, stops, on_error="raise")


def _driver(url: str) -> tuple[AbstractFileSystem, str]:
    """What speaks the URL's scheme, and the URL in its words; fsspec keeps one a process.

    Listings are not kept: another process may have written since.
    """
    # Imported here: it takes a tenth of a second, and most stores are folders.
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(url, use_listings_cache=False)
    return fs, str(path)


@contextmanager
def _os_errors(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as cause:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from cause
    except OSError as cause:
        number: Any = cause.errno if isinstance(cause.errno, int) else errno.EIO
        raise type(cause)(
            number, cause.strerror or str(cause) or os.strerror(number), url
        ) from cause
    except Exception as cause:  # drivers let their libraries' own errors through
        raise OSError(errno.EIO, f"{type(cause).__name__}: {cause}", url) from cause
