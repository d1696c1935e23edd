"""Stain normalisation: one map per slide that makes its stains look like a reference's.

Both methods are estimated once from pixels of a slide's tissue and then are maps of colour alone,
so neighbouring patches stay alike. Legend: N pixels, 3 channels, 2 stains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike

from wsi_hr.geometry import BoolArray, UInt8Array
from wsi_hr.tiling.pixel_map import PixelMap

Float64Array = npt.NDArray[np.float64]

WHITE = 240.0
"""What glass measures, and so where optical density is 0 (Macenko's and most scanners')."""

LEAST_OD = 0.15
"""Glass is what has less optical density (natural logarithm, mean of the channels): Macenko's beta.
"""

MIN_PX = 10_000
"""Fewer stained pixels than this estimate nothing: tissue of (50 um)^2 at 0.5 um/px."""

_PERCENTILES = (1.0, 99.0)  # robust extremes: Macenko's alpha = 1
# Between two stains. One stain under noise of 1, 2, 3 levels spreads 3, 6, 9 degrees; the
# reference's two are 23 apart, those of two real slides 21 and 50.
_MIN_ANGLE = math.radians(10.0)

REFERENCE_STAINS_32 = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
REFERENCE_MAX_2 = np.array([1.9705, 1.0308])
_MACENKO_REFERENCE = "Veta, staining-normalization (haematoxylin, eosin; 99th percentiles)"

# RGB to cone responses, and their logarithms to decorrelated axes: Reinhard et al. 2001, eq. 4, 6.
_RGB_TO_LMS = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
)
_LMS_TO_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ [[1, 1, 1], [1, 1, -2], [1, -1, 0]]
REFERENCE_MEAN_3 = np.array([8.74108109, -0.12440419, 0.0444982])
REFERENCE_STD_3 = np.array([0.6135447, 0.10989545, 0.0286032])
_REINHARD_REFERENCE = "TCGA-A2-A3XS-DX1, Amgad et al. 2019 (l alpha beta, natural logarithm)"


class NotEstimableError(ValueError):
    """A slide's pixels do not tell what its stains are; one clause."""


@dataclass(frozen=True)
class Normaliser:
    """One slide's map to the reference.

    Attributes:
        apply: the map.
        facts: what was estimated and which reference it is brought to, as plain JSON.
    """

    apply: PixelMap
    facts: dict[str, Any]


def fit_macenko(rgb: UInt8Array) -> Normaliser:
    """Two stain vectors and their strongest concentrations, brought to the reference's.

    Concentrations are scaled so that their 99th percentiles agree, and put together again with the
    reference's vectors. Of a pixel's optical density, what the two stains do not explain is lost.

    Args:
        rgb: u8[N, 3] pixels of tissue, glass among them does no harm.

    Raises:
        NotEstimableError: too little stained tissue, or not two stains.

    Source: Macenko et al., ISBI 2009, with its beta = 0.15 and alpha = 1. Unlike in usual code,
    beta is held against the mean of the channels, since a pale eosin takes next to nothing of the
    red and would go unseen, and percentiles of concentrations are those of stained pixels, so that
    glass does not dilute them.
    """
    od_N3 = _OPTICAL_DENSITY[rgb]
    od_N3 = od_N3[_is_stained(od_N3)].astype(np.float64)
    _require_enough(len(od_N3))
    _, axes = np.linalg.eigh(np.cov(od_N3.T))
    plane_32 = axes[:, :0:-1]  # the two of most variance, the first of them first
    plane_32 = plane_32 * np.where(plane_32.sum(axis=0) < 0, -1.0, 1.0)
    on_plane_N2 = od_N3 @ plane_32
    low, high = np.percentile(np.arctan2(on_plane_N2[:, 1], on_plane_N2[:, 0]), _PERCENTILES)
    if high - low < _MIN_ANGLE:
        raise NotEstimableError(
            f"its tissue shows one stain, not two (their colours differ by "
            f"{math.degrees(high - low):.1f} degrees)"
        )
    extremes_2 = np.array([low, high])
    stains_32 = plane_32 @ np.stack([np.cos(extremes_2), np.sin(extremes_2)])
    if stains_32[0, 0] < stains_32[0, 1]:  # haematoxylin is blue: it takes more of the red
        stains_32 = stains_32[:, ::-1]
    unmix_23 = np.linalg.pinv(stains_32)
    strongest_2 = np.percentile(od_N3 @ unmix_23.T, _PERCENTILES[1], axis=0)
    if not (strongest_2 > LEAST_OD).all():
        raise NotEstimableError("its tissue shows one stain, not two (the other is too faint)")
    matrix_33 = REFERENCE_STAINS_32 @ np.diag(REFERENCE_MAX_2 / strongest_2) @ unmix_23
    return Normaliser(
        _density_map(matrix_33),
        {
            "stains": _rounded(stains_32.T),
            "max_concentrations": _rounded(strongest_2),
            "num_px": len(od_N3),
            "reference": _MACENKO_REFERENCE,
            "reference_stains": _rounded(REFERENCE_STAINS_32.T),
            "reference_max_concentrations": _rounded(REFERENCE_MAX_2),
        },
    )


