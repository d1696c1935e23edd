"""Tissue of known stains: haematoxylin in nuclei, eosin around them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from wsi_hr.geometry import UInt8Array

HE_32 = np.array([[0.65, 0.21], [0.70, 0.92], [0.30, 0.33]])
OTHER_32 = np.array([[0.55, 0.12], [0.76, 0.85], [0.36, 0.51]])


def unit(vectors_32: npt.ArrayLike) -> npt.NDArray[np.float64]:
    vectors = np.asarray(vectors_32, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=0)


def concentrations(size: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Concentrations f64[size, size, 2]: nuclei with soft rims in fibres of uneven strength."""
    rng = np.random.default_rng(seed)

    def field(scale: float) -> npt.NDArray[np.float64]:
        values = gaussian_filter(rng.standard_normal((size, size)), scale)
        return values / values.std()

    nucleus = np.clip((field(4) - 0.5) / 0.5, 0, 1)
    haematoxylin = nucleus * np.clip(0.9 + 0.25 * field(3), 0.3, None)
    eosin = (1 - nucleus) * np.clip(0.6 + 0.2 * field(6), 0.25, None)
    return np.stack([haematoxylin, eosin], axis=-1)


def stained(
    concentration: npt.NDArray[np.float64], vectors_32: npt.ArrayLike, white: float = 240.0
) -> UInt8Array:
    """What light leaves of glass after the stains: u8[..., 3]."""
    density = concentration @ unit(vectors_32).T
    return np.rint(white * np.exp(-density)).astype(np.uint8)
