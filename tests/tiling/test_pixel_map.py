"""A table gives the pixels of the map it was made of, whichever thread asks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wsi_hr.tiling.pixel_map import TabulatedMap


def scramble(rgb):
    """A map in which every channel of the result depends on every channel of the pixel."""
    r, g, b = np.moveaxis(rgb.astype(np.uint16), -1, 0)
    return np.stack([r ^ (g >> 1), g + 3 * b, b ^ (r & g)], axis=-1).astype(np.uint8)


def test_the_table_equals_the_map_and_is_made_when_it_pays():
    rng = np.random.default_rng(0)
    calls = []

    def compute(rgb):
        calls.append(rgb.shape)
        return scramble(rgb)

    tabulated = TabulatedMap(compute)
    small = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    large = rng.integers(0, 256, (2048, 4096, 3), dtype=np.uint8)
    for picture in (small, large, large):
        assert np.array_equal(tabulated(picture), scramble(picture))
    assert len(calls) == 2 + 256, "the second large one was looked up"
    with ThreadPoolExecutor(2) as pool:
        pictures = [rng.integers(0, 256, (64, 48, 3), dtype=np.uint8) for _ in range(20)]
        for picture, made in zip(pictures, pool.map(tabulated, pictures), strict=True):
            assert made.dtype == np.uint8
            assert np.array_equal(made, scramble(picture))
    assert len(calls) == 2 + 256, "and nothing was computed any more"
