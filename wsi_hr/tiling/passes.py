"""All scales of a slide as encoded chunks; those that read the same tiles in one pass over them.

A coarser scale's patches are read when the finer one's have gone past them, so a tile is read once
for both, and decoded once where both decode it alike; every scale's chunks are those it would have
alone. The store takes one scale after the other, so the chunks of all but the first wait on disk.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from wsi_hr.geometry import BoolArray, Int32Array, Int64Array, PatchGrid, Size
from wsi_hr.tiling.blocks import BlockEncoder, Chunk, tasks_of, working
from wsi_hr.tiling.decoded_tiles import MAX_TILE_BYTES
from wsi_hr.tiling.later_chunks import LaterChunks
from wsi_hr.tiling.plan import BLOCK_CELLS
from wsi_hr.tiling.recent_tiles import Decoding, RecentTiles
from wsi_hr.tiling.resample import covering
from wsi_hr.tiling.survey import Scale

MAX_SHARED_BYTES = 1 << 30
"""Memory that all threads together may take so that a tile is read once."""


class Pass(NamedTuple):
    """Scales that are encoded together.

    Attributes:
        scales: one or more.
        num_recent: tiles that a thread keeps for all of them; 0 where there is one scale.
    """

    scales: tuple[Scale, ...]
    num_recent: int


class Passes:
    """The chunks of the scales of a slide; a context manager.

    Several threads begin with the first scale when it is entered.

    Args:
        scales: with patches each, in the order in which their chunks will be asked for.
        threads: tasks worked on at a time; the chunks do not depend on it.
        folder: on the disk that takes chunks which come early.
    """

    def __init__(self, scales: Sequence[Scale], threads: int, folder: Path) -> None:
        self._threads = threads
        self._folder = folder
        self._to_come = iter(plan_passes(scales, threads))
        self._later: dict[float, LaterChunks] = {}
        self._files = ExitStack()
        self._at_work = ExitStack()

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *exception: object) -> None:
        self._at_work.close()
        self._files.close()

    def chunks(self, scale: Scale) -> Iterator[list[Chunk]]:
        """The chunks of the next scale, those of consecutive patches at a time.

        Raises:
            StoreError: the disk does not keep what comes early.
        """
        if scale.config.mpp in self._later:
            yield from self._later[scale.config.mpp].in_order()
            return
        if scale is not self._scales[0]:
            self._at_work.close()
            self._begin()
        later = [LaterChunks(len(other.grid), self._folder) for other in self._scales[1:]]
        for other, kept in zip(self._scales[1:], later, strict=True):
            self._later[other.config.mpp] = self._files.enter_context(kept)
        for first, *others in self._encoded:
            for kept, part in zip(later, others, strict=True):
                kept.put(part.patches, part.chunks)
            yield first.chunks

    def _begin(self) -> None:
        """Set threads to work on the next pass."""
        together = next(self._to_come)
        self._scales = together.scales
        self._encoded = self._at_work.enter_context(encoding_pass(together, self._threads))


@contextmanager
def encoding_pass(
    together: Pass, threads: int, within: range | None = None
) -> Iterator[Iterator[list[Part]]]:
    """Encode the patches of scales that are encoded together.

    Args:
        together: the scales.
        threads: tasks worked on at a time; the chunks do not depend on it.
        within: patches of the first scale, with which those of the others come that lie there;
            None: all.

    Yields:
        A part per scale at a time; the first scale's are consecutive patches, from the first on.
    """
    scales, num_recent = together
    recent = RecentTiles(num_recent, _shared(scales)) if num_recent else None
    encoders = [scale.encoder(recent) for scale in scales]
    grids = [scale.grid for scale in scales]

    def encode(task: list[Int64Array]) -> list[Part]:
        return encode_together(encoders, grids, task)

    with working(encode, tasks_together(scales, threads, within), threads) as encoded:
        yield encoded


class Part(NamedTuple):
    """What a task gives of one scale.

    Attributes:
        patches: i64[K] of its grid.
        chunks: one each.
    """

    patches: Int64Array
    chunks: list[Chunk]


def plan_passes(scales: Sequence[Scale], threads: int) -> list[Pass]:
    """The scales, together where they lie on the same tiles and memory allows it."""
    of_level: dict[tuple[str, int], list[Scale]] = defaultdict(list)
    for number, scale in enumerate(scales):
        decoding = scale.decoding
        of_level[("alone", number) if decoding is None else ("level", decoding.level)].append(scale)
    passes = []
    for together in of_level.values():
        num_recent = _tiles_of_a_row(together) if len(together) > 1 else 0
        if num_recent and threads * _bytes_together(together, num_recent) > MAX_SHARED_BYTES:
            passes += [Pass((scale,), 0) for scale in together]
        else:
            passes.append(Pass(tuple(together), num_recent))
    order = [scale.config.mpp for scale in scales]
    return sorted(passes, key=lambda each: order.index(each.scales[0].config.mpp))


def _shared(scales: Sequence[Scale]) -> list[Decoding]:
    """Ways to decode a tile that several of the scales have."""
    counts = Counter(scale.decoding for scale in scales)
    return [decoding for decoding, count in counts.items() if decoding is not None and count > 1]


def _tiles_of_a_row(scales: Sequence[Scale]) -> int:
    """Tiles under a row of the largest patches, as wide as a block of the first scale."""
    first, tile = scales[0], _tile(scales[0])
    block_px = math.ceil(BLOCK_CELLS * first.plan.stride_px0.x / first.plan.level_downsample.x)
    windows = [_window(scale) for scale in scales]
    across = -(-(block_px + max(window.w for window in windows)) // tile.w) + 1
    return across * (-(-max(window.h for window in windows) // tile.h) + 2)


def _window(scale: Scale) -> Size:
    """Px of the level that a patch covers."""
    edge, factor = scale.config.patch_size, scale.plan.decode_scale
    width, height = covering(scale.plan.residual, Size(edge, edge))
    return Size(width * factor, height * factor)


def _bytes_together(scales: Sequence[Scale], num_recent: int) -> int:
    """Memory that a thread takes beyond what the first scale alone does."""
    tile = _tile(scales[0])
    pixels = sum(3 * tile.w * tile.h // each.decode_scale**2 for each in _shared(scales))
    streams = tile.w * tile.h  # 8 bits a px and more have only tiles that are hardly compressed
    return num_recent * (pixels + streams) + (len(scales) - 1) * MAX_TILE_BYTES


def _tile(scale: Scale) -> Size:
    assert scale.tiles is not None, "only scales that decode tiles are put together"
    return scale.tiles.tile_size


def tasks_together(
    scales: Sequence[Scale], threads: int, within: range | None = None
) -> Iterator[list[Int64Array]]:
    """Indices i64[K] per scale of the patches that one thread works on.

    The first scale's are those of :func:`~wsi_hr.tiling.blocks.tasks_of`, fewer at a time as others
    come with them; a patch of another scale goes with that row of a block in which its centre lies,
    or with what comes before it. So every patch goes with one of the first scale, and is in one
    part of several that are ``within`` one after the other.
    """
    first, *others = [scale.grid for scale in scales]
    within = range(len(first)) if within is None else within
    share = sum(len(scale.grid) for scale in scales) / len(first)
    patch_px = round(scales[0].config.patch_size * share**0.5)
    part = first.take(np.arange(within.start, within.stop))
    tasks = [task + within.start for task in tasks_of(part, patch_px, threads)]
    starts = _places(first.cells[[task[0] for task in tasks]], first.shape)
    members = []
    for other in others:
        places = _places(_cells_under(scales[0], other), first.shape)
        inside = np.flatnonzero(_inside(places, first, within))
        task_of = np.searchsorted(starts, places[inside], side="right").clip(1) - 1
        cells = other.cells[inside]
        downwards = np.lexsort((cells[:, 1], cells[:, 0], task_of))
        bounds = np.searchsorted(task_of[downwards], np.arange(1, len(tasks)))
        members.append(np.split(inside[downwards], bounds))
    for number, task in enumerate(tasks):
        yield [task, *(parts[number] for parts in members)]


def _inside(places: Int64Array, first: PatchGrid, within: range) -> BoolArray:
    """Which patches go with those of ``first`` that are ``within``, by the place of each."""
    inside = np.ones(len(places), np.bool_)
    if within.start > 0:
        inside &= places >= _places(first.cells[[within.start]], first.shape)
    if within.stop < len(first):
        inside &= places < _places(first.cells[[within.stop]], first.shape)
    return inside


def encode_together(
    encoders: Sequence[BlockEncoder], grids: Sequence[PatchGrid], task: Sequence[Int64Array]
) -> list[Part]:
    """Encode a few patches of every grid, each when its last row of px is reached."""
    blocks = [grid.take(patches) for grid, patches in zip(grids, task, strict=True)]
    bottoms = [block.coords[:, 1] + block.patch_px0.y for block in blocks]
    whose = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    streams = [encoder.chunks(block) for encoder, block in zip(encoders, blocks, strict=True)]
    parts = [Part(patches, []) for patches in task]
    for number in whose[np.argsort(np.concatenate(bottoms), kind="stable")]:
        parts[number].chunks.append(next(streams[number]))
    return parts


def _cells_under(scale: Scale, other: PatchGrid) -> Int64Array:
    """Cells i64[N, 2] (row, col) of ``scale`` in which the centres of other patches lie."""
    grid, stride = scale.grid, np.array(scale.plan.stride_px0)
    origin = grid.coords[0] - grid.cells[0, ::-1] * stride
    centres = other.coords + np.array(other.patch_px0) / 2
    cells = np.floor((centres - origin) / stride)[:, ::-1].astype(np.int64)
    return cells.clip(0, np.array(grid.shape) - 1)


def _places(cells: Int64Array | Int32Array, shape: tuple[int, int]) -> Int64Array:
    """Where rows of blocks come in store order, i64[N], for cells [N, 2] (row, col)."""
    rows, cols = cells.astype(np.int64).T
    blocks_across = -(-shape[1] // BLOCK_CELLS)
    block = rows // BLOCK_CELLS * blocks_across + cols // BLOCK_CELLS
    return block * BLOCK_CELLS + rows % BLOCK_CELLS
