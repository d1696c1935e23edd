"""The patches of a grid as encoded chunks: block by block, by several threads, in store order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from wsi_hr.geometry import PatchGrid, UInt8Array
from wsi_hr.store.chunks import ChunkCodec, seal
from wsi_hr.tiling.passthrough import TileStreams
from wsi_hr.tiling.pixel_map import PixelMap
from wsi_hr.tiling.plan import BLOCK_CELLS
from wsi_hr.tiling.read import SlidePatches
from wsi_hr.tiling.tile_pixels import TilePatches

_MOST_PATCH_BYTES = 64 << 20  # pixels of the patches of one task: a whole block of 256 px patches

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
        if self._open_streams is not None:
            chunks = list(self._copied(block, self._open_streams))
        elif self._open_tiles is not None:
            chunks = list(self._decoded(block, self._open_tiles))
        else:
            return list(self._read(block))
        for position, chunk in enumerate(chunks):
            if chunk is None:
                (chunks[position],) = self._read(block.take(np.array([position])))
        return chunks

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


def encode_grid(
    grid: PatchGrid, encoder: BlockEncoder, *, patch_px: int, threads: int
) -> Iterator[list[Chunk]]:
    """Encode the patches of ``grid``; memory holds a few blocks of chunks, whatever the slide.

    Args:
        grid: patches in store order.
        encoder: does the work.
        patch_px: edge of a patch, px.
        threads: blocks worked on at a time.

    Yields:
        The chunks of consecutive patches, from the first on.
    """
    blocks = [grid.take(part) for part in tasks_of(grid, patch_px)]
    if threads == 1:
        yield from map(encoder.encode, blocks)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="wsi-hr-tile") as pool:
        ahead: deque[Future[list[Chunk]]] = deque()
        try:
            for block in blocks:
                if len(ahead) > threads:
                    yield ahead.popleft().result()
                ahead.append(pool.submit(encoder.encode, block))
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def tasks_of(grid: PatchGrid, patch_px: int) -> Iterator[np.ndarray]:
    """Indices i64[K] of the patches of every block; a block of large patches comes in parts."""
    most = max(1, _MOST_PATCH_BYTES // (patch_px * patch_px * 3))
    blocks = grid.cells // BLOCK_CELLS
    starts = np.flatnonzero((np.diff(blocks, axis=0) != 0).any(axis=1)) + 1
    for block in np.split(np.arange(len(grid)), starts):
        for first in range(0, len(block), most):
            yield block[first : first + most]
