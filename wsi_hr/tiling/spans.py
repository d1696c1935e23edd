"""One slide cut by many processes, on whichever machines: its store is laid out, then filled.

A span is a few shards of a scale, with what other scales that are read in one pass with it have
there. A shard of another scale seldom lies in one span: each span leaves its part of it, which is a
shard too, with slots that are missing; when all are there, they are joined.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_hr.config import TileConfig
from wsi_hr.errors import writing
from wsi_hr.file_names import file_below, file_in
from wsi_hr.geometry import Int64Array
from wsi_hr.remote import Place, RemotePath
from wsi_hr.runtime import fsync_file
from wsi_hr.scratch import temporary_folder
from wsi_hr.slides.open import open_slide
from wsi_hr.slides.slide import Slide
from wsi_hr.slides.source import Source
from wsi_hr.store.layout import PatchLayout, parse_layout
from wsi_hr.store.manifest import FileEntry, Manifest, entry_of, files_below, read_checked
from wsi_hr.store.shards import (
    CHUNKS_PER_SHARD,
    build_shard,
    find_chunk,
    index_bytes,
    parse_index,
)
from wsi_hr.store.skeleton import read_mask, read_root, read_scale, write_root, write_scale
from wsi_hr.store.store_info import scale_name
from wsi_hr.tiling.blocks import Chunk
from wsi_hr.tiling.colour import colour_transform
from wsi_hr.tiling.later_chunks import LaterChunks
from wsi_hr.tiling.passes import encoding_pass, plan_passes
from wsi_hr.tiling.review import draw_review, write_review
from wsi_hr.tiling.survey import Scale, Survey
from wsi_hr.tiling.tile import (
    Origin,
    TileResult,
    info_of,
    looked_over,
    notes_before,
    result_of,
    thumbnail_of,
    without_patches,
    write_store,
)

SPAN_SHARDS = 8
"""Shards that a span has of all its scales together: a few seconds of work."""

PARTS = "parts"
"""Folder in a store that is not finished: parts of shards, what is being written, and what is for
people to look at once the slide is done."""

_OF = "file of a store"


@dataclass(frozen=True)
class Span:
    """What one task cuts.

    Attributes:
        mpp: the first of the scales that are read together.
        first, stop: its patches, from the first slot of a shard on.
    """

    mpp: float
    first: int
    stop: int


@dataclass(frozen=True)
class Unfinished:
    """A store that has all but its patches.

    Attributes:
        folder: where it is.
        files: what it has, durable.
        num_patches: by mpp, of the scales that have any.
        source_size, source_edges_sha256, source_mtimes_ns: of the slide, for
            :meth:`~wsi_hr.slides.source.Source.check_same`.
    """

    folder: Place
    files: Mapping[str, FileEntry]
    num_patches: Mapping[float, int]
    source_size: int
    source_edges_sha256: str
    source_mtimes_ns: tuple[int, ...]


@dataclass(frozen=True)
class Begun:
    """What a look at a slide came to.

    Attributes:
        result: what became of it, or will where it is still to be cut: its reason then lacks the
            patches that prove unreadable.
        store: that is to be filled; None: the slide is done with.
        spans: that fill it.
    """

    result: TileResult
    store: Unfinished | None = None
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Part:
    """A part of a shard.

    Attributes:
        mpp: of its scale.
        shard: number of the shard.
        name: of its file in the store.
        entry: what is in it.
    """

    mpp: float
    shard: int
    name: str
    entry: FileEntry


@dataclass(frozen=True)
class Cut:
    """What a span gave.

    Attributes:
        files: whole shards.
        parts: of others.
        num_read: patches by mpp.
        unreadable: those of them that the slide did not give, by mpp.
    """

    files: Mapping[str, FileEntry]
    parts: tuple[Part, ...]
    num_read: Mapping[float, int]
    unreadable: Mapping[float, tuple[int, ...]]


def begin_slide(
    path: Path,
    slide_id: str,
    store_path: Path,
    config: TileConfig,
    mpp_override: float | None,
    mpp_source: str,
    coords: Path | None = None,
    mask_path: Path | None = None,
    source_name: str | None = None,
) -> Begun:
    """Tile a small slide as :func:`~wsi_hr.tiling.tile.tile_slide` does; lay a larger one out.

    Arguments and errors are those of that function. A store that is laid out is at ``store_path``,
    not finished.
    """
    with looked_over(
        path, slide_id, config, mpp_override, mpp_source, coords, mask_path, source_name
    ) as (origin, survey):
        num_patches = sum(len(scale.grid) for scale in survey.scales)
        if not len(survey.scales[0].grid):
            return Begun(without_patches(store_path.parent, origin, survey))
        if num_patches <= SPAN_SHARDS * CHUNKS_PER_SHARD:
            notes = write_store(store_path, origin, survey, 1)
            return Begun(result_of(origin, survey, notes))
        return _laid_out(store_path, origin, survey)


def _laid_out(folder: Path, origin: Origin, survey: Survey) -> Begun:
    main = survey.scales[0]
    slide, info = main.slide, info_of(origin, survey, main)
    cut = [scale for scale in survey.scales if len(scale.grid)]
    with writing(folder):
        folder.mkdir(parents=True)
        write_root(folder, info, survey.mask, thumbnail_of(slide, survey.overview))
        for scale in cut:
            write_scale(folder, info_of(origin, survey, scale), scale.grid)
        files = {name: entry_of(file_below(folder, name, of=_OF)) for name in files_below(folder)}
        for name in files:
            fsync_file(file_below(folder, name, of=_OF))
    review = draw_review(slide.slide_id, survey.overview, survey.mask, slide.bounds)
    write_review(folder / PARTS, slide.slide_id, review)
    source = origin.source
    source.check_unchanged()
    store = Unfinished(
        folder,
        files,
        {scale.config.mpp: len(scale.grid) for scale in cut},
        source.size,
        source.edges_sha256(),
        source.mtimes_ns,
    )
    result = result_of(origin, survey, notes_before(origin, survey, info))
    return Begun(result, store, tuple(_spans(cut)))


def _spans(scales: Sequence[Scale]) -> Iterator[Span]:
    for scales_together, _ in plan_passes(scales, threads=1):
        first = scales_together[0]
        share = sum(len(scale.grid) for scale in scales_together) / len(first.grid)
        step = max(1, round(SPAN_SHARDS / share)) * CHUNKS_PER_SHARD
        for start in range(0, len(first.grid), step):
            yield Span(first.config.mpp, start, min(start + step, len(first.grid)))


def cut_span(
    path: Path,
    slide_id: str,
    mpp_override: float | None,
    mpp_source: str,
    store: Unfinished,
    span: Span,
) -> Cut:
    """Cut the patches of a span into a store that was laid out.

    Whoever does it again, anywhere, writes the same files.

    Args:
        path: the slide.
        slide_id: its name in tables and stores.
        mpp_override: as the store was laid out with.
        mpp_source: likewise.
        store: what was laid out.
        span: what is to be cut.

    Raises:
        SlideError: the slide cannot be opened, or changed since the store was laid out.
        StoreError: the store is gone.
        WriteError: the store cannot be written.
    """
    source = Source.of(path)
    source.check_same(store.source_size, store.source_edges_sha256, store.source_mtimes_ns)
    files: dict[str, FileEntry] = {}
    pieces: list[Part] = []
    with (
        open_slide(
            path, slide_id=slide_id, mpp_override=mpp_override, mpp_source=mpp_source
        ) as slide,
        ExitStack() as at_hand,
    ):
        passes = plan_passes(_scales(slide, store), threads=1)
        (together,) = [one for one in passes if one.scales[0].config.mpp == span.mpp]
        shelves = []
        for scale in together.scales:
            chunks = LaterChunks(len(scale.grid), temporary_folder())
            shelves.append(_Shelf(store, scale, at_hand.enter_context(chunks)))
        within = range(span.first, span.stop)
        for parts in at_hand.enter_context(encoding_pass(together, 1, within)):
            for shelf, part in zip(shelves, parts, strict=True):
                shelf.put(part.patches, part.chunks)
        with writing(store.folder):
            for shelf in shelves:
                shelf.write(files, pieces, span)
    source.check_unchanged()
    return Cut(
        files,
        tuple(pieces),
        {shelf.mpp: shelf.num_read for shelf in shelves},
        {shelf.mpp: shelf.unreadable for shelf in shelves},
    )


class _Shelf:
    """The chunks of a span at one scale, until there are all of them.

    Args:
        store: where they go.
        scale: theirs.
        chunks: holds them.
    """

    def __init__(self, store: Unfinished, scale: Scale, chunks: LaterChunks) -> None:
        self.mpp = scale.config.mpp
        self._store, self._chunks = store, chunks
        self._read: list[Int64Array] = []
        self._unreadable: list[int] = []
        self._layout = None if scale.mode == "virtual" else _layout(store, self.mpp)

    @property
    def num_read(self) -> int:
        """Patches put."""
        return sum(map(len, self._read))

    @property
    def unreadable(self) -> tuple[int, ...]:
        """Those of them that the slide did not give."""
        return tuple(sorted(self._unreadable))

    def put(self, patches: Int64Array, chunks: Sequence[Chunk]) -> None:
        """Keep the chunks of ``patches``."""
        self._read.append(patches)
        pairs = zip(patches.tolist(), chunks, strict=True)
        self._unreadable += [patch for patch, chunk in pairs if chunk is None]
        if self._layout is not None:
            self._chunks.put(patches, chunks)

    def write(self, files: dict[str, FileEntry], parts: list[Part], span: Span) -> None:
        """Write them as shards where these are whole, else as parts; tells which."""
        layout = self._layout
        if layout is None or not self.num_read:
            return
        counts = np.bincount(
            np.concatenate(self._read) // layout.num_slots, minlength=layout.num_shards
        )
        for shard in np.flatnonzero(counts).tolist():
            first = shard * layout.num_slots
            patches = range(first, min(first + layout.num_slots, layout.num_patches))
            content = build_shard(self._chunks.some(patches), layout.num_slots)
            if counts[shard] == len(patches):
                name = _shard_file(layout, self.mpp, shard)
                files[name] = put_file(self._store, name, content)
            else:
                name = f"{PARTS}/{scale_name(self.mpp)}.{shard}.{span.first}"
                entry = put_file(self._store, name, content)
                parts.append(Part(self.mpp, shard, name, entry))


def join_parts(store: Unfinished, parts: Sequence[Part]) -> dict[str, FileEntry]:
    """Write the shards of which all parts are there.

    Args:
        store: has the parts.
        parts: all of some shards.

    Returns:
        The shards' files.

    Raises:
        StoreError: a part is gone or damaged.
        WriteError: a shard cannot be written.
    """
    of_shard: dict[tuple[float, int], list[Part]] = defaultdict(list)
    for part in parts:
        of_shard[part.mpp, part.shard].append(part)
    written = {}
    for (mpp, shard), together in of_shard.items():
        layout = _layout(store, mpp)
        chunks: list[Chunk] = [None] * layout.num_slots
        for part in together:
            content = read_checked(store.folder, Manifest({part.name: part.entry}), part.name)
            tail = content[-index_bytes(layout.num_slots) :]
            index = parse_index(tail, num_slots=layout.num_slots, file_bytes=len(content))
            for slot in range(layout.num_slots):
                found = find_chunk(index, slot)
                if found is not None:
                    chunks[slot] = content[found[0] : found[0] + found[1]]
        name = _shard_file(layout, mpp, shard)
        with writing(store.folder):
            written[name] = put_file(store, name, build_shard(chunks, layout.num_slots))
    return written


def put_file(store: Unfinished, name: str, content: bytes) -> FileEntry:
    """Make ``name`` in a store a file of these bytes, whole or not at all, and durable.

    Raises:
        OSError: the disk does not take it, or the store is gone.
    """
    if isinstance(store.folder, RemotePath):
        file_below(store.folder, name, of=_OF).write_bytes(content)
    else:
        # whoever was given up for dead may write the same file at the same time
        file = file_in(store.folder / PARTS, uuid.uuid4().hex, of="part of a shard")
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        fsync_file(file)
        file.rename(file_below(store.folder, name, of=_OF))
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def _scales(slide: Slide, store: Unfinished) -> list[Scale]:
    """The scales of a store that was laid out, as they were then."""
    manifest = Manifest(store.files)
    root = read_root(store.folder, manifest)
    found = [read_scale(store.folder, manifest, root, mpp) for mpp in store.num_patches]
    main, recolour = found[0][0], None
    if main.colour:
        mask = read_mask(store.folder, manifest, main)
        recolour = colour_transform(slide, mask, main.asked).transform
    return [
        Scale(
            slide,
            info.tile,
            info.plan,
            slide.jpeg_tiles(info.plan.level) if info.reader == "jpeg tiles" else None,
            grid,
            recolour,
        )
        for info, grid in found
    ]


def _layout(store: Unfinished, mpp: float) -> PatchLayout:
    name = f"{scale_name(mpp)}/patches/zarr.json"
    return parse_layout(read_checked(store.folder, Manifest(store.files), name))


def _shard_file(layout: PatchLayout, mpp: float, shard: int) -> str:
    return f"{scale_name(mpp)}/patches/{layout.shard_name(shard)}"
