"""A slide as its patches, seen lazily: which ones, in which order; pixels only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from wsi_hr.geometry import BoolArray, Int64Array, PatchGrid, Size, UInt8Array
from wsi_hr.store.jpeg_patches import JpegPatches, Patches


class PatchSource(Protocol):
    """Whatever holds the patches of one slide, e.g. a patch store."""

    @property
    def slide_id(self) -> str:
        """Which slide."""
        ...

    @property
    def grid(self) -> PatchGrid:
        """All N patches."""
        ...

    @property
    def valid(self) -> BoolArray:
        """bool[N], False where there are no pixels."""
        ...

    @property
    def thumbnail(self) -> UInt8Array:
        """The whole slide, small: u8[h, w, 3]."""
        ...

    @property
    def level0_size(self) -> Size:
        """(w, h) of what the thumbnail shows, level-0 px."""
        ...

    def read(self, indices: Int64Array) -> UInt8Array:
        """Pixels u8[K, P, P, 3] of the patches ``indices`` i64[K]; called from several threads."""
        ...


@runtime_checkable
class JpegSource(Protocol):
    """A source that may hold its patches as JPEG streams."""

    @property
    def holds_jpeg(self) -> bool:
        """Whether it does."""
        ...

    def read_jpeg(self, indices: Int64Array) -> JpegPatches:
        """The streams of the patches ``indices`` i64[K]; called from several threads."""
        ...


@dataclass(frozen=True, eq=False)
class Bag:
    """A view of one slide: patch k of the bag is patch ``indices[k]`` of the source.

    Attributes:
        source: holds the pixels.
        indices: i64[K] patches of the source, all of them valid.
        label: class of the slide, or None where it is not known.
        low: the same slide at a lower magnification; None where none was asked for, or where it
            has no patch.
        labels_of_source: gives the class i64[N] of every patch of the source, -1 where it is not
            known; asked once, when first needed. None: no patch's class is known.
    """

    source: PatchSource
    indices: Int64Array
    label: int | None = None
    low: Bag | None = None
    labels_of_source: Callable[[], Int64Array] | None = None

    def __post_init__(self) -> None:
        """Check the view.

        Raises:
            ValueError: ``indices`` are not i64[K], or name a patch that is not there.
        """
        num = len(self.source.valid)
        if self.indices.dtype != np.int64 or self.indices.ndim != 1:
            raise ValueError(
                f"{self.slide_id}: expected i64[K], got {self.indices.dtype}{self.indices.shape}"
            )
        if len(self) and not 0 <= self.indices.min() <= self.indices.max() < num:
            raise ValueError(f"{self.slide_id}: patches are 0 to {num - 1}")
        if not self.source.valid[self.indices].all():
            raise ValueError(f"{self.slide_id}: the bag holds patches that could not be read")

    @classmethod
    def of(
        cls,
        source: PatchSource,
        label: int | None = None,
        labels_of_source: Callable[[], Int64Array] | None = None,
    ) -> Bag:
        """All valid patches of ``source``."""
        valid = np.flatnonzero(source.valid).astype(np.int64)
        return cls(source, valid, label, labels_of_source=labels_of_source)

    @property
    def slide_id(self) -> str:
        """Which slide."""
        return self.source.slide_id

    @cached_property
    def grid(self) -> PatchGrid:
        """Where the patches of this view lie, in its order."""
        return self.source.grid.take(self.indices)

    @cached_property
    def patch_labels(self) -> Int64Array | None:
        """Class i64[K] of each patch of this view, -1 where it is not known; None: none is.

        Raises:
            AnnotationError: the annotations can no longer be read.
        """
        return None if self.labels_of_source is None else self.labels_of_source()[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, keep: Int64Array) -> Bag:
        """The view of the patches at positions ``keep`` i64[J] of this bag, in that order.

        Its low magnification stays whole.
        """
        return Bag(self.source, self.indices[keep], self.label, self.low, self.labels_of_source)

    def read(self, positions: Int64Array) -> UInt8Array:
        """Pixels u8[J, P, P, 3] of the patches at ``positions`` i64[J] of this bag.

        Raises:
            StoreError: a patch is damaged.
        """
        return self.source.read(self.indices[positions])

    def fetch(self, positions: Int64Array, *, encoded: bool) -> Patches:
        """Patches at ``positions`` i64[J] of this bag, as they come soonest to who decodes them.

        Args:
            positions: which.
            encoded: leave them as JPEG streams where the source holds such, and where every decoder
                sees the same colours in them; else as :meth:`read` gives them.

        Raises:
            StoreError: a patch is damaged.
        """
        if not (encoded and len(positions) and isinstance(self.source, JpegSource)):
            return self.read(positions)
        if not self.source.holds_jpeg:
            return self.read(positions)
        found = self.source.read_jpeg(self.indices[positions])
        return found if found.any_decoder else found.decode()
