"""The patches of a grid as encoded chunks: block by block, by several threads, in store order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import numpy as np

from wsi_hr.geometry import PatchGrid, UInt8Array
from wsi_hr.store.chunks import ChunkCodec, seal
from wsi_hr.tiling.passthrough import TileStreams
from wsi_hr.tiling.pixel_map import PixelMap
from wsi_hr.tiling.plan import BLOCK_CELLS
from wsi_hr.tiling.read import SlidePatches
from wsi_hr.tiling.tile_pixels import TilePatches

_MOST_PATCH_BYTES = 64 << 20  # pixels of the patches of one task: a whole block of 256 px patches
_SPARE_TASKS = 2  # beyond one per thread: what is done waits for the one before it
_SHARES = 3  # per thread, that what is left is cut into

Task = TypeVar("Task")
Result = TypeVar("Result")
Chunk = bytes | None
"""What goes into the store for one patch; None: the slide does not give it."""


class BlockEncoder:
    """Turns the patches of a block into chunks, the shortest way there is; for several threads.

    Args:
        slide: reads what nothing else gives, and judges what is damaged.
        codec: how pixels become a chunk.
        recolour: changes the pixels of a patch before; None: they stay as they are.
        open_tiles: makes a reader of the slide's JPEG tiles for one thread; None: there are none.
        open_streams: makes a reader of tiles that are patches as they are; None: they are not.
    """

    def __init__(
        self,
        slide: SlidePatches,
        codec: ChunkCodec,
        *,
        recolour: PixelMap | None = None,
        open_tiles: Callable[[], TilePatches] | None = None,
        open_streams: Callable[[], TileStreams] | None = None,
    ) -> None:
        self._slide = slide
        self._codec = codec
        self._recolour = recolour
        self._open_tiles = open_tiles
        self._open_streams = open_streams
        self._of_thread = threading.local()

    def encode(self, block: PatchGrid) -> list[Chunk]:
        """One chunk per patch of ``block``, in its order."""
        return list(self.chunks(block))

    def chunks(self, block: PatchGrid) -> Iterator[Chunk]:
        """The chunks of :meth:`encode`, each made when it is asked for."""
        if self._open_streams is not None:
            found = self._copied(block, self._open_streams)
        elif self._open_tiles is not None:
            found = self._decoded(block, self._open_tiles)
        else:
            yield from self._read(block)
            return
        for position, chunk in enumerate(found):
            if chunk is None:
                yield from self._read(block.take(np.array([position])))
            else:
                yield chunk

    def _chunk(self, patch: UInt8Array | None) -> Chunk:
        if patch is None:
            return None
        return self._codec.encode(patch if self._recolour is None else self._recolour(patch))

    def _read(self, block: PatchGrid) -> Iterator[Chunk]:
        yield from map(self._chunk, self._slide.read(block))

    def _decoded(self, block: PatchGrid, open_tiles: Callable[[], TilePatches]) -> Iterator[Chunk]:
        if not hasattr(self._of_thread, "tiles"):
            self._of_thread.tiles = open_tiles()
        yield from map(self._chunk, self._of_thread.tiles.read(block))

    def _copied(self, block: PatchGrid, open_streams: Callable[[], TileStreams]) -> Iterator[Chunk]:
        if not hasattr(self._of_thread, "streams"):
            self._of_thread.streams = open_streams()
        for stream in self._of_thread.streams.read(block):
            yield None if stream is None else seal(stream)


@contextmanager
def encoding(
    grid: PatchGrid, encoder: BlockEncoder, *, patch_px: int, threads: int
) -> Iterator[Iterator[list[Chunk]]]:
    """Encode the patches of ``grid``; memory holds a few blocks of chunks, whatever the slide.

    Args:
        grid: patches in store order.
        encoder: does the work.
        patch_px: edge of a patch, px.
        threads: blocks worked on at a time.

    Yields:
        The chunks of consecutive patches, from the first on.
    """
    tasks = (grid.take(part) for part in tasks_of(grid, patch_px, threads))
    with working(encoder.encode, tasks, threads) as encoded:
        yield encoded


@contextmanager
def working(
    work: Callable[[Task], Result], tasks: Iterator[Task], threads: int
) -> Iterator[Iterator[Result]]:
    """Do tasks a few ahead of who asks for their results; yields these in the order of the tasks.

    Several threads begin at once and stop when the context is left; one thread works when it is
    asked.
    """
    if threads == 1:
        yield map(work, tasks)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="wsi-hr-tile")
    try:
        ahead = deque(pool.submit(work, task) for task in islice(tasks, threads + _SPARE_TASKS))

        def results() -> Iterator[Result]:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(pool.submit(work, task) for task in islice(tasks, 1))

        yield results()
    finally:
        pool.shutdown(cancel_futures=True)


def tasks_of(grid: PatchGrid, patch_px: int, threads: int = 1) -> Iterator[np.ndarray]:
    """Indices i64[K] of patches that one thread works on: whole blocks, or parts of one.

    A block of large patches comes in parts. So do the last blocks where several threads work: the
    less is left, the fewer patches each task has, so that all threads end at about the same time.
    """
    most = max(1, _MOST_PATCH_BYTES // (patch_px * patch_px * 3))
    blocks = grid.cells // BLOCK_CELLS
    starts = np.flatnonzero((np.diff(blocks, axis=0) != 0).any(axis=1)) + 1
    for block in np.split(np.arange(len(grid)), starts):
        rows = grid.cells[block, 0]
        first = 0
        while first < len(block):
            num = len(block) - first
            if threads > 1:
                share = (len(grid) - int(block[first])) // (_SHARES * threads)
                # whole rows, for those of a block share their tiles
                last_row = rows[min(first + max(share, 2 * BLOCK_CELLS), len(block)) - 1]
                num = int(np.searchsorted(rows, last_row, side="right")) - first
            num = min(num, most)
            yield block[first : first + num]
            first += num
