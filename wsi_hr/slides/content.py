"""Files that are no slide at all, told apart before any reader sees them."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from wsi_hr.errors import SlideError

_HEAD_BYTES = 512
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MRXS_INDEX = "Slidedat.ini"
_VSI_SUFFIX = ".vsi"
_HTML = re.compile(rb"\s*(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body)\b", re.I | re.S)

_EXPORT = "give the file the scanner wrote, or a pyramidal TIFF made of it"
_ALIENS = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", _EXPORT),
    (b"\xff\xd8\xff", "a JPEG picture", _EXPORT),
    (b"GIF8", "a GIF picture", _EXPORT),
    (b"BM", "a BMP picture", _EXPORT),
    (b"%PDF", "a PDF document", _EXPORT),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"PK\x05\x06", "an empty zip archive", "pack it again"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
)


def unreadable(path: Path, cause: OSError) -> SlideError:
    """What to say of a file that the system does not give."""
    if isinstance(cause, PermissionError):
        return SlideError(f"{path}: may not be read; change its permissions")
    return SlideError(f"{path}: cannot be read ({cause.strerror}); check the disk")


def check_content(path: Path) -> bytes:
    """Make sure that ``path`` is a file which might be a slide.

    Returns:
        Its first bytes.

    Raises:
        SlideError: it is absent, a folder, not readable, empty, something else under a slide's
            name, an MRXS without its folder, or an Olympus VSI.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise SlideError(f"{path}: a folder, not a slide; {_about_folder(path)}")
        if not stat.S_ISREG(kind):
            raise SlideError(f"{path}: not a regular file; give a slide's file")
        with path.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
    except FileNotFoundError as cause:
        where = "a link to a file that is gone" if path.is_symlink() else "no such file"
        raise SlideError(f"{path}: {where}; check the path") from cause
    except OSError as cause:
        raise unreadable(path, cause) from cause
    if not head:
        raise SlideError(f"{path}: the file is empty; copy it again from its source")
    if path.suffix.lower() == ".mrxs":
        _check_mrxs(path)
        return head
    if path.suffix.lower() == _VSI_SUFFIX:
        raise SlideError(
            f"{path}: of an Olympus slide this file holds only label and overview, the scan is in "
            "the .ets files beside it, which nothing here reads; export it as a pyramidal TIFF"
        )
    for magic, what, way_out in _ALIENS:
        if head.startswith(magic):
            raise SlideError(f"{path}: this is {what}, not a slide; {way_out}")
    if _HTML.match(head):
        raise SlideError(
            f"{path}: this is a web page, not a slide, as a failed download leaves it; download "
            "it again"
        )
    if len(head) == _HEAD_BYTES and not any(head):
        raise SlideError(
            f"{path}: it begins with nothing but zeros, as an unfinished copy does; copy it again"
        )
    return head


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a TIFF, classic or big."""
    return head.startswith(_TIFF_MAGIC)


def _about_folder(path: Path) -> str:
    if (path / _MRXS_INDEX).is_file():
        return f"give {path.name}.mrxs, the file beside it"
    return "give the files in it, or the folder to wsi-hr tile"


def _check_mrxs(path: Path) -> None:
    folder = path.with_suffix("")
    if not (folder / _MRXS_INDEX).is_file():
        raise SlideError(
            f"{path}: an MRXS slide needs the folder {folder.name} with {_MRXS_INDEX} beside it; "
            "copy both together"
        )
