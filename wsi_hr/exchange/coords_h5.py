"""Patch coordinates as CLAM and TRIDENT keep them: HDF5, dataset ``coords`` i64[N, 2] (x, y).

Both give top-left corners in level-0 px and describe the patches in the dataset's attributes. CLAM
has ``patch_size`` in px of the level ``patch_level``; TRIDENT has ``patch_size`` in px at
``target_magnification`` and ``patch_size_level0``. In CLAM a slide's file is ``<slide_id>.h5``, in
TRIDENT ``<slide_id>_patches.h5``; both lie in a folder ``patches``.

Source: the files and readers of mahmoodlab/CLAM (``Whole_Slide_Bag_FP``) and mahmoodlab/TRIDENT
(``coords_to_h5``, ``read_coords``).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wsi_hr.errors import CoordsError
from wsi_hr.file_names import file_in
from wsi_hr.geometry import Int32Array, Int64Array, Size

DATASET = "coords"
PATCHES_FOLDER = "patches"
CLAM_SUFFIX = ".h5"
TRIDENT_SUFFIX = "_patches.h5"

_MOST_PATCHES = 20_000_000  # a slide of 10**6 x 10**6 px has 15 million patches of 256 px
_WAY_OUT = "write it again with CLAM, TRIDENT or wsi-hr export"


@dataclass(frozen=True)
class GivenCoords:
    """What a coordinates file says.

    Attributes:
        path: the file.
        sha256: SHA-256 of its bytes, hexadecimal.
        coords: i64[N, 2] top-left corners (x, y), level-0 px, in the file's order.
        patch_px: edge of a patch, px of ``level`` (CLAM) or at its magnification (TRIDENT).
        patch_px0: edge of a patch, level-0 px; None: the file gives ``level`` instead.
        level: pyramid level of ``patch_px``; None: the file gives ``patch_px0`` instead.
        level_size: size of ``level``, or of level 0 where that is None; None: not told.
    """

    path: Path
    sha256: str
    coords: Int64Array
    patch_px: int
    patch_px0: int | None
    level: int | None
    level_size: Size | None

    def __len__(self) -> int:
        return len(self.coords)


def find_coords(folder: Path, *called: str) -> Path:
    """The coordinates file of a slide in ``folder`` or in its folder ``patches``.

    Args:
        folder: where it is.
        called: what the file may be called after, one at least: the slide's ids.

    Raises:
        CoordsError: there is none, or more than one.
    """
    places = [
        file_in(place, name, suffix, of="slide id")
        for place in (folder, folder / PATCHES_FOLDER)
        for name in called
        for suffix in (CLAM_SUFFIX, TRIDENT_SUFFIX)
    ]
    found = [place for place in places if place.is_file()]
    if not found:
        names = " nor ".join(place.name for place in places if place.parent == folder)
        raise CoordsError(
            f"{folder}: has neither {names}; add the slide's coordinates, or tile it without "
            "--coords"
        )
    if len(found) > 1:
        raise CoordsError(
            f"{found[0]}: {found[1]} is there too; keep one file of coordinates per slide"
        )
    return found[0]


def read_coords(path: Path) -> GivenCoords:
    """Read a coordinates file of CLAM or TRIDENT.

    Raises:
        CoordsError: it cannot be read, is damaged, or does not say how large its patches are.
    """
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise CoordsError(
            f"{path}: cannot be read ({cause.strerror}); see that the disk is there and lets you"
        ) from cause
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            dataset = _dataset(path, file)
            attributes = {name: dataset.attrs[name] for name in dataset.attrs}
            coords = dataset[:]
    except CoordsError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as cause:
        # h5py has no error of its own: what HDF5 finds wrong with a file arrives as any of these
        raise CoordsError(f"{path}: not HDF5, or damaged; {_WAY_OUT}") from cause
    facts = _Facts(path, attributes)
    if facts.whole("custom_downsample", 1) != 1:
        raise CoordsError(
            f"{path}: was cut with custom_downsample, which programs read differently; cut it "
            "without"
        )
    patch_px, level, patch_px0 = facts.whole("patch_size"), None, None
    if "patch_size_level0" in attributes:
        patch_px0 = facts.whole("patch_size_level0")
        level_size = facts.size("level0_width", "level0_height")
    elif "patch_level" in attributes:
        level = facts.whole("patch_level", least=0)
        level_size = facts.pair("level_dim")
    else:
        raise CoordsError(
            f"{path}: says neither patch_level, as CLAM does, nor patch_size_level0, as TRIDENT "
            f"does; {_WAY_OUT}"
        )
    return GivenCoords(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        coords=_whole_numbers(path, coords),
        patch_px=patch_px,
        patch_px0=patch_px0,
        level=level,
        level_size=level_size,
    )


def write_coords(
    path: Path, coords: Int32Array, attributes: Mapping[str, Any], notes: Mapping[str, str]
) -> None:
    """Write a coordinates file; equal arguments give equal bytes.

    Args:
        path: the file; not atomic, see :func:`wsi_hr.runtime.atomic_path`.
        coords: i32[N, 2] top-left corners (x, y), level-0 px; written as i64, as both do.
        attributes: of the dataset: numbers, tuples of numbers, texts.
        notes: attributes of the file, which CLAM and TRIDENT do not look at.
    """
    content = io.BytesIO()  # HDF5 may crash on a disk that is full
    with h5py.File(content, "w", track_order=False) as file:
        dataset = file.create_dataset(
            DATASET,
            data=coords.astype(np.int64),
            maxshape=(None, 2),  # both programs append to it
            chunks=(min(max(len(coords), 1), 4096), 2),
            track_times=False,
        )
        for name, value in attributes.items():
            dataset.attrs[name] = value
        for name, value in notes.items():
            file.attrs[name] = value
    path.write_bytes(content.getbuffer())


def read_notes(path: Path) -> dict[str, str]:
    """The texts among the attributes of an HDF5 file; none where it is none.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with h5py.File(content, "r") as file:
            return {name: text for name, text in file.attrs.items() if isinstance(text, str)}
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return {}


