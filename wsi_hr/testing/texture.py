"""Tissue without a seam, quilted from the one picture of real tissue that scikit-image ships.

The picture (``skimage/data/ihc.png``, 512 x 512 px, colon, haematoxylin and DAB, about 0.5 um/px)
is cut into overlapping blocks, which are laid side by side along the least visible cut.
Source: Efros and Freeman, "Image Quilting for Texture Synthesis and Transfer", SIGGRAPH 2001.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from wsi_hr.geometry import BoolArray, Float32Array, UInt8Array
from wsi_hr.runtime import rng_for

Float64Array = npt.NDArray[np.float64]

TEXTURE_PX = 2304  # a torus: the right edge continues at the left one, the bottom at the top

_BLOCK, _OVERLAP = 192, 48  # px
_STEP = _BLOCK - _OVERLAP
_GRAIN = 8  # blocks are cut at multiples of this, px
_COARSE = 4  # overlaps are compared at a quarter of the resolution
_NUM_CANDIDATES = 40  # blocks tried for each place
_MAX_GLASS = 0.15  # part of a block that may be bare glass
_GLASS_LEVEL = 234  # the darkest channel of a px of bare glass, at least
_WHITE = 238  # the picture's glass
_STAIN = 1.15  # optical density, relative to the picture's: pale stroma stands out from glass
_COMPARTMENT_PX = 480  # distance over which gland gives way to stroma


@cache
def tissue_texture() -> UInt8Array:
    """Normal tissue u8[TEXTURE_PX, TEXTURE_PX, 3] on a torus, always the same; do not write to it.

    Takes about a second, once in a process.
    """
    picture = _stain(_picture())
    sources = [
        np.ascontiguousarray(np.rot90(side, turn))
        for side in (picture, picture[:, ::-1])
        for turn in range(4)
    ]
    rng = rng_for("tissue texture")
    blocks, brownness = _blocks(sources)
    brown = np.interp(_compartments(rng), (0, 1), np.quantile(brownness, (0.01, 0.95)))
    spread = np.ptp(brown) / 12
    edge = TEXTURE_PX + _OVERLAP
    quilt = np.zeros((edge, edge, 3), dtype=np.uint8)
    for row, col in np.ndindex(brown.shape):
        y, x = row * _STEP, col * _STEP
        place = quilt[y : y + _BLOCK, x : x + _BLOCK]
        known = np.zeros((_BLOCK, _BLOCK), dtype=np.bool_)
        known[:, : _OVERLAP if x else 0] = True
        known[: _OVERLAP if y else 0] = True
        first, last = brownness.searchsorted((brown[row, col] - spread, brown[row, col] + spread))
        candidates = [blocks[index] for index in rng.integers(first, last, _NUM_CANDIDATES)]
        _join(place, _best_block(candidates, place, known), left=x > 0, top=y > 0)
    for torus in (quilt, quilt.swapaxes(0, 1)):
        strip = torus[:, :_OVERLAP].copy()
        torus[:, :_OVERLAP] = torus[:, TEXTURE_PX:]
        _join(torus[:, :_OVERLAP], strip, left=True, top=False)
    texture = np.ascontiguousarray(quilt[:TEXTURE_PX, :TEXTURE_PX])
    texture.setflags(write=False)
    return texture


def _picture() -> UInt8Array:
    # Not skimage.data.immunohistochemistry(): that asks for pooch, which only downloads need.
    with as_file(files("skimage") / "data" / "ihc.png") as path, Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _stain(picture: UInt8Array) -> UInt8Array:
    """The picture with its optical density times ``_STAIN``, glass made white first."""
    transmitted = np.minimum(picture / np.float32(_WHITE), 1)
    return (255 * transmitted**_STAIN).astype(np.uint8)


def _blocks(sources: list[UInt8Array]) -> tuple[list[UInt8Array], Float64Array]:
    """Views u8[_BLOCK, _BLOCK, 3] with little glass, and their brownness f64[N], rising."""
    found: list[tuple[float, UInt8Array]] = []
    for source in sources:
        glass = _box_means((source.min(axis=2) > _GLASS_LEVEL).astype(np.float64))
        brown = _box_means(source[..., 0].astype(np.float64) - source[..., 2])
        for y, x in np.ndindex(glass.shape):
            if glass[y, x] <= _MAX_GLASS:
                corner = source[y * _GRAIN :, x * _GRAIN :]
                found.append((float(brown[y, x]), corner[:_BLOCK, :_BLOCK]))
    found.sort(key=lambda item: item[0])
    return [block for _, block in found], np.array([brown for brown, _ in found])


def _box_means(values: Float64Array) -> Float64Array:
    """Mean over each block whose corner lies on the ``_GRAIN``."""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    first, last = total[:-_BLOCK], total[_BLOCK:]
    sums = last[:, _BLOCK:] - last[:, :-_BLOCK] - first[:, _BLOCK:] + first[:, :-_BLOCK]
    return sums[::_GRAIN, ::_GRAIN] / _BLOCK**2


def _compartments(rng: np.random.Generator) -> Float64Array:
    """Where gland (1) gives way to stroma (0): uniform in 0..1, smooth on the torus."""
    num = TEXTURE_PX // _STEP
    spectrum = np.fft.fft2(rng.normal(size=(num, num)))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(num), np.fft.fftfreq(num)))
    smooth = np.fft.ifft2(spectrum * np.exp(-((2 * frequency * _COMPARTMENT_PX / _STEP) ** 2))).real
    return smooth.ravel().argsort().argsort().reshape(num, num) / (num * num - 1)


def _best_block(candidates: list[UInt8Array], place: UInt8Array, known: BoolArray) -> UInt8Array:
    """The candidate that differs least, on a coarse raster, from what ``place`` already shows."""
    raster = (slice(None, None, _COARSE), slice(None, None, _COARSE))
    rows, cols = (index * _COARSE for index in np.nonzero(known[raster]))
    wanted = place[rows, cols].astype(np.int32)
    differences = [block[rows, cols] - wanted for block in candidates]
    return candidates[int(np.argmin([np.vdot(each, each) for each in differences]))]


def _join(place: UInt8Array, block: UInt8Array, *, left: bool, top: bool) -> None:
    """Write ``block`` over ``place``, except what lies beyond the best cut on the given sides."""
    old = np.zeros(place.shape[:2], dtype=np.bool_)
    if left:
        old[:, :_OVERLAP] |= _before_cut(_differences(place[:, :_OVERLAP], block[:, :_OVERLAP]))
    if top:
        old[:_OVERLAP] |= _before_cut(_differences(place[:_OVERLAP], block[:_OVERLAP]).T).T
    soft = Image.fromarray(old.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(2))
    share = np.asarray(soft, dtype=np.float32)[..., None] / 255
    place[...] = (share * place + (1 - share) * block + 0.5).astype(np.uint8)


def _differences(one: UInt8Array, other: UInt8Array) -> Float32Array:
    """Squared distance f32[h, w] of the colours."""
    difference = one.astype(np.float32) - other
    return np.einsum("hwc,hwc->hw", difference, difference)


def _before_cut(cost: Float32Array) -> BoolArray:
    """bool[L, W], True left of the cheapest connected path through ``cost`` [L, W], end to end."""
    length, width = cost.shape
    total = np.full((length, width + 2), np.inf, dtype=np.float32)
    total[:, 1:-1] = cost
    for above, here in zip(total, total[1:], strict=False):
        here[1:-1] += np.minimum(np.minimum(above[:-2], above[1:-1]), above[2:])
    cut = [int(total[-1].argmin()) - 1]
    for above in total[-2::-1]:
        cut.append(cut[-1] + int(above[cut[-1] : cut[-1] + 3].argmin()) - 1)
    return np.arange(width) < np.array(cut[::-1])[:, None]
