"""The patches of a virtual store: decoded from its slide when they are asked for.

They are the pixels that a store of raw pixels would hold, for they come the same way: out of the
slide's own JPEG tiles where tiling found that these show what its reader shows, else by that
reader, reduced and recoloured alike. Which patches the slide gives was found out while tiling, in a
process that could crash harmlessly; here only a slide is read that has not changed since.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wsi_hr.errors import SlideError, StoreError
from wsi_hr.geometry import Int64Array, UInt8Array
from wsi_hr.machine import num_usable_cores
from wsi_hr.remote import Place
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.slides.open import open_slide
from wsi_hr.slides.slide import Slide
from wsi_hr.slides.source import Source, stamp_of
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.store.thread_pool import LazyThreadPool
from wsi_hr.tiling.blocks import tasks_of
from wsi_hr.tiling.colour import colour_transform
from wsi_hr.tiling.passthrough import tiles_of
from wsi_hr.tiling.pixel_map import PixelMap
from wsi_hr.tiling.read import SlidePatches
from wsi_hr.tiling.tile_pixels import TilePatches

SLIDES_VARIABLE = "WSI_HR_SLIDES"
"""Environment variable: folders in which slides are looked for before where they were tiled."""

_MAX_OPEN_SLIDES = 8  # each keeps its index and a few descriptors
_LOOK_EVERY_S = 1.0
_PATCHES_PER_TASK = 16  # a row of a block: fewer would decode the tiles between them twice

_decoders = LazyThreadPool(num_usable_cores(), "wsi-hr-virtual")


class SlideGoneError(StoreError):
    """The slide of a virtual store is not where it was."""


def open_store(path: Place, mpp: float | None = None) -> PatchStore:
    """Open a store for reading its patches, whether they are in it or in its slide.

    The arguments and errors are those of :meth:`wsi_hr.store.patch_store.PatchStore.open`. Of a
    virtual store the slide is not looked at before a patch is read; see :func:`require_slide`.
    """
    store = PatchStore.open(path, mpp)
    if store.virtual:
        store.read_through(SlidePixels(store))
    return store


def require_slide(store: PatchStore) -> Path:
    """Where the slide of a virtual store is now; it is the file that was tiled.

    The slide is compared by size and by its first and last 64 KiB, not read through.

    Raises:
        SlideGoneError: it is not there, or cannot be read; names store and slide.
        StoreError: it has changed; likewise.
    """
    info = store.info
    path = _whereabouts(Path(info.source_path))
    try:
        source = Source.of(path)
        same = source.size == info.source_size and source.edges_sha256() == info.source_edges_sha256
    except SlideError as cause:
        reason = str(cause).removeprefix(f"{path}: ")
        raise SlideGoneError(
            f"{store.path}: holds no pixels, they are in its slide {path}, which {reason}; put it "
            f"back, name the folder that the slides are in now by {SLIDES_VARIABLE}, or run wsi-hr "
            "tile again"
        ) from cause
    if not same:
        raise StoreError(
            f"{store.path}: holds no pixels, and its slide {path} is not the file it was made from "
            "any more; restore the slide, or run wsi-hr tile again"
        )
    return path


def _whereabouts(tiled: Path) -> Path:
    """Where a slide is: below a folder of ``WSI_HR_SLIDES``, or where it was tiled.

    ``/new`` is asked for ``/new/c.svs``, ``/new/b/c.svs`` and so on up to ``/new/a/b/c.svs`` for a
    slide ``/a/b/c.svs``, so that a tree may move as a whole, or from any of its folders on.
    """
    for folder in os.environ.get(SLIDES_VARIABLE, "").split(os.pathsep):
        for first in range(len(tiled.parts) - 1, 0, -1) if folder else ():
            if ".." in tiled.parts[first:]:
                break  # it would lead out of the folder
            moved = Path(folder, *tiled.parts[first:])
            if moved.exists():
                return moved
    return tiled


class SlidePixels:
    """Reads the patches of one virtual store; see :class:`wsi_hr.store.patch_store.PatchPixels`.

    The slide is opened when the first patch is read, by the process that reads it; of all slides a
    process keeps few open.
    """

    def __init__(self, store: PatchStore) -> None:
        """Take a virtual store."""
        self._store = store
        self._forget()
        _everyone.add(self)

    def read_into(self, indices: Sequence[int], out: UInt8Array) -> None:
        """Decode patches ``indices`` (K of them, each valid) into ``out`` u8[K, P, P, 3].

        Raises:
            StoreError: the slide is gone or has changed, or does not give a patch any more.
        """
        slide = self._acquire()
        try:
            num_tasks = min(_decoders.num_threads, len(indices) // _PATCHES_PER_TASK)
            if num_tasks < 2:
                slide.read_into(indices, _sorted(indices), out)
                return
            parts = np.array_split(np.array(_sorted(indices)), num_tasks)
            tasks = [
                _decoders.get().submit(slide.read_into, indices, part.tolist(), out)
                for part in parts
            ]
            for task in tasks:
                task.result()
        finally:
            with self._lock:
                slide.num_readers -= 1
                slide.close_if_unused()

    def _acquire(self) -> _OpenSlide:
        with self._lock:  # of this store alone: opening takes a while
            if self._slide is None or not self._slide.is_still_there():
                self._let_go()
                self._slide = _OpenSlide(self._store, require_slide(self._store))
            slide = self._slide
            slide.num_readers += 1
        oldest = _recently_read(self)
        if oldest is not None:
            with oldest._lock:
                oldest._let_go()
        return slide

    def _let_go(self) -> None:
        """Close the slide, or have it closed by its last reader; the lock is held."""
        if self._slide is not None:
            self._slide.wanted = False
            self._slide.close_if_unused()
            self._slide = None

    def _forget(self) -> None:
        self._slide: _OpenSlide | None = None
        self._lock = threading.Lock()

    def forget_after_fork(self) -> None:
        """In a forked child: leave the parent's handle alone and start with a lock of our own."""
        if self._slide is not None:
            _of_parent.append(self._slide)
        self._forget()


