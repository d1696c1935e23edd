"""Memory that a JPEG decoder does not write around the cache."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_hr.pixel_memory import empty_pixels


@pytest.mark.parametrize("shape", [(7,), (256, 256, 3), (3, 240, 240, 3), (30, 30, 3)])
def test_no_row_of_pixels_begins_at_a_multiple_of_32_bytes(shape: tuple[int, ...]) -> None:
    pixels = empty_pixels(*shape)
    pixels[...] = 1  # it is ours to write

    assert pixels.shape == shape
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.ctypes.data % 2 == 1
    rows = pixels.reshape(-1, shape[-2] * 3) if len(shape) > 2 else pixels.reshape(1, -1)
    assert all(row.ctypes.data % 32 for row in rows)
