"""Golden files: seeded weights and inputs, and what the papers' released code made of them.

An npz (METHODS section 7) of either embeddings and a selection, see
:mod:`benchmarks.golden_selection`, or of images and the gradients of one outer step of PatchGD, see
:mod:`benchmarks.golden_patchgd`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class GoldenError(Exception):
    """A file that is not of the form; says in which way."""


@dataclass(frozen=True)
class Finding:
    """One quantity of a file, compared.

    Attributes:
        quantity: its key in the file.
        error: how far ours is from it; for sets, how many members differ in the worst slide.
        tolerance: greatest error that agrees.
    """

    quantity: str
    error: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """False for an error that is no number, too."""
        return self.error <= self.tolerance


class GoldenFile:
    """The arrays of a golden file by name, in the file's order.

    Raises:
        GoldenError: it is no npz, is damaged, or holds Python objects.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                self._arrays = {name: file[name] for name in file.files}
        except Exception as cause:  # whatever numpy, zipfile and zlib raise on what is no npz
            reason = next(iter(str(cause).splitlines()), type(cause).__name__)
            raise GoldenError(f"cannot be read as an npz file ({reason})") from cause

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def array(self, name: str, ndim: int | None) -> npt.NDArray:
        """The array ``name``, of ``ndim`` dimensions; None: of any.

        Raises:
            GoldenError: it is missing, or has another number of dimensions.
        """
        if name not in self:
            raise GoldenError(f"has no {name}")
        array = self._arrays[name]
        if ndim not in (None, array.ndim):
            raise GoldenError(f"{name} has {array.ndim} dimensions, not {ndim}")
        return array

    def number(self, name: str) -> float:
        """The positive number ``name``.

        Raises:
            GoldenError: it is missing, not one number, or not positive.
        """
        array = self.array(name, 0)
        if array.dtype.kind not in "iuf" or not array > 0 or not math.isfinite(array):
            raise GoldenError(f"{name} is {array}, not a positive number")
        return float(array)

    def tensor(self, name: str, ndim: int) -> Tensor:
        """The array ``name`` as numbers that can be calculated with.

        Raises:
            GoldenError: it is missing, of another shape, or some of it are no numbers.
        """
        array = self.array(name, ndim)
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise GoldenError(f"{name} holds values that are no finite floats")
        return torch.from_numpy(np.ascontiguousarray(array))


def spelled_numbers(patches_KPP3: npt.NDArray[np.uint8] | Tensor) -> Tensor:
    """i64[K] numbers that ``wsi_hr.testing.memory_patches.numbered_pixels`` wrote."""
    first_K3 = torch.as_tensor(patches_KPP3)[:, 0, 0].long()
    return first_K3 @ torch.tensor([1, 1 << 8, 1 << 16])
