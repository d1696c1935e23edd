"""Telling tissue from glass at low power.

A segmenter is a function of the picture alone: rgb u8[H, W, 3], valid bool[H, W] and um per px
(x, y) to tissue bool[H, W]. What needs a physical size (fragments, holes) happens afterwards, in
um^2.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

import cv2
import numpy as np
from skimage.filters import threshold_otsu

from wsi_hr.config import TileConfig
from wsi_hr.errors import ConfigError
from wsi_hr.geometry import BoolArray, Float32Array, Pair, TissueMask, UInt8Array
from wsi_hr.slides.slide import Slide
from wsi_hr.tiling.overview import Overview
from wsi_hr.tiling.qc import find_artifacts
from wsi_hr.tiling.regions import Regions, eroded

Segmenter = Callable[[UInt8Array, BoolArray, Pair], BoolArray]

# Saturation is 255 * (max - min) / max. Glass measures 0 to 7 on real slides; the palest 1 % of
# stained tissue about 8, the palest 5 % about 22 (LC25000, NCT-CRC at 16 um/px). Otsu's threshold
# is trusted between these bounds only: on bare glass it would split noise, on a slide full of
# tissue it would split the tissue.
_SATURATION_BOUNDS = (12, 20)

_DARK = 50  # brightest channel; stained tissue in transmitted light stays above 100
_LIT = 120
_MIN_CHANNEL_RATIO = 0.12  # min / max channel: stains let some of every colour through, LEDs do not

# Darkness is how far the darkest channel lies below the glass, in gray levels.
_DARKNESS_BOUNDS = (12, 30)
_GLASS_AT_LEAST = 180  # no scan has darker glass; a slide full of tissue has none to measure

# Entropy in bits of the gray levels, in steps of 4, of 7 x 7 px. Noise of a scan gives at most
# about 1.5, stained tissue 2.5 and more.
_ENTROPY_WINDOW, _ENTROPY_STEP = 7, 4
_MIN_ENTROPY = 2.0


def saturation_otsu(rgb: UInt8Array, valid: BoolArray, um: Pair) -> BoolArray:
    """Tissue is what has colour, in transmitted light.

    The saturation is averaged over 3 x 3 px, which closes pale gaps and adds a rim of about one
    px, then cut at Otsu's threshold, kept between the saturations of glass and of pale tissue.
    A picture that is not transmitted light (fluorescence: mostly dark, in pure colours) has none.
    """
    lit = _lit(rgb, valid)
    if lit is None:
        return np.zeros_like(valid)
    hsv = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV))
    saturation, brightest = np.asarray(hsv[1], np.uint8), np.asarray(hsv[2], np.uint8)
    threshold = _otsu(saturation[lit], _SATURATION_BOUNDS)
    smooth = cv2.blur(saturation * lit, (3, 3))
    # an integer test, as everywhere here: floats of a whole slide cost more than the decoding
    least = np.ceil(_MIN_CHANNEL_RATIO * np.arange(256)).astype(np.uint8)
    return (smooth > threshold) & lit & (_darkest(rgb) >= cv2.LUT(brightest, least))


def luminance(rgb: UInt8Array, valid: BoolArray, um: Pair) -> BoolArray:
    """Tissue is what is darker than the glass: for pale or gray stains, such as weak IHC.

    The glass is the commonest bright level. The difference, averaged over 3 x 3 px, is cut at
    Otsu's threshold, kept between noise and pale tissue. Shadows and dust are tissue to it.
    """
    lit = _lit(rgb, valid)
    if lit is None:
        return np.zeros_like(valid)
    darkest = _darkest(rgb)
    bright = np.bincount(darkest[lit], minlength=256)[_GLASS_AT_LEAST:]
    glass = _GLASS_AT_LEAST + int(bright.argmax()) if bright.any() else 255
    darkness = np.where(lit, cv2.subtract(np.full_like(darkest, glass), darkest), np.uint8(0))
    threshold = _otsu(darkness[lit], _DARKNESS_BOUNDS)
    return (cv2.blur(darkness, (3, 3)) > threshold) & lit


def entropy(rgb: UInt8Array, valid: BoolArray, um: Pair) -> BoolArray:
    """Tissue is what has structure: for stains as pale as their glass, and uneven light.

    Entropy of the gray levels around every px; half a window is taken off again all around. Text,
    dust and the edge of a coverslip have structure too.
    """
    lit = _lit(rgb, valid)
    if lit is None:
        return np.zeros_like(valid)
    gray = np.array(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    gray[~valid] = np.median(gray[lit])
    rim = np.ones((_ENTROPY_WINDOW - 2, _ENTROPY_WINDOW - 2), np.uint8)
    return eroded(_local_entropy(gray) >= _MIN_ENTROPY, rim) & lit


SEGMENTERS: dict[str, Segmenter] = {
    "saturation_otsu": saturation_otsu,
    "luminance": luminance,
    "entropy": entropy,
}


def segment(overview: Overview, config: TileConfig, slide: Slide | None = None) -> TissueMask:
    """Draw the tissue mask of a slide on its overview, and what spoils it.

    What could not be read is counted as tissue: its patches are then attempted and reported as
    unreadable, instead of vanishing as if there were nothing.

    Args:
        overview: the slide at about 16 um/px.
        config: segmenter, sizes of fragments and holes, artifacts to look for.
        slide: the slide, on which blur is looked for; None: not looked for.

    Raises:
        ConfigError: a segmenter of the user's cannot be imported, fails, or gives no mask.
    """
    raw = _apply(config.segmenter, overview)
    tissue = clean(
        raw, overview.um, min_fragment_um2=config.min_fragment_um2, max_hole_um2=config.max_hole_um2
    )
    artifacts = None
    # of a picture in the dark all would be black ink
    if config.artifacts and _lit(overview.rgb, overview.valid) is not None:
        artifacts = find_artifacts(overview, tissue, config.artifacts, slide)
        if artifacts.any():
            # what is left of tissue between strokes and rims is too small to be any
            left = tissue & (artifacts == 0)
            tissue = clean(
                left, overview.um, min_fragment_um2=config.min_fragment_um2, max_hole_um2=0
            )
        else:
            artifacts = None
    return TissueMask(
        mask=tissue | overview.unreadable,
        downsample=overview.downsample,
        method=config.segmenter,
        artifacts=artifacts,
    )


def load_segmenter(name: str) -> Segmenter:
    """A segmenter by its name: one of :data:`SEGMENTERS`, or ``package.module:function``.

    The module is imported from Python's path, nothing is ever unpickled.

    Raises:
        ConfigError: there is no such function.
    """
    if name in SEGMENTERS:
        return SEGMENTERS[name]
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as cause:  # somebody else's module may raise anything
        raise ConfigError(
            f"tile.segmenter {name}: cannot be imported ({cause}); install its package, or put its "
            "folder on PYTHONPATH"
        ) from cause
    if not callable(found):
        raise ConfigError(f"tile.segmenter {name}: is no function")
    return cast("Segmenter", found)


def clean(
    mask: BoolArray, um: Pair, *, min_fragment_um2: float, max_hole_um2: float | None
) -> BoolArray:
    """Remove fragments and fill holes that are too small.

    Args:
        mask: bool[H, W].
        um: um per mask px, per axis.
        min_fragment_um2: smaller parts are removed.
        max_hole_um2: smaller holes are filled; None: all of them.
    """
    pieces = Regions.of(mask, um, diagonal=True)
    mask = pieces.select(pieces.area_um2 >= min_fragment_um2)
    if max_hole_um2 == 0:
        return mask
    holes = Regions.of(~mask, um, diagonal=False)
    if max_hole_um2 is None:  # the glass around is no hole
        return mask | holes.select(~holes.at_border())
    return mask | holes.select(holes.area_um2 < max_hole_um2)


def _apply(name: str, overview: Overview) -> BoolArray:
    segmenter = load_segmenter(name)
    if name in SEGMENTERS:
        return segmenter(overview.rgb, overview.valid, overview.um)
    try:
        # copies: what somebody else's code does to them is not ours to see
        mask = segmenter(overview.rgb.copy(), overview.valid.copy(), overview.um)
    except Exception as cause:
        raise ConfigError(
            f"tile.segmenter {name}: failed with {type(cause).__name__} ({cause})"
        ) from cause
    shape = overview.valid.shape
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != shape:
        given = f"{mask.dtype}{mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ConfigError(f"tile.segmenter {name}: gave {given}, expected bool{shape}")
    return mask & overview.valid


def _lit(rgb: UInt8Array, valid: BoolArray) -> BoolArray | None:
    """Where there is light; None where the picture is not transmitted light."""
    red, green, blue = cv2.split(rgb)
    brightest = cv2.max(cv2.max(red, green), blue)
    lit = valid & (brightest >= _DARK)
    if np.count_nonzero(lit & (brightest >= _LIT)) * 2 <= np.count_nonzero(lit):
        return None
    return lit


def _darkest(rgb: UInt8Array) -> UInt8Array:
    red, green, blue = cv2.split(rgb)
    return np.asarray(cv2.min(cv2.min(red, green), blue), np.uint8)


def _otsu(values: UInt8Array, bounds: tuple[int, int]) -> int:
    """Otsu's threshold of u8[K], kept within bounds."""
    histogram = np.bincount(values, minlength=256)
    if np.count_nonzero(histogram) < 2:
        return bounds[1]
    otsu = int(threshold_otsu(hist=(histogram, np.arange(256))))
    return min(max(otsu, bounds[0]), bounds[1])


def _local_entropy(gray: UInt8Array) -> Float32Array:
    """Entropy in bits f32[H, W] of the gray levels around every px."""
    bits = np.zeros(gray.shape, np.float32)
    window = (_ENTROPY_WINDOW, _ENTROPY_WINDOW)
    num = _ENTROPY_WINDOW**2
    # of every count that a window can have, its part of the sum; a blur of 0 and 255 gives counts
    parts = np.arange(256) / 255
    parts = -parts * np.log2(parts, where=parts > 0, out=np.zeros(256))
    table = parts.astype(np.float32)
    assert num <= 255, "counts must survive eight bits"
    levels = gray // _ENTROPY_STEP
    for level in np.flatnonzero(np.bincount(levels.ravel())):
        inside = (levels == level).view(np.uint8) * np.uint8(255)
        bits += cv2.LUT(cv2.blur(inside, window), table)
    return bits
