"""Where lesions were planted, and how much of a patch they cover."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_hr.errors import LabelError
from wsi_hr.geometry import Bounds, Float32Array, PatchGrid
from wsi_hr.runtime import write_text_atomic

LESIONS_FILE = "lesions.json"

Float64Array = npt.NDArray[np.float64]

_SAMPLES = 32  # per axis, to measure the overlap with a box


@dataclass(frozen=True)
class Ellipse:
    """A region of a slide.

    Attributes:
        x0: centre, level-0 px.
        y0: centre, level-0 px.
        a_px0: one semi-axis, level-0 px.
        b_px0: the other semi-axis, level-0 px.
        angle: of the first axis to the x axis, radians, towards y.
    """

    x0: float
    y0: float
    a_px0: float
    b_px0: float
    angle: float

    @property
    def area_px0(self) -> float:
        """Area, level-0 px squared."""
        return math.pi * self.a_px0 * self.b_px0

    @property
    def bounds(self) -> Bounds:
        """The smallest box of whole level-0 px around it."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        half_w = math.hypot(self.a_px0 * cos, self.b_px0 * sin)
        half_h = math.hypot(self.a_px0 * sin, self.b_px0 * cos)
        x, y = math.floor(self.x0 - half_w), math.floor(self.y0 - half_h)
        return Bounds(x, y, math.ceil(self.x0 + half_w) - x, math.ceil(self.y0 + half_h) - y)

    def radius(self, x0: Float64Array | float, y0: Float64Array | float) -> Float64Array:
        """Distance of points from the centre, in units of the distance to the edge: < 1 inside."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        dx, dy = np.asarray(x0) - self.x0, np.asarray(y0) - self.y0
        return np.hypot((dx * cos + dy * sin) / self.a_px0, (dy * cos - dx * sin) / self.b_px0)

    def scaled(self, factor: float) -> Ellipse:
        """The same ellipse, ``factor`` times as large, about its centre."""
        return Ellipse(self.x0, self.y0, self.a_px0 * factor, self.b_px0 * factor, self.angle)


@dataclass(frozen=True)
class Lesions:
    """What was planted in one slide.

    Attributes:
        lesions: regions of diseased tissue; none in a normal slide.
        decoys: regions of another colour, which mean nothing.
    """

    lesions: tuple[Ellipse, ...]
    decoys: tuple[Ellipse, ...]

    def contains(self, x0: float, y0: float) -> bool:
        """Whether the level-0 point lies in a lesion."""
        return any(bool(lesion.radius(x0, y0) <= 1) for lesion in self.lesions)

    def overlap(self, box: Bounds) -> float:
        """The part, 0 to 1, of a level-0 box that is lesion, to about 1 / 1000."""
        return float(_shares(self.lesions, np.array([[box.x, box.y]]), box.w, box.h)[0])

    def overlaps(self, grid: PatchGrid) -> Float32Array:
        """The part f32[N] of each patch that is lesion."""
        return _shares(self.lesions, grid.coords, grid.patch_px0.x, grid.patch_px0.y)

    def decoy_overlaps(self, grid: PatchGrid) -> Float32Array:
        """The part f32[N] of each patch that is decoy."""
        return _shares(self.decoys, grid.coords, grid.patch_px0.x, grid.patch_px0.y)


def save_lesions(folder: Path, cohort: dict[str, Any], slides: dict[str, Lesions]) -> None:
    """Write ``lesions.json``: what the cohort was made with, and every slide's ellipses."""
    document = {
        "cohort": cohort,
        "slides": {slide_id: asdict(planted) for slide_id, planted in slides.items()},
    }
    write_text_atomic(folder / LESIONS_FILE, json.dumps(document, indent=1) + "\n")


def load_lesions(folder: Path) -> dict[str, Lesions]:
    """What was planted where, by slide_id.

    Raises:
        LabelError: ``lesions.json`` is not there or not what :func:`save_lesions` writes.
    """
    return {
        slide_id: Lesions(
            lesions=tuple(Ellipse(**ellipse) for ellipse in planted["lesions"]),
            decoys=tuple(Ellipse(**ellipse) for ellipse in planted["decoys"]),
        )
        for slide_id, planted in _document(folder)["slides"].items()
    }


def load_cohort_settings(folder: Path) -> dict[str, Any]:
    """What the cohort in ``folder`` was made with; raises as :func:`load_lesions` does."""
    return _document(folder)["cohort"]


def _document(folder: Path) -> dict[str, Any]:
    path = folder / LESIONS_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise LabelError(f"{path}: cannot be read; make the cohort anew ({cause})") from cause
    if not isinstance(document, dict) or not {"cohort", "slides"} <= document.keys():
        raise LabelError(f"{path}: not the lesions of a synthetic cohort; make the cohort anew")
    return document


def _shares(
    ellipses: tuple[Ellipse, ...], corners: npt.NDArray[np.integer], w: float, h: float
) -> Float32Array:
    """The part f32[N] of boxes w x h at ``corners`` [N, 2] that the ellipses cover."""
    step = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    x = corners[:, 0, None, None] + w * step[None, None, :]
    y = corners[:, 1, None, None] + h * step[None, :, None]
    inside = np.zeros((len(corners), _SAMPLES, _SAMPLES), dtype=np.bool_)
    for ellipse in ellipses:
        inside |= ellipse.radius(x, y) <= 1
    return inside.mean(axis=(1, 2)).astype(np.float32)
