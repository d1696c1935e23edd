"""Masks that people draw: PNG, GeoJSON and ASAP XML in, GeoJSON for QuPath out."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_hr import __version__
from wsi_hr.errors import AnnotationError, MaskError, reading
from wsi_hr.exchange.drawings import (
    EXCLUDED,
    NOTHING,
    Ring,
    find_drawings,
    plain_name,
    read_polygons,
)
from wsi_hr.geometry import BoolArray, Bounds, MaskCode, Pair, Size, TissueMask, UInt8Array
from wsi_hr.remote import Place
from wsi_hr.tiling.regions import share

MASK_SUFFIXES = (".png", ".geojson", ".xml")

METHOD = "mask_file"
"""What a mask from a file gives as its segmenter."""

MASK_COLORS = {
    MaskCode.TISSUE: (70, 160, 90),
    MaskCode.PEN: (220, 40, 200),
    MaskCode.BLUR: (40, 90, 230),
    MaskCode.FOLD: (240, 140, 20),
    MaskCode.BUBBLE: (20, 190, 220),
}
_ARTIFACT_CODES = {code.name.lower(): code for code in MaskCode if code > MaskCode.TISSUE}

_MAX_PNG_PX = 2**26  # 8192 x 8192; a mask says nothing finer than the overview
_ASPECT = 0.01
_FINE = 4  # polygons are drawn at this multiple of the mask, then each px takes its majority
_SUBPIXEL_BITS = 4
_FURTHEST = 2.0**24  # in sub-pixels of the fine drawing: what lies further off changes nothing
_SMOOTH_PX = 0.4  # outlines written out are within this of the mask, px of the mask
_SEAL = "wsi_hr"
_NAMESPACE = uuid.UUID("6f0d5dd5-5e9e-4b0c-8f0e-0b6a6a1d6b9e")


@dataclass(frozen=True)
class MaskFrame:
    """The px of a mask, and where they lie.

    Attributes:
        shape: (H, W) of the mask.
        downsample: level-0 px per mask px, per axis.
        level0_size: the slide.
        bounds: its scanned rectangle, whose corner is QuPath's origin; level-0 px.
    """

    shape: tuple[int, int]
    downsample: Pair
    level0_size: Size
    bounds: Bounds


@dataclass(frozen=True)
class _Area:
    """A polygon: its outline and its holes f64[K, 2] (x, y), level-0 px, and what it shows."""

    code: MaskCode
    rings: list[Ring]


def read_mask(path: Path, content: bytes, frame: MaskFrame) -> TissueMask:
    """Draw a user's mask in a slide's frame.

    PNG: the whole of level 0 at any size of the same aspect; what is not black is tissue.
    GeoJSON: QuPath's annotations, in its coordinates. ASAP XML: level-0 px. Polygons named Pen,
    Blur, Fold or Bubble are artifacts; Background, Ignore and Exclude cut out; all others are
    tissue.

    Args:
        path: tells the kind of file by its suffix.
        content: bytes of the file.
        frame: of the mask that is wanted.

    Raises:
        MaskError: the file is damaged or unsafe, does not fit the slide, or shows no tissue.
    """
    kind = path.suffix.lower()
    try:
        if kind == ".png":
            codes = _from_png(content, frame)
        else:
            areas = [
                _Area(_code_of(polygon.name), polygon.rings)
                for polygon in read_polygons(kind, content, frame.bounds)
            ]
            if not any(area.code == MaskCode.TISSUE for area in areas):
                raise MaskError("has no polygon of tissue; draw one, or take the file away")  # noqa: TRY301
            codes = _drawn(areas, frame)
    except (MaskError, AnnotationError) as error:
        raise MaskError(f"{path}: {error}") from error.__cause__
    if not (codes == MaskCode.TISSUE).any():
        raise MaskError(
            f"{path}: shows no tissue on the slide, which is {frame.level0_size.w} x "
            f"{frame.level0_size.h} px at level 0; see that it belongs to this slide and has its "
            "coordinates"
        )
    return TissueMask.from_codes(codes, frame.downsample, METHOD)


def mask_sha256(content: bytes) -> str:
    """What tells whether a mask file has changed."""
    return hashlib.sha256(content).hexdigest()


def find_masks(folder: Path) -> dict[str, Path]:
    """The mask files of a folder by slide: ``case_17.png``, also ``case_17.svs.geojson``.

    Raises:
        ConfigError: there is no such folder, or a slide has two files.
    """
    return find_drawings(folder, MASK_SUFFIXES, "--masks")


def mask_geojson(mask: TissueMask, slide_id: str, bounds: Bounds) -> str:
    """A mask as annotations that QuPath opens on the slide: a FeatureCollection.

    Every piece of tissue or artifact is an annotation of its class, within half a px of the mask.
    The origin is the corner of ``bounds``, as QuPath has it.
    """
    features = []
    for code, color in MASK_COLORS.items():
        for number, rings in enumerate(_outlines(mask.codes == code)):
            name = uuid.uuid5(_NAMESPACE, f"{slide_id}/{code.name}/{number}")
            features.append(
                {
                    "type": "Feature",
                    "id": str(name),
                    "geometry": {
                        "type": "Polygon",
                        "coordinates": [_closed(ring, mask, bounds) for ring in rings],
                    },
                    "properties": {
                        "objectType": "annotation",
                        "classification": {"name": code.name.capitalize(), "color": list(color)},
                    },
                }
            )
    seal = {"version": __version__, "mask": mask.method}
    document = {"type": "FeatureCollection", _SEAL: seal, "features": features}
    return json.dumps(document, separators=(",", ":")) + "\n"


def is_edited(path: Place) -> bool:
    """Whether a GeoJSON file is somebody's work: QuPath leaves out what it does not know.

    Raises:
        ReadError: it cannot be read just now.
    """
    try:
        with reading(path), suppress(FileNotFoundError):
            return _SEAL not in json.loads(path.read_bytes())
    except (ValueError, TypeError, RecursionError):
        return True
    return False


def _from_png(content: bytes, frame: MaskFrame) -> UInt8Array:
    whole = frame.level0_size
    size = _png_size(content)
    if size.w * size.h > _MAX_PNG_PX:
        raise MaskError(
            f"has {size.w} x {size.h} px, more than a mask needs; save it at 1/16 or less"
        )
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            pixels = np.asarray(picture.convert("RGBA") if "P" in picture.mode else picture)
    except (OSError, SyntaxError, ValueError) as cause:
        raise MaskError(f"is no sound PNG ({cause}); export the mask again") from cause
    if abs(size.h - whole.h * size.w / whole.w) > max(1.5, _ASPECT * size.h):
        raise MaskError(
            f"has {size.w} x {size.h} px, which is not the shape of the slide "
            f"({whole.w} x {whole.h}); export the mask of the whole slide"
        )
    shown = _shown(pixels)
    # Linear interpolation of the integral image is the exact area under every px of the mask.
    integral = np.asarray(cv2.integral(shown.view(np.uint8), sdepth=cv2.CV_64F), np.float64)
    scale = Pair(size.w / whole.w, size.h / whole.h)
    ys = np.arange(frame.shape[0] + 1) * frame.downsample.y * scale.y
    xs = np.arange(frame.shape[1] + 1) * frame.downsample.x * scale.x
    strips = _sampled(integral, ys.clip(0, size.h))
    sums = _sampled(strips.T, xs.clip(0, size.w)).T
    covered = np.diff(np.diff(sums, axis=0), axis=1)
    px = frame.downsample.x * scale.x * frame.downsample.y * scale.y
    return (covered >= 0.5 * px).astype(np.uint8)


def _png_size(content: bytes) -> Size:
    """What a PNG's first chunk says, before anything is decoded."""
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        raise MaskError("is no PNG; export the mask again")
    return Size(int.from_bytes(content[16:20]), int.from_bytes(content[20:24]))


