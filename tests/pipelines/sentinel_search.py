"""Looks for a patient's name in everything that was written, also where it is packed or drawn."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
import zarr
from PIL import Image

NAME = "DOE_JANE_1961"

_ZLIB = re.compile(rb"\x78[\x01\x5e\x9c\xda]")
_SCALES = (1.0, 0.75, 0.5, 0.35, 0.25)  # of the marked label, in a picture made smaller
_AT_LEAST = 0.8  # correlation; tissue and legends stay below 0.6


def mark() -> np.ndarray:
    """What is drawn on labels: a square code u8[96, 96] like no tissue."""
    cells = np.random.default_rng(1961).integers(0, 2, (12, 12), np.uint8)
    return np.kron(cells, np.full((8, 8), 255, np.uint8))


def forms() -> tuple[bytes, ...]:
    """The name as bytes: plain, in UTF-16, and inside base64 at any of three offsets."""
    plain = NAME.encode()
    packed = [base64.b64encode(b"\0" * shift + plain)[4 if shift else 0 : -4] for shift in range(3)]
    return (plain, NAME.encode("utf-16-le"), NAME.encode("utf-16-be"), *packed)


def names_in(content: bytes, depth: int = 3) -> bool:
    """Whether the name is in bytes, or in what is packed in them."""
    if any(form in content for form in forms()):
        return True
    return depth > 0 and any(names_in(part, depth - 1) for part in unpacked(content))


def unpacked(content: bytes) -> Iterator[bytes]:
    """What zip, tar, gzip, PNG and HDF5 files, and zlib streams anywhere, hold."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    elif content[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                yield from (member.name.encode(), file.read() if file else b"")
    elif content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    elif content.startswith(b"\x89HDF"):
        with h5py.File(io.BytesIO(content)) as file:
            found: list[bytes] = []
            file.visititems(lambda name, item: found.append(name.encode() + _said(item)))
            yield from (*found, _said(file))
    elif content.startswith(b"\x89PNG"):
        for at in (found.start() for found in _ZLIB.finditer(content)):
            try:
                yield zlib.decompressobj().decompress(content[at:], 1 << 26)
            except zlib.error:
                continue


def _said(item: h5py.Group | h5py.Dataset) -> bytes:
    attributes = repr(dict(item.attrs)).encode()
    return attributes + (np.asarray(item[()]).tobytes() if isinstance(item, h5py.Dataset) else b"")


def marked(picture: np.ndarray) -> bool:
    """Whether a picture u8[h, w, 3] or u8[h, w] shows the label's code, at any usual size."""
    gray = picture if picture.ndim == 2 else picture[..., :3].mean(axis=2).astype(np.uint8)
    for scale in _SCALES:
        code = cv2.resize(mark(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if min(gray.shape) < len(code):
            continue
        for turned in (code, code[::-1, ::-1], np.rot90(code), np.rot90(code, 3)):
            likeness = cv2.matchTemplate(gray, np.ascontiguousarray(turned), cv2.TM_CCOEFF_NORMED)
            if np.nanmax(np.where(np.isfinite(likeness), likeness, 0)) > _AT_LEAST:
                return True
    return False


def hits(folder: Path) -> list[str]:
    """Where below ``folder`` the name or the label's code stands: in names, bytes and pixels."""
    found = []
    for path in sorted(folder.rglob("*")):
        if NAME in str(path.relative_to(folder)):
            found.append(f"{path}: called so")
        if not path.is_file():
            continue
        content = path.read_bytes()
        if names_in(content):
            found.append(f"{path}: says so")
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as picture:
                if any(NAME in repr(value) for value in picture.info.values()):
                    found.append(f"{path}: a text of it says so")
                if marked(np.asarray(picture.convert("RGB"))):
                    found.append(f"{path}: shows the label")
        if path.name == "zarr.json" and json.loads(content)["node_type"] == "array":
            found += [f"{path.parent}: {what}" for what in _in_array(path.parent)]
    return found


def _in_array(path: Path) -> Iterator[str]:
    """What a zarr array has when it is decoded."""
    values = np.asarray(zarr.open_array(path, mode="r")[:])
    if names_in(values.tobytes()):
        yield "says so"
    pictures = values if values.ndim == 4 else values[None] if values.ndim in (2, 3) else []
    if values.dtype == np.uint8 and any(marked(each) for each in pictures):
        yield "shows the label"
