"""Patches read straight from their shard files: one ``pread`` and one decoding each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from wsi_hr.errors import StoreError, StoreReadError
from wsi_hr.file_names import file_below
from wsi_hr.geometry import UInt8Array
from wsi_hr.machine import num_usable_cores
from wsi_hr.store.chunks import unseal
from wsi_hr.store.descriptors import SHARD_DESCRIPTORS, ShardFile
from wsi_hr.store.layout import PatchLayout
from wsi_hr.store.shards import UInt64Array, find_chunk, index_bytes, parse_index
from wsi_hr.store.thread_pool import LazyThreadPool

_MAX_CACHED_INDICES = 8192  # 4 KiB each: 2 million patches, 32 MiB
_PATCHES_PER_TASK = 16  # below this, handing the work to a thread costs more than it saves

_decoders = LazyThreadPool(num_usable_cores(), "wsi-hr-decode")


class PatchArray:
    """The array ``patches`` of one store, open for reading; thread-safe."""

    def __init__(self, folder: Path, layout: PatchLayout, shard_bytes: Sequence[int]) -> None:
        """Take an array as its metadata describe it; nothing is read yet.

        Args:
            folder: the array's folder.
            layout: see :func:`wsi_hr.store.layout.parse_layout`.
            shard_bytes: size of every shard file.
        """
        self.layout = layout
        self._shards = [
            ShardFile(str(file_below(folder, layout.shard_name(shard), of="shard")), num_bytes)
            for shard, num_bytes in enumerate(shard_bytes)
        ]

    def read_into(self, indices: Sequence[int], out: UInt8Array) -> None:
        """Decode patches ``indices`` (K of them, each in 0..N-1) into ``out`` u8[K, P, P, 3].

        Raises:
            StoreError: naming the patch and the file that is damaged.
        """
        if len(indices) < 2 * _PATCHES_PER_TASK or _decoders.num_threads < 2:
            self._decode(indices, out)
            return
        num_tasks = min(_decoders.num_threads, len(indices) // _PATCHES_PER_TASK)
        edges = [len(indices) * task // num_tasks for task in range(num_tasks + 1)]
        tasks = [
            _decoders.get().submit(self._decode, indices[start:stop], out[start:stop])
            for start, stop in zip(edges, edges[1:], strict=False)
        ]
        for task in tasks:
            task.result()

    def stored_bytes(self, indices: Sequence[int]) -> list[bytes]:
        """The bytes of patches (each in 0..N-1) as they were encoded, checked and not decoded.

        Raises:
            StoreError: naming the patch and the file that is damaged.
        """
        return [self._stored(patch) for patch in indices]

    def _stored(self, patch: int) -> bytes:
        shard, slot = divmod(patch, self.layout.num_slots)
        file = self._shards[shard]
        try:
            return unseal(_read_chunk(file, self.layout.num_slots, slot))
        except (ValueError, OSError) as cause:
            raise _unreadable(file, patch, cause) from cause

    def _decode(self, indices: Sequence[int], out: UInt8Array) -> None:
        decode_into, num_slots = self.layout.codec.decode_into, self.layout.num_slots
        for position, patch in enumerate(indices):
            shard, slot = divmod(patch, num_slots)
            file = self._shards[shard]
            try:
                decode_into(_read_chunk(file, num_slots, slot), out[position])
            except (ValueError, OSError) as cause:
                raise _unreadable(file, patch, cause) from cause


def _unreadable(file: ShardFile, patch: int, cause: ValueError | OSError) -> StoreError:
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        return StoreReadError(
            f"{file.path}: patch {patch} cannot be read ({cause.strerror or cause}); see that the "
            "disk is there and lets you, then start the same command again"
        )
    reason = cause.strerror if isinstance(cause, OSError) else str(cause)
    return StoreError(
        f"{file.path}: patch {patch} cannot be read ({reason}); "
        "delete this store and run wsi-hr tile again"
    )


def _read_chunk(file: ShardFile, num_slots: int, slot: int) -> bytes:
    place = find_chunk(_index_of(file, num_slots), slot)
    if place is None:
        raise ValueError("it is missing from the shard")
    offset, length = place
    return SHARD_DESCRIPTORS.pread(file, length, offset)


@lru_cache(maxsize=_MAX_CACHED_INDICES)
def _index_of(file: ShardFile, num_slots: int) -> UInt64Array:
    num_bytes = index_bytes(num_slots)
    tail = SHARD_DESCRIPTORS.pread(file, num_bytes, max(0, file.num_bytes - num_bytes))
    return parse_index(tail, num_slots=num_slots, file_bytes=file.num_bytes)
