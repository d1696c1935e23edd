"""Patches read from shard files behind a URL: few requests, for each takes a while.

Indices are kept. Chunks that lie close together in a shard come with one request, and all requests
of a read are on their way at the same time, where the driver can do that.
"""

from __future__ import annotations

from collections.abc import Sequence

from wsi_hr.errors import StoreError, StoreReadError
from wsi_hr.file_names import file_below
from wsi_hr.geometry import UInt8Array
from wsi_hr.machine import num_usable_cores
from wsi_hr.remote import Range, RemotePath, read_ranges
from wsi_hr.store.chunks import unseal
from wsi_hr.store.layout import PatchLayout
from wsi_hr.store.shards import UInt64Array, find_chunk, index_bytes, parse_index
from wsi_hr.store.thread_pool import LazyThreadPool

_WORTH_A_REQUEST = 1 << 18  # bytes: read over a gap that is smaller, it comes sooner
_PATCHES_PER_TASK = 16

_decoders = LazyThreadPool(num_usable_cores(), "wsi-hr-decode-remote")


class RemotePatches:
    """The array ``patches`` of one store behind a URL, open for reading; thread-safe."""

    def __init__(self, folder: RemotePath, layout: PatchLayout, shard_bytes: Sequence[int]) -> None:
        """Take an array as its metadata describe it; nothing is read yet.

        Args:
            folder: the array's folder.
            layout: see :func:`wsi_hr.store.layout.parse_layout`.
            shard_bytes: size of every shard file.
        """
        self.layout = layout
        self._shards = [
            file_below(folder, layout.shard_name(shard), of="shard")
            for shard in range(len(shard_bytes))
        ]
        self._shard_bytes = shard_bytes
        self._indices: dict[int, UInt64Array] = {}

    def read_into(self, indices: Sequence[int], out: UInt8Array) -> None:
        """Decode patches ``indices`` (K of them, each in 0..N-1) into ``out`` u8[K, P, P, 3].

        Raises:
            StoreError: naming the file that is damaged or cannot be reached.
        """
        chunks = self._chunks(indices)

        def decode(position: int) -> None:
            try:
                self.layout.codec.decode_into(chunks[position], out[position])
            except ValueError as cause:
                raise self._damaged(indices[position], cause) from cause

        if len(indices) < 2 * _PATCHES_PER_TASK:
            for position in range(len(indices)):
                decode(position)
        else:
            list(_decoders.get().map(decode, range(len(indices))))

    def stored_bytes(self, indices: Sequence[int]) -> list[bytes]:
        """The bytes of patches (each in 0..N-1) as they were encoded, checked and not decoded.

        Raises:
            StoreError: naming the file that is damaged or cannot be reached.
        """
        stored = []
        for patch, chunk in zip(indices, self._chunks(indices), strict=True):
            try:
                stored.append(unseal(chunk))
            except ValueError as cause:
                raise self._damaged(patch, cause) from cause
        return stored

    def _chunks(self, indices: Sequence[int]) -> list[bytes]:
        """The sealed chunks of patches, in the order of ``indices``."""
        places = [divmod(patch, self.layout.num_slots) for patch in indices]
        self._read_indices(sorted({shard for shard, _ in places} - self._indices.keys()))
        wanted: list[tuple[int, int, int]] = []  # shard, start, stop
        for patch, (shard, slot) in zip(indices, places, strict=True):
            found = find_chunk(self._indices[shard], slot)
            if found is None:
                raise self._damaged(patch, ValueError("it is missing from the shard"))
            wanted.append((shard, found[0], found[0] + found[1]))
        requests: list[tuple[int, int, int]] = []
        of_request: dict[tuple[int, int, int], int] = {}
        for shard, start, stop in sorted(set(wanted)):
            last = requests[-1] if requests else (-1, 0, 0)
            if shard == last[0] and start - last[2] < _WORTH_A_REQUEST:
                requests[-1] = shard, last[1], max(stop, last[2])
            else:
                requests.append((shard, start, stop))
            of_request[shard, start, stop] = len(requests) - 1
        answers = self._read(requests)
        chunks = []
        for shard, start, stop in wanted:
            number = of_request[shard, start, stop]
            first = requests[number][1]
            chunks.append(answers[number][start - first : stop - first])
        return chunks

    def _read_indices(self, shards: Sequence[int]) -> None:
        num_bytes = index_bytes(self.layout.num_slots)
        sizes = [self._shard_bytes[shard] for shard in shards]
        requests = [
            (shard, max(0, size - num_bytes), size)
            for shard, size in zip(shards, sizes, strict=True)
        ]
        for shard, size, tail in zip(shards, sizes, self._read(requests), strict=True):
            try:
                index = parse_index(tail, num_slots=self.layout.num_slots, file_bytes=size)
            except ValueError as cause:
                raise self._damaged(shard * self.layout.num_slots, cause) from cause
            self._indices[shard] = index

    def _read(self, requests: Sequence[tuple[int, int, int]]) -> list[bytes]:
        try:
            return read_ranges([Range(self._shards[k], start, stop) for k, start, stop in requests])
        except FileNotFoundError as cause:
            raise StoreError(
                f"{cause.filename}: a file of the store is missing; run wsi-hr tile again"
            ) from cause
        except OSError as cause:
            raise StoreReadError(
                f"{cause.filename}: cannot be read ({cause.strerror}); see that the server is "
                "there and lets you, then run again"
            ) from cause

    def _damaged(self, patch: int, cause: ValueError) -> StoreError:
        return StoreError(
            f"{self._shards[patch // self.layout.num_slots]}: patch {patch} cannot be read "
            f"({cause}); delete this store and run wsi-hr tile again"
        )
