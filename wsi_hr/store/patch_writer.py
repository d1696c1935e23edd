"""Write the patches of one slide, in order, into a store that exists whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from wsi_hr.errors import StoreError, WriteError, writing
from wsi_hr.file_names import beside, file_below
from wsi_hr.geometry import PatchGrid, TissueMask, UInt8Array
from wsi_hr.listing import is_there
from wsi_hr.runtime import fsync_file
from wsi_hr.store.manifest import (
    FSYNCS_AT_A_TIME,
    TMP_SUFFIX,
    FileEntry,
    commit_folder,
    is_ours,
    sweep,
)
from wsi_hr.store.shards import build_shard
from wsi_hr.store.skeleton import write_root, write_scale, write_valid
from wsi_hr.store.store_info import StoreInfo, scale_name

STORE_SUFFIX = ".zarr"


class PatchStoreWriter:
    """Writes ``<name>.zarr.tmp`` beside ``<name>.zarr`` and renames it when all is there.

    A context manager: leaving it without :meth:`commit` removes what was written. Memory is bounded
    by two shards of encoded patches: one is written while the next comes together.
    """

    def __init__(
        self,
        path: Path,
        info: StoreInfo,
        grid: PatchGrid,
        mask: TissueMask,
        thumbnail: UInt8Array,
    ) -> None:
        """Start the store of one slide.

        Args:
            path: where the store shall be, ending in ``.zarr``; a store that is there already is
                replaced on :meth:`commit`.
            info: what the store says of itself.
            grid: the N patches, N > 0, in the order in which they are written and read.
            mask: tissue and artifacts.
            thumbnail: u8[h, w, 3] of the whole slide.

        Raises:
            ValueError: the arguments do not fit each other.
            StoreError: something else than a store is there.
            WriteError: the folder cannot be written.
        """
        _check(path, info, grid, mask, thumbnail)
        if is_there(path) and not is_ours(path) and not (path.is_dir() and not any(path.iterdir())):
            raise StoreError(
                f"{path}: exists and is not a patch store; move it or choose another output folder"
            )
        self._path = path
        self._folder = beside(path, after=TMP_SUFFIX)
        self._shards: dict[str, FileEntry] = {}
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="wsi-hr-save")
        self._flusher = ThreadPoolExecutor(FSYNCS_AT_A_TIME, thread_name_prefix="wsi-hr-flush")
        self._flushes: list[Future[None]] = []
        with self._writing():
            sweep(path)
            self._folder.mkdir(parents=True)
        # compressed while the first patches are cut; what goes wrong shows at the first shard
        self._saved = self._saver.submit(write_root, self._folder, info, mask, thumbnail)
        self._start_scale(info, grid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._saver.shutdown(cancel_futures=True)
        self._flusher.shutdown(cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def next_scale(self, info: StoreInfo, grid: PatchGrid) -> None:
        """Finish a scale and start another.

        Args:
            info: what the store says of itself at that scale.
            grid: its N patches, N > 0, in the order in which they are written and read.

        Raises:
            ValueError: patches of the scale before are missing, or the arguments do not fit.
            WriteError: the disk does not take it.
        """
        _check_scale(info, grid)
        self._finish_scale()
        self._start_scale(info, grid)

    def write(self, chunks: Sequence[bytes | None]) -> None:
        """Write the next patches, in the grid's order.

        Args:
            chunks: one per patch, as the codec of the store's settings encodes it
                (:func:`wsi_hr.store.chunks.chunk_codec_for`), or a sealed JPEG stream of the same
                size; None for a patch that the slide did not give. A virtual store only takes down
                which it gave.

        Raises:
            ValueError: there are more than the grid has.
            WriteError: the disk does not take it.
        """
        if self._num_written + len(chunks) > len(self._valid):
            raise ValueError(
                f"{self._num_written} + {len(chunks)} patches are more than the "
                f"{len(self._valid)} of the grid"
            )
        for chunk in chunks:
            self._valid[self._num_written] = chunk is not None
            self._num_written += 1
            if self._layout is None:
                continue
            self._chunks.append(chunk)
            if len(self._chunks) == self._layout.num_slots:
                self._write_shard()

    def commit(self) -> None:
        """Finish the store and put it in its place.

        Raises:
            ValueError: patches are missing.
            WriteError: the disk does not take it.
        """
        self._finish_scale()
        self._wait_until_saved()
        with self._writing():
            for flush in self._flushes:
                flush.result()
            commit_folder(self._folder, self._path, self._shards)

    def _start_scale(self, info: StoreInfo, grid: PatchGrid) -> None:
        self._mpp = info.tile.mpp
        self._valid = np.zeros(len(grid), dtype=np.bool_)
        self._num_written = 0
        self._chunks: list[bytes | None] = []
        with self._writing():
            self._layout = write_scale(self._folder, info, grid)

    def _finish_scale(self) -> None:
        if self._num_written != len(self._valid):
            raise ValueError(f"{self._num_written} of {len(self._valid)} patches were written")
        if self._chunks:
            self._write_shard()
        with self._writing():
            write_valid(self._folder, self._mpp, self._valid)

    def _write_shard(self) -> None:
        assert self._layout is not None, "a virtual store has no shards"
        number = (self._num_written - 1) // self._layout.num_slots
        name = f"{scale_name(self._mpp)}/patches/{self._layout.shard_name(number)}"
        file = file_below(self._folder, name, of="file of a store")
        shard = build_shard(self._chunks, self._layout.num_slots)
        self._chunks = []
        self._wait_until_saved()
        self._saved = self._saver.submit(self._save, file, shard)

    def _save(self, file: Path, shard: bytes) -> None:
        file.write_bytes(shard)
        self._flushes.append(self._flusher.submit(fsync_file, file))
        digest = hashlib.sha256(shard).hexdigest()
        self._shards[file.relative_to(self._folder).as_posix()] = FileEntry(len(shard), digest)

    def _wait_until_saved(self) -> None:
        with self._writing():
            self._saved.result()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with writing(self._path):
                yield
        except WriteError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise


def _check(
    path: Path, info: StoreInfo, grid: PatchGrid, mask: TissueMask, thumbnail: UInt8Array
) -> None:
    _refuse(
        info,
        {
            f"{path.name} does not end in {STORE_SUFFIX}": path.suffix == STORE_SUFFIX,
            "the mask is not bool[H, W]": mask.mask.dtype == np.bool_ and mask.mask.ndim == 2,
            "the mask is empty": mask.mask.size > 0,
            "the mask is not the one the info describes": mask.method == info.segmenter
            and mask.downsample == info.mask_downsample,
            "the thumbnail is not u8[h, w, 3]": thumbnail.dtype == np.uint8
            and thumbnail.ndim == 3
            and thumbnail.shape[2] == 3
            and thumbnail.size > 0,
        },
    )
    _check_scale(info, grid)


def _check_scale(info: StoreInfo, grid: PatchGrid) -> None:
    num = len(grid)
    coords, cells, tissue, artifact = grid.coords, grid.cells, grid.tissue, grid.artifact
    _refuse(
        info,
        {
            "there are no patches": num > 0,
            "coords are not i32[N, 2]": coords.dtype == np.int32 and coords.shape == (num, 2),
            "cells are not i32[N, 2]": cells.dtype == np.int32 and cells.shape == (num, 2),
            "tissue is not f32[N]": tissue.dtype == np.float32 and tissue.shape == (num,),
            "artifact is not f32[N]": artifact.dtype == np.float32 and artifact.shape == (num,),
            "the grid's footprint is not the plan's": grid.patch_px0 == info.plan.patch_px0,
            "the scale was not asked": info.tile == info.asked.at(info.tile.mpp)
            and info.tile.mpp in info.asked.scales,
        },
    )


def _refuse(info: StoreInfo, problems: dict[str, bool]) -> None:
    broken = [problem for problem, fine in problems.items() if not fine]
    if broken:
        raise ValueError(f"{info.slide_id}: {'; '.join(broken)}")