def _shown(pixels: npt.NDArray[Any]) -> BoolArray:
    """Where a picture of any kind is neither black nor transparent."""
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels > 0)
    num_colors = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    shown = np.asarray((pixels[..., :num_colors] > 0).any(axis=2))
    return shown if num_colors == pixels.shape[2] else shown & (pixels[..., -1] > 0)


def _sampled(
    values: npt.NDArray[np.float64], places: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Rows of ``values`` at fractional places."""
    whole = np.minimum(places.astype(np.int64), len(values) - 2)
    part = (places - whole)[:, None]
    return values[whole] * (1 - part) + values[whole + 1] * part


def _code_of(name: str) -> MaskCode:
    plain = plain_name(name)
    if plain in NOTHING | EXCLUDED:
        return MaskCode.BACKGROUND
    return _ARTIFACT_CODES.get(plain, MaskCode.TISSUE)


def _drawn(areas: Sequence[_Area], frame: MaskFrame) -> UInt8Array:
    """u8[H, W] of codes; tissue first, what is named otherwise over it, in the file's order."""
    height, width = frame.shape
    fine = np.zeros((height * _FINE, width * _FINE), np.uint8)
    scale = np.array([_FINE / frame.downsample.x, _FINE / frame.downsample.y])
    for area in sorted(areas, key=lambda area: area.code != MaskCode.TISSUE):
        # cv2 counts from the centre of a px
        subpixels = [(ring * scale - 0.5) * 2**_SUBPIXEL_BITS for ring in area.rings]
        points = [
            np.round(ring.clip(-_FURTHEST, _FURTHEST)).astype(np.int32)
            for ring in subpixels
            if len(ring) >= 3
        ]
        if points:
            cv2.fillPoly(fine, points, int(area.code), shift=_SUBPIXEL_BITS)
    codes = np.zeros(frame.shape, np.uint8)
    covered = share(fine > 0, (width, height)) > 127
    most = np.zeros(frame.shape, np.uint8)
    for code in sorted({area.code for area in areas} - {MaskCode.BACKGROUND}):
        part = share(fine == code, (width, height))
        wins = (part > most) & covered
        codes[wins] = code
        most[wins] = part[wins]
    return codes


def _outlines(mask: npt.NDArray[np.bool_]) -> Iterator[list[Ring]]:
    """Outline and holes of every connected part, px of the mask, corner to corner."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    corner = np.array([cols[0], rows[0]], np.float64)
    part = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].view(np.uint8)
    # cv2 joins the centres of the outermost px: at four times the size that is an eighth of a px
    fine = cv2.resize(part, None, fx=_FINE, fy=_FINE, interpolation=cv2.INTER_NEAREST)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    smooth = [
        (cv2.approxPolyDP(contour, _SMOOTH_PX * _FINE, True)[:, 0] + 0.5) / _FINE + corner
        for contour in contours
    ]
    for number, (_, _, hole, parent) in enumerate(hierarchy[0]):
        if parent >= 0 or len(smooth[number]) < 3:
            continue
        rings = [smooth[number]]
        while hole >= 0:
            if len(smooth[hole]) >= 3:
                rings.append(smooth[hole])
            hole = hierarchy[0][hole][0]
        yield rings


def _closed(ring: Ring, mask: TissueMask, bounds: Bounds) -> list[list[float]]:
    level0 = ring * np.array(mask.downsample) - np.array([bounds.x, bounds.y])
    points = np.round(level0, 1).tolist()
    return [*points, points[0]]
