"""A slide as its patches, seen lazily: which ones, in which order; pixels only when asked for."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from wsi_hr.geometry import BoolArray, Int64Array, PatchGrid, UInt8Array
from wsi_hr.store.thread_pool import LazyThreadPool

_CHUNKS_AHEAD = 2

# Their work is to wait for a source's own decoding, so a few serve any number of streams.
_readers = LazyThreadPool(2 * _CHUNKS_AHEAD, "wsi-hr-read-ahead")


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

    def read(self, indices: Int64Array) -> UInt8Array:
        """Pixels u8[K, P, P, 3] of the patches ``indices`` i64[K]; called from several threads."""
        ...


@dataclass(frozen=True, eq=False)
class Bag:
    """A view of one slide: patch k of the bag is patch ``indices[k]`` of the source.

    Attributes:
        source: holds the pixels.
        indices: i64[K] patches of the source, all of them valid.
        label: class of the slide, or None where it is not known.
        labels_of_source: gives the class i64[N] of every patch of the source, -1 where it is not
            known; asked once, when first needed. None: no patch's class is known.
    """

    source: PatchSource
    indices: Int64Array
    label: int | None = None
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
        return cls(source, valid, label, labels_of_source)

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
        """The view of the patches at positions ``keep`` i64[J] of this bag, in that order."""
        return Bag(self.source, self.indices[keep], self.label, self.labels_of_source)

    def read(self, positions: Int64Array) -> UInt8Array:
        """Pixels u8[J, P, P, 3] of the patches at ``positions`` i64[J] of this bag.

        Raises:
            StoreError: a patch is damaged.
        """
        return self.source.read(self.indices[positions])

    def stream(
        self, chunk: int, positions: Int64Array | None = None
    ) -> Iterator[tuple[Int64Array, UInt8Array]]:
        """Read patches in order, a chunk at a time, the next chunks meanwhile in the background.

        Memory holds the chunk in use and at most two more. An error is raised where its chunk
        would have come; a consumer that stops early leaves nothing running beyond these chunks.

        Args:
            chunk: patches at a time; the last chunk may have fewer.
            positions: i64[J] of this bag, in the order wanted; all of them if not given.

        Returns:
            Pairs of positions i64[K] and pixels u8[K, P, P, 3].

        Raises:
            ValueError: ``chunk`` is not positive.
        """
        if chunk < 1:
            raise ValueError(f"a chunk has at least one patch, not {chunk}")
        wanted = np.arange(len(self), dtype=np.int64) if positions is None else positions
        return self._read_ahead(
            [wanted[start : start + chunk] for start in range(0, len(wanted), chunk)]
        )

    def _read_ahead(self, parts: list[Int64Array]) -> Iterator[tuple[Int64Array, UInt8Array]]:
        ahead: deque[tuple[Int64Array, Future[UInt8Array]]] = deque()
        to_come = iter(parts)

        def ask(num_chunks: int) -> None:
            for part in itertools.islice(to_come, num_chunks):
                ahead.append((part, _readers.get().submit(self.read, part)))

        try:
            ask(_CHUNKS_AHEAD)
            while ahead:
                part, pixels = ahead.popleft()
                ask(1)
                yield part, pixels.result()
        finally:
            for _, pixels in ahead:
                pixels.cancel()
