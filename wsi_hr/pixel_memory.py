"""Memory for pixels that a JPEG decoder writes and the next step reads at once."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np

from wsi_hr.geometry import UInt8Array

_GIVEN_BACK = 32 << 20
"""glibc's malloc takes larger blocks from the system each time, and gives them back at once."""

_at_rest: deque[memoryview] = deque(maxlen=3)  # a batch in use and two that are read ahead


def empty_pixels(*shape: int) -> UInt8Array:
    """Contiguous u8 of ``shape``, not filled; its first byte has an odd address.

    Where a row begins at a multiple of 32 bytes, libjpeg-turbo's AVX2 colour conversion
    (``vmovntdq`` in its simd/x86_64/jdcolext-avx2.asm) writes around the cache. Decoding is slower
    for it, and whoever reads the pixels next waits until they have come back from memory. At an odd
    address that does not happen, as nearly all rows have an even number of bytes.
    """
    return np.empty(math.prod(shape) + 1, np.uint8)[1:].reshape(shape)


def empty_batch(*shape: int) -> UInt8Array:
    """As :func:`empty_pixels`, for one of many large arrays of about the same size.

    The memory of one that nobody holds any more serves the next. From the system it would come
    page by page, each filled with zeros first, which the decoder would wait for.
    """
    size = math.prod(shape) + 1
    if size <= _GIVEN_BACK:
        return empty_pixels(*shape)
    memory = _rested(size)
    # Every view of an array that is made of a memoryview holds that array: it dies last of all.
    lent = np.frombuffer(memory, np.uint8)
    weakref.finalize(lent, _at_rest.append, memory).atexit = False
    return lent[1:size].reshape(shape)


def join_pixels(parts: Sequence[UInt8Array]) -> UInt8Array:
    """Arrays u8[K, ...] one after the other; a single one as it is."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts, out=empty_batch(sum(map(len, parts)), *parts[0].shape[1:]))


def _rested(size: int) -> memoryview:
    """Memory of at least ``size`` bytes that served before, or new; what does not fit is let go."""
    while _at_rest:
        try:
            memory = _at_rest.popleft()
        except IndexError:  # another thread was faster
            break
        if size <= len(memory) <= 2 * size:
            return memory
    return np.empty(size, np.uint8).data