@dataclass(frozen=True)
class _Facts:
    """The attributes of ``coords``, whose values may be anything."""

    path: Path
    values: Mapping[str, Any]

    def whole(self, name: str, absent: int | None = None, *, least: int = 1) -> int:
        if name not in self.values and absent is not None:
            return absent
        (number,) = self._numbers(name, 1, least)
        return number

    def pair(self, name: str) -> Size | None:
        return Size(*self._numbers(name, 2, 1)) if name in self.values else None

    def size(self, width: str, height: str) -> Size | None:
        if width not in self.values or height not in self.values:
            return None
        return Size(self.whole(width), self.whole(height))

    def _numbers(self, name: str, count: int, least: int) -> list[int]:
        found = np.asarray(self.values.get(name))
        numbers = found.ravel().tolist() if found.dtype.kind in "iuf" else []
        if len(numbers) != count or any(not least <= n < 2**31 or n != int(n) for n in numbers):
            wanted = "a whole number" if count == 1 else f"{count} whole numbers"
            told = "is missing" if name not in self.values else f"is not {wanted}"
            raise CoordsError(f"{self.path}: its attribute {name} {told}; {_WAY_OUT}")
        return [int(number) for number in numbers]


def _dataset(path: Path, file: h5py.File) -> h5py.Dataset:
    """The dataset ``coords`` of a file, looked at before anything of it is read.

    Raises:
        CoordsError: there is none, or it is not what it should be.
    """
    link = file.get(DATASET, getlink=True)
    dataset = file[DATASET] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset):
        raise CoordsError(f"{path}: has no dataset {DATASET}; {_WAY_OUT}")
    if dataset.is_virtual or dataset.external:
        raise CoordsError(f"{path}: keeps its {DATASET} in other files; {_WAY_OUT}")
    if dataset.ndim != 2 or dataset.shape[1] != 2 or dataset.dtype.kind not in "iuf":
        raise CoordsError(
            f"{path}: its {DATASET} are {dataset.dtype}{list(dataset.shape)} where whole numbers "
            f"[N, 2] belong; {_WAY_OUT}"
        )
    if len(dataset) > _MOST_PATCHES:
        raise CoordsError(f"{path}: lists {len(dataset)} patches, more than a slide has")
    return dataset


def _whole_numbers(path: Path, coords: Any) -> Int64Array:
    if not np.isfinite(coords).all() or (np.abs(coords) >= 2**31).any():
        raise CoordsError(f"{path}: its {DATASET} lie outside any slide; {_WAY_OUT}")
    whole = coords.astype(np.int64)
    if (whole != coords).any():
        raise CoordsError(f"{path}: its {DATASET} are not whole level-0 pixels; {_WAY_OUT}")
    return whole
