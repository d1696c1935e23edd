"""Telling tissue from glass at low power.

A segmenter is a function of the picture alone: rgb u8[H, W, 3] and valid bool[H, W] to tissue
bool[H, W]. What needs a physical size (fragments, holes) happens afterwards, in um^2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter
from skimage.filters import threshold_otsu
from skimage.measure import label

from wsi_hr.geometry import BoolArray, Int64Array, Pair, TissueMask, UInt8Array
from wsi_hr.tiling.overview import Overview

MIN_FRAGMENT_UM2 = 10_000.0
"""Smaller pieces of tissue are dust: (100 um)^2, less than one patch of 256 px at 0.5 um/px."""

MAX_FILLED_HOLE_UM2 = 40_000.0
"""Smaller holes belong to the tissue: (200 um)^2, about one alveolus or gland lumen."""

# Saturation is 255 * (max - min) / max. Glass measures 0 to 7 on real slides; the palest 1 % of
# stained tissue about 8, the palest 5 % about 22 (LC25000, NCT-CRC at 16 um/px). Otsu's threshold
# is trusted between these bounds only: on bare glass it would split noise, on a slide full of
# tissue it would split the tissue.
_MIN_THRESHOLD = 12
_MAX_THRESHOLD = 20

_DARK = 50  # brightest channel; stained tissue in transmitted light stays above 100
_LIT = 120
_MIN_CHANNEL_RATIO = 0.12  # min / max channel: stains let some of every colour through, LEDs do not


def saturation_otsu(rgb: UInt8Array, valid: BoolArray) -> BoolArray:
    """Tissue is what has colour, in transmitted light.

    The saturation is averaged over 3 x 3 px, which closes pale gaps and adds a rim of about one
    px, then cut at Otsu's threshold, kept between the saturations of glass and of pale tissue.
    A picture that is not transmitted light (fluorescence: mostly dark, in pure colours) has none.
    """
    brightest = rgb.max(axis=-1)
    lit = valid & (brightest >= _DARK)
    if np.count_nonzero(brightest[lit] >= _LIT) * 2 <= np.count_nonzero(lit):
        return np.zeros_like(valid)
    darkest = rgb.min(axis=-1)
    span = (brightest - darkest).astype(np.uint16) * np.uint16(255)
    saturation = (span // np.maximum(brightest, 1)).astype(np.uint8)
    histogram = np.bincount(saturation[lit], minlength=256)
    threshold = _MAX_THRESHOLD
    if np.count_nonzero(histogram) > 1:
        otsu = int(threshold_otsu(hist=(histogram, np.arange(256))))
        threshold = min(max(otsu, _MIN_THRESHOLD), _MAX_THRESHOLD)
    smooth = np.asarray(Image.fromarray(saturation * lit).filter(ImageFilter.BoxBlur(1)))
    return (smooth > threshold) & lit & (darkest >= _MIN_CHANNEL_RATIO * brightest)


SEGMENTERS: dict[str, Callable[[UInt8Array, BoolArray], BoolArray]] = {
    "saturation_otsu": saturation_otsu,
}


def segment(overview: Overview, method: str) -> TissueMask:
    """Draw the tissue mask of a slide on its overview, at about 16 um/px.

    What could not be read is counted as tissue: its patches are then attempted and reported as
    unreadable, instead of vanishing as if there were nothing.
    """
    mask = clean(SEGMENTERS[method](overview.rgb, overview.valid), overview.um)
    return TissueMask(
        mask=mask | overview.unreadable, downsample=overview.downsample, method=method
    )


def clean(mask: BoolArray, um: Pair) -> BoolArray:
    """Remove fragments and fill holes that are too small.

    Args:
        mask: bool[H, W].
        um: um per mask px, per axis.
    """
    px_um2 = float(um.x * um.y)
    pieces = _components(mask, connectivity=2)
    areas = np.bincount(pieces.ravel()) * px_um2
    areas[0] = 0
    mask = (areas >= MIN_FRAGMENT_UM2)[pieces] & mask
    holes = _components(~mask, connectivity=1)
    areas = np.bincount(holes.ravel()) * px_um2
    areas[0] = np.inf
    return mask | (areas < MAX_FILLED_HOLE_UM2)[holes]


def _components(mask: BoolArray, *, connectivity: int) -> Int64Array:
    """Numbers of connected parts, from 1; 0 where ``mask`` is False."""
    # For a bool array scikit-image imports half a second of scipy, in every slide's process anew.
    numbers = label(mask.astype(np.uint8), connectivity=connectivity)
    return np.asarray(numbers, dtype=np.int64)