class _OpenSlide:
    """A slide that is open to be read; several threads read at a time."""

    def __init__(self, store: PatchStore, path: Path) -> None:
        info = store.info
        self.num_readers = 0
        self.wanted = True
        self._store = store
        self._path = path
        self._looked = time.monotonic()
        try:
            self._stamp = stamp_of(path)
            self._slide: Slide = open_slide(path, slide_id=info.slide_id)
        except (SlideError, OSError) as cause:
            raise StoreError(f"{store.path}: its slide cannot be opened ({cause})") from cause
        self._slide.mpp = info.mpp
        try:
            self._tiles = self._tiles_tiling_used()
            self._recolour = self._colours()
        except BaseException:
            self._slide.close()
            raise
        edge, self._fast = info.tile.patch_size, info.tile.resample == "fast"
        self._by_slide = SlidePatches(self._slide, info.plan, edge, fast=self._fast)
        self._tile_of = None
        if self._tiles is not None:
            self._tile_of = tiles_of(store.grid, info.plan, edge, self._tiles)
        self._reads_alike = not self._slide.interpolates(info.plan.level)
        self._first_of_task = np.array(
            [task[0] for task in tasks_of(store.grid, edge)], dtype=np.int64
        )

    def is_still_there(self) -> bool:
        """Whether the file is the one that was opened, by its stamp; asked once a second."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return True
        self._looked = now
        try:
            return stamp_of(self._path) == self._stamp
        except OSError:
            return False

    def close_if_unused(self) -> None:
        """Close it when it is wanted no more and nobody reads."""
        if not self.wanted and self.num_readers == 0:
            self._slide.close()

    def read_into(self, indices: Sequence[int], places: Sequence[int], out: UInt8Array) -> None:
        """Read the patches at positions ``places`` of ``indices``, which are sorted by patch.

        Raises:
            StoreError: the slide does not give one.
        """
        if self._tile_of is not None:
            self._read_tiles(indices, places, out, self._tile_of)
            return
        if not places:
            return
        patches = np.array([indices[place] for place in places])
        tasks = self._first_of_task.searchsorted(patches, "right")
        for part in np.split(np.arange(len(patches)), np.flatnonzero(np.diff(tasks)) + 1):
            for position, patch in zip(part.tolist(), self._of_task(patches[part]), strict=True):
                place = places[position]
                pixels = self._judged(indices[place]) if patch is None else patch
                out[place] = pixels if self._recolour is None else self._recolour(pixels)

    def _of_task(self, patches: Int64Array) -> Iterator[UInt8Array | None]:
        """Patches i64[K], sorted, that tiling read in one task."""
        grid, info = self._store.grid, self._store.info
        if self._tiles is not None:
            reader = TilePatches(self._tiles, info.plan, info.tile.patch_size, fast=self._fast)
            yield from reader.read(grid.take(patches))
        elif self._reads_alike:
            yield from self._by_slide.read(grid.take(patches))
        else:
            # OpenSlide interpolates between px of a level that is no whole part of level 0, by
            # where a read begins; so the row is read as it was then
            rows = grid.cells[patches, 0]
            for row in np.unique(rows).tolist():
                whole = self._row_of_task(int(patches[0]), row)
                found = dict(
                    zip(whole.tolist(), self._by_slide.read(grid.take(whole)), strict=True)
                )
                yield from (found[patch] for patch in patches[rows == row].tolist())

    def _row_of_task(self, patch: int, row: int) -> Int64Array:
        """The patches i64[K] of row ``row`` that belong to the task of ``patch``."""
        number = int(self._first_of_task.searchsorted(patch, "right"))
        first = int(self._first_of_task[number - 1])
        rows = self._store.grid.cells[first:, 0]
        if number < len(self._first_of_task):
            rows = rows[: self._first_of_task[number] - first]
        return np.flatnonzero(rows == row) + first

    def _read_tiles(
        self,
        indices: Sequence[int],
        places: Sequence[int],
        out: UInt8Array,
        tile_of: Int64Array,
    ) -> None:
        """Read patches that are tiles: each is decoded where it is wanted."""
        tiles, decode_scale = self._tiles, self._store.info.plan.decode_scale
        assert tiles is not None, "aligned patches have tiles"
        for place in places:
            patch = out[place]
            col, row = tile_of[indices[place]].tolist()
            try:
                tiles.decode_into(tiles.stream(col, row), patch, decode_scale)
            except SlideError:
                patch[...] = self._judged(indices[place])
            if self._recolour is not None:
                patch[...] = self._recolour(patch)

    def _judged(self, patch: int) -> UInt8Array:
        """A patch as the slide's reader gives it, which is the judge of what is damaged.

        Raises:
            StoreError: it does not give it.
        """
        (pixels,) = self._by_slide.read(self._store.grid.take(np.array([patch])))
        if pixels is None:
            raise StoreError(
                f"{self._store.path}: its slide {self._path} gave patch {patch} when it was tiled "
                "and does not now; copy the slide again from its source, or run wsi-hr tile again"
            )
        return pixels

    def _tiles_tiling_used(self) -> JpegTiles | None:
        """The slide's JPEG tiles, if the patches were read out of them.

        Raises:
            StoreError: what read the slide then does not here, or finds other levels in it.
        """
        info, downsamples = self._store.info, self._slide.level_downsamples
        if info.plan.level_downsample not in downsamples[info.plan.level : info.plan.level + 1]:
            raise StoreError(
                f"{self._store.path}: of its slide {self._path} other images are levels here than "
                "when it was tiled; run wsi-hr tile again"
            )
        tiles = self._slide.jpeg_tiles(info.plan.level) if info.reader == "jpeg tiles" else None
        reader = "jpeg tiles" if tiles else self._slide.reader_of(info.plan.level)
        if info.reader != reader:
            raise StoreError(
                f"{self._store.path}: its slide {self._path} was read by {info.reader} when it was "
                f"tiled and is by {reader} here, which may give other pixels; see wsi-hr doctor, "
                "or run wsi-hr tile again"
            )
        return tiles

    def _colours(self) -> PixelMap | None:
        """What tiling would do to the colours of a patch.

        Raises:
            StoreError: it would do another thing now than the store says.
        """
        info = self._store.info
        if not info.colour:
            return None
        colour = colour_transform(self._slide, self._store.mask, info.asked)
        if json.loads(json.dumps(colour.record)) != json.loads(json.dumps(dict(info.colour))):
            raise StoreError(
                f"{self._store.path}: the colours of its slide {self._path} would be treated "
                "otherwise here than when it was tiled; run wsi-hr tile again"
            )
        return colour.transform


_everyone: weakref.WeakSet[SlidePixels] = weakref.WeakSet()
_latest: OrderedDict[SlidePixels, None] = OrderedDict()
_latest_lock = threading.Lock()
_of_parent: list[_OpenSlide] = []  # a handle that a thread of the parent used is best not touched


def _sorted(indices: Sequence[int]) -> list[int]:
    """The positions of ``indices`` in ascending order of what is there."""
    return sorted(range(len(indices)), key=indices.__getitem__)


def _recently_read(pixels: SlidePixels) -> SlidePixels | None:
    """Take down who reads; gives the one whose slide is to be closed for it, if any."""
    with _latest_lock:
        _latest[pixels] = None
        _latest.move_to_end(pixels)
        return _latest.popitem(last=False)[0] if len(_latest) > _MAX_OPEN_SLIDES else None


def _forget_after_fork() -> None:
    global _latest_lock
    _latest.clear()
    _latest_lock = threading.Lock()
    for pixels in _everyone:
        pixels.forget_after_fork()


os.register_at_fork(after_in_child=_forget_after_fork)
