"""Shard files of zarr v3 (``sharding_indexed``), as bytes: chunks, index, CRC-32C of the index.

The index has one row per slot: offset and length of the chunk in the file, little-endian u64;
both are 2**64 - 1 where the chunk is missing.

Source: the Zarr v3 specification, sharding codec 1.0, index at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsi_hr.store.chunks import CRC_BYTES, seal, unseal

UInt64Array = npt.NDArray[np.uint64]

CHUNKS_PER_SHARD = 256  # a block of 16 x 16 patches
_MISSING = 2**64 - 1


def index_bytes(num_slots: int) -> int:
    """Size of the index of a shard with ``num_slots`` slots, its checksum included, in bytes."""
    return num_slots * 2 * np.dtype("<u8").itemsize + CRC_BYTES


def build_shard(chunks: Sequence[bytes | None], num_slots: int) -> bytes:
    """A shard file's bytes.

    Args:
        chunks: at most ``num_slots`` chunks, slot 0 first; ``None`` is a missing one, as are the
            slots after the last.
        num_slots: slots of every shard of the array.
    """
    if len(chunks) > num_slots:
        raise ValueError(f"{len(chunks)} chunks do not fit a shard of {num_slots}")
    index = np.full((num_slots, 2), _MISSING, dtype="<u8")
    lengths = np.array([0 if chunk is None else len(chunk) for chunk in chunks], np.uint64)
    present = np.flatnonzero([chunk is not None for chunk in chunks])
    index[present, 0] = (lengths.cumsum() - lengths)[present]
    index[present, 1] = lengths[present]
    return b"".join([*filter(None, chunks), seal(index.tobytes())])


def parse_index(tail: bytes, *, num_slots: int, file_bytes: int) -> UInt64Array:
    """Read the index off the last :func:`index_bytes` bytes of a shard file.

    Args:
        tail: those bytes.
        num_slots: slots of every shard of the array.
        file_bytes: size of the whole file.

    Returns:
        u64[num_slots, 2]: offset and length, see :func:`find_chunk`.

    Raises:
        ValueError: the index is damaged, or a chunk would lie outside the file.
    """
    if len(tail) != index_bytes(num_slots):
        raise ValueError("it is too short for its index")
    try:
        index = np.frombuffer(unseal(tail), dtype="<u8").reshape(num_slots, 2)
    except ValueError as cause:
        raise ValueError("the checksum of its index does not fit") from cause
    present = index[(index != _MISSING).any(axis=1)]
    space = np.uint64(file_bytes - len(tail))
    # Subtract, do not add: offset + length may wrap around.
    if (present > space).any() or (present[:, 0] > space - present[:, 1]).any():
        raise ValueError("its index points outside the file")
    return index


def find_chunk(index: UInt64Array, slot: int) -> tuple[int, int] | None:
    """Offset and length in bytes of the chunk in ``slot``, or ``None`` where it is missing."""
    offset, length = index[slot].tolist()
    return None if offset == _MISSING == length else (offset, length)
