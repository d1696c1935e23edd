"""Diseased tissue: the same tissue, dense with dark round nuclei.

What differs is texture: round dark spots about 9 um wide every 15 um, where normal tissue has
finer, elongated ones. The nuclei also darken the tissue's mean, as they do in life; decoys of
changed density and hue in slides of both classes keep the mean colour from telling the lesion.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from wsi_hr.geometry import Float32Array, UInt8Array
from wsi_hr.runtime import rng_for

_FIELD_PX = 1080  # nuclei repeat after this, on a torus
_SPACING_PX = 30  # mean distance of nuclei
_AXES_PX = (7.0, 11.5)  # semi-axes of nuclei
_EDGE_PX = 3.5  # over which a nucleus fades into its surroundings
_DARKNESS = (0.6, 1.0)  # of nuclei, part of the darkest one's
_CHROMATIN = 0.25  # how uneven a nucleus is inside
_LOCAL_PX = 64  # detail is what differs from the mean over boxes of this edge
_NUCLEUS = np.array([0.22, 0.18, 0.38], dtype=np.float32)  # light that a nucleus leaves: bluish
_OWN_DETAIL = 0.55  # how much of the underlying tissue's detail shows through


def diseased(tissue: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Turn normal tissue u8[h, w, 3] into a lesion of the same place."""
    height, width = tissue.shape[:2]
    nuclei = _nuclei()
    if rng.integers(2):
        nuclei = nuclei.T
    rows = (np.arange(height) + rng.integers(_FIELD_PX)) % _FIELD_PX
    cols = (np.arange(width) + rng.integers(_FIELD_PX)) % _FIELD_PX
    cover = nuclei[np.ix_(rows, cols)][..., None]
    mean = _local_mean(tissue.astype(np.float32))
    softened = mean + _OWN_DETAIL * (tissue - mean)
    lesion = softened * (1 + cover * (_NUCLEUS - 1))
    return np.clip(lesion + 0.5, 0, 250).astype(np.uint8)


@cache
def _nuclei() -> Float32Array:
    """Where nuclei lie, f32[_FIELD_PX, _FIELD_PX] from 0 to 1, on a torus."""
    rng = rng_for("nuclei")
    field = np.zeros((_FIELD_PX, _FIELD_PX), dtype=np.float32)
    num = _FIELD_PX // _SPACING_PX
    reach = int(_AXES_PX[1] + _EDGE_PX) + 1
    window = np.arange(-reach, reach + 1)
    for row, col in np.ndindex(num, num):
        y = (row + rng.uniform(0.12, 0.88)) * _SPACING_PX
        x = (col + 0.5 * (row % 2) + rng.uniform(0.12, 0.88)) * _SPACING_PX
        major = rng.uniform(*_AXES_PX)
        minor = major * rng.uniform(0.7, 1)
        angle = rng.uniform(0, np.pi)
        dy, dx = (window + int(y) - y)[:, None], window + int(x) - x
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = dy * np.cos(angle) - dx * np.sin(angle)
        inside = (1 - np.hypot(along / major, across / minor)) * minor / _EDGE_PX + 0.5
        place = np.ix_((window + int(y)) % _FIELD_PX, (window + int(x)) % _FIELD_PX)
        nucleus = np.clip(inside, 0, 1) * rng.uniform(*_DARKNESS)
        field[place] = np.maximum(field[place], nucleus)
    clumps = rng.uniform(0, 1, (_FIELD_PX // 3, _FIELD_PX // 3)).astype(np.float32)
    uneven = Image.fromarray(clumps).resize(field.shape, Image.Resampling.BICUBIC)
    return (field * (1 - _CHROMATIN * np.asarray(uneven))).astype(np.float32)


def _local_mean(pixels: Float32Array) -> Float32Array:
    """Means over boxes of ``_LOCAL_PX``, interpolated: f32[h, w, 3] of the same shape."""
    height, width = pixels.shape[:2]
    coarse = (max(1, round(width / _LOCAL_PX)), max(1, round(height / _LOCAL_PX)))
    channels = [
        Image.fromarray(np.ascontiguousarray(pixels[..., channel]))
        .resize(coarse, Image.Resampling.BOX)
        .resize((width, height), Image.Resampling.BILINEAR)
        for channel in range(3)
    ]
    return np.stack([np.asarray(channel, dtype=np.float32) for channel in channels], axis=-1)