def fit_reinhard(rgb: UInt8Array) -> Normaliser:
    """Mean and spread of the tissue's colours in l alpha beta, brought to the reference's.

    Args:
        rgb: u8[N, 3] pixels of tissue, glass among them does no harm.

    Raises:
        NotEstimableError: too little stained tissue, or all of one colour.

    Source: Reinhard et al., IEEE Computer Graphics and Applications 21(5), 2001. Glass is left out
    of the statistics, not of the map.
    """
    stained = rgb[_is_stained(_OPTICAL_DENSITY[rgb])]
    _require_enough(len(stained))
    lab_N3 = np.log(np.maximum(stained, 1) @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T
    mean_3, std_3 = lab_N3.mean(axis=0), lab_N3.std(axis=0)
    if not (std_3 > _LEAST_SPREAD).all():
        raise NotEstimableError("its tissue is all of one colour")
    gain_33 = np.diag(REFERENCE_STD_3 / std_3)
    from_lab = np.linalg.inv(_LMS_TO_LAB)
    matrix_33 = from_lab @ gain_33 @ _LMS_TO_LAB
    offset_3 = from_lab @ (REFERENCE_MEAN_3 - gain_33 @ mean_3)
    return Normaliser(
        _cone_map(matrix_33, offset_3),
        {
            "mean": _rounded(mean_3),
            "std": _rounded(std_3),
            "num_px": len(stained),
            "reference": _REINHARD_REFERENCE,
            "reference_mean": _rounded(REFERENCE_MEAN_3),
            "reference_std": _rounded(REFERENCE_STD_3),
        },
    )


STAIN_METHODS: dict[str, Callable[[UInt8Array], Normaliser]] = {
    "macenko": fit_macenko,
    "reinhard": fit_reinhard,
}

_OPTICAL_DENSITY = -np.log(np.maximum(np.arange(256), 1) / WHITE).astype(np.float32)
_LEAST_SPREAD = 1e-3  # of an axis of l alpha beta; half a grey level is 2e-3


def _density_map(matrix_33: Float64Array) -> PixelMap:
    """Optical densities times a matrix."""
    negative = -matrix_33.astype(np.float32)

    def apply(rgb: UInt8Array) -> UInt8Array:
        densities = cv2.LUT(rgb, _OPTICAL_DENSITY)
        return _to_bytes(cv2.exp(cv2.transform(densities, negative)), WHITE)

    return apply


def _cone_map(matrix_33: Float64Array, offset_3: Float64Array) -> PixelMap:
    """Logarithms of cone responses times a matrix, plus an offset."""
    to_lms = _RGB_TO_LMS.astype(np.float32)
    to_rgb = np.linalg.inv(_RGB_TO_LMS).astype(np.float32)
    affine_34 = np.column_stack([matrix_33, offset_3]).astype(np.float32)

    def apply(rgb: UInt8Array) -> UInt8Array:
        lms = cv2.transform(np.maximum(rgb, 1).astype(np.float32), to_lms)
        return _to_bytes(cv2.transform(cv2.exp(cv2.transform(cv2.log(lms), affine_34)), to_rgb))

    return apply


def _to_bytes(values: MatLike, scale: float = 1.0) -> UInt8Array:
    """Scaled, rounded once, and cut off at 0 and 255."""
    return np.asarray(cv2.convertScaleAbs(np.maximum(values, 0), alpha=scale), np.uint8)


def _is_stained(od_N3: npt.NDArray[np.float32]) -> BoolArray:
    return od_N3.mean(axis=1) >= LEAST_OD


def _require_enough(num_px: int) -> None:
    if num_px < MIN_PX:
        raise NotEstimableError(
            f"too little stained tissue to estimate from ({num_px} of the {MIN_PX} px needed)"
        )


def _rounded(values: Float64Array) -> list[Any]:
    return np.round(values, 6).tolist()
