"""Memory for pixels that a JPEG decoder writes and the next step reads at once."""

from __future__ import annotations

import math

import numpy as np

from wsi_hr.geometry import UInt8Array


def empty_pixels(*shape: int) -> UInt8Array:
    """Contiguous u8 of ``shape``, not filled; its first byte has an odd address.

    Where a row begins at a multiple of 32 bytes, libjpeg-turbo's AVX2 colour conversion
    (``vmovntdq`` in its simd/x86_64/jdcolext-avx2.asm) writes around the cache. Decoding is slower
    for it, and whoever reads the pixels next waits until they have come back from memory. At an odd
    address that does not happen, as nearly all rows have an even number of bytes.
    """
    return np.empty(math.prod(shape) + 1, np.uint8)[1:].reshape(shape)
