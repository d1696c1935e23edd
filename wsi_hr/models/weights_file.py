"""A weights file: its first bytes say what it is, and only tensors are taken from it."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from wsi_hr.errors import ConfigError, reading

_HEAD = 512  # bytes that tell one format from another
_HASHED_AT_A_TIME = 1 << 24
_SIZE_OF_LENGTH = 8  # bytes in front of the header of a .safetensors
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
_SUFFIX = "ask its maker for .safetensors, or for the network's state_dict()"

# What training tools leave beside the weights, and what is safe to make of a file's word.
_HARMLESS_CLASSES: list[Any] = [
    argparse.Namespace,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # pyright: ignore
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # pyright: ignore
    np.dtype,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
]


@dataclass(frozen=True)
class FileIdentity:
    """Which file it was.

    Attributes:
        file: as the user named it.
        bytes: its size.
        sha256: over its bytes.
    """

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class WeightsFile:
    """What a weights file holds.

    Attributes:
        content: tensors by name, or what wraps them; nothing in it was run.
        form: ``safetensors``, ``torch`` or ``torch, before 1.6``.
        identity: which file it was.
    """

    content: Any
    form: str
    identity: FileIdentity


def identify(path: Path, key: str) -> FileIdentity:
    """Hash a weights file, a few MiB at a time; a file that has not changed is hashed once.

    Args:
        path: of the file.
        key: the setting that names it, for errors.

    Raises:
        ConfigError: there is no such file.
        ReadError: it cannot be read just now.
    """
    with reading(path):
        if path.is_dir():
            raise ConfigError(
                f"{key} {path}: is a folder; give the weights file in it, or, where timm's "
                f"config.json lies there too, the folder itself: encoder.name=local-dir:{path}"
            )
        if not path.is_file():
            raise ConfigError(f"{key} {path}: no such file (or: none, pretrained)")
        return _identify(path, _stamp(path))


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=16)
def _identify(path: Path, stamp: tuple[int, ...]) -> FileIdentity:
    del stamp  # part of what is remembered
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_HASHED_AT_A_TIME):
            digest.update(piece)
            size += len(piece)
    return FileIdentity(str(path), size, digest.hexdigest())


def read_weights(path: Path, key: str) -> WeightsFile:
    """Read a weights file; no code in it is run.

    Args:
        path: of the file; its suffix does not matter.
        key: the setting that names it, for errors.

    Raises:
        ConfigError: it is something else, is cut short, or holds more than tensors and numbers.
        ReadError: it cannot be read just now.
    """
    identity = identify(path, key)
    with reading(path):
        stamp = _stamp(path)
        with path.open("rb") as file:
            head = file.read(_HEAD)
        problem = _no_weights(path, head, identity.bytes)
        if problem is not None:
            raise ConfigError(f"{key} {path}: {problem}")
        form, content = _loaded(path, head, key)
        if _stamp(path) != stamp or _identify(path, stamp) != identity:
            raise ConfigError(
                f"{key} {path}: was replaced while it was read; start the same command again"
            )
    return WeightsFile(content, form, identity)


def _no_weights(path: Path, head: bytes, size: int) -> str | None:
    """What the file is instead of weights that can be loaded; None: it may be such."""
    text = head.lstrip().lower()
    if not head:
        return "is empty; fetch it again"
    if text.startswith(b"version https://git-lfs"):
        return (
            f"is a pointer of Git LFS ({size} bytes), not the weights; fetch them: git lfs pull, "
            "in its folder"
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return (
            "is a web page, not weights, such as a site answers to who is not logged in or has not "
            "accepted its terms; fetch the file again"
        )
    if text.startswith((b"{", b"[")):
        return _why_json(path, size)
    if head.startswith(b"PK"):
        return _why_zip(path, size)
    if head.startswith(b"\x89HDF"):
        return f"is HDF5, as Keras writes it, not PyTorch's weights; {_SUFFIX}"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")) or (
        head[257:262] == b"ustar"
    ):
        return "is an archive; unpack it and give the weights file in it"
    if head.startswith(b"\x80"):
        return None  # a pickle: torch's own way of saving, before 1.6
    return _why_safetensors(path, head, size)


def _why_json(path: Path, size: int) -> str:
    found: Any = None
    if size < _LONGEST_HEADER:
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            found = None
    pieces = found.get("weight_map") if isinstance(found, dict) else None
    if isinstance(pieces, dict):
        num = len({str(piece) for piece in pieces.values()})
        return (
            f"is the index of weights in {num} file{'s' if num != 1 else ''}, and has none itself; "
            "join them into one .safetensors and give that"
        )
    return "is a text (JSON), not weights; give the file that holds the tensors"


def _why_zip(path: Path, size: int) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names, damaged = archive.namelist(), archive.testzip()
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, EOFError):
        return (
            f"is cut short or damaged: {size} bytes, and the table at its end is not there; fetch "
            "it again"
        )
    if damaged is not None:  # torch reads over it
        return f"is damaged: {damaged} in it does not match its checksum; fetch the file again"
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        return f"is TorchScript, a program and not weights alone, and is not run; {_SUFFIX}"
    if any(name.endswith(".npy") for name in names):
        return f"is NumPy's .npz, as JAX's weights are given, not PyTorch's; {_SUFFIX}"
    if "data.pkl" not in inside:
        return "is an archive, not weights; unpack it and give the weights file in it"
    return None


def _why_safetensors(path: Path, head: bytes, size: int) -> str | None:
    length = int.from_bytes(head[:_SIZE_OF_LENGTH], "little")
    if head[_SIZE_OF_LENGTH : _SIZE_OF_LENGTH + 1] != b"{" or length > _LONGEST_HEADER:
        shown = re.sub(r"[^ -~]", ".", head[:16].decode("latin-1"))
        return (
            f"is no weights file: it begins with {shown!r}, and neither .safetensors nor what "
            "torch.save writes begins so"
        )
    start = _SIZE_OF_LENGTH + length
    if start > size:
        return f"is cut short: {size} bytes, its header alone has {start}; fetch it again"
    with path.open("rb") as file:
        header = file.read(start)[_SIZE_OF_LENGTH:]
    try:
        tensors = json.loads(header)
        ends = [fact["data_offsets"][1] for name, fact in tensors.items() if name[:2] != "__"]
        whole = start + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return "is a .safetensors with a damaged header; fetch it again"
    if whole > size:
        return f"is cut short: {size} bytes of {whole}; fetch it again"
    return None


def _loaded(path: Path, head: bytes, key: str) -> tuple[str, Any]:
    if not head.startswith((b"PK", b"\x80")):
        try:
            return "safetensors", load_file(path)
        except (SafetensorError, ValueError, KeyError, AttributeError, RuntimeError) as cause:
            raise ConfigError(
                f"{key} {path}: is a damaged .safetensors ({first_line(cause)}); fetch it again"
            ) from cause
    form = "torch" if head.startswith(b"PK") else "torch, before 1.6"
    try:
        # not by its path: torch goes by the suffix of that
        with torch.serialization.safe_globals(_HARMLESS_CLASSES), path.open("rb") as file:
            return form, torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as cause:
        raise ConfigError(f"{key} {path}: {_why_not_loaded(cause)}") from cause


def _why_not_loaded(cause: Exception) -> str:
    """In our words: torch's advice to load the file as code, which is for nobody to follow."""
    named = re.search(r"Unsupported (?:global: GLOBAL|class) ([A-Za-z_]\w*(?:\.\w+)*) ", str(cause))
    if named is not None:
        return (
            f"holds an object of Python ({named[1]}), such as a whole network or its settings, and "
            f"not tensors alone; to read it would be to run it, so it is not read; {_SUFFIX}"
        )
    return (
        f"is cut short or damaged, or not what torch.save writes ({type(cause).__name__}); fetch "
        f"it again, or {_SUFFIX}"
    )


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
