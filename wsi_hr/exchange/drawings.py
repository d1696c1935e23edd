"""Polygons that people draw on slides: QuPath's GeoJSON and ASAP's XML in, level-0 px out."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from wsi_hr.errors import AnnotationError, ConfigError
from wsi_hr.geometry import Bounds
from wsi_hr.slides.open import SLIDE_SUFFIXES

Ring = npt.NDArray[np.float64]

ASAP_SUFFIX = ".xml"
NOTHING = frozenset({"background", "glass"})
"""Plain names of polygons in which there is nothing of what is marked."""
EXCLUDED = frozenset({"ignore", "exclude", "exclusion"})
"""Plain names of polygons that nothing is said about."""

_DECLARATION = re.compile(r"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)


@dataclass(frozen=True)
class Polygon:
    """An area somebody drew.

    Attributes:
        name: its class (QuPath) or group (ASAP); empty where it has none.
        rings: its outline and its holes f64[K, 2] (x, y), level-0 px.
    """

    name: str
    rings: list[Ring]


def plain_name(name: str) -> str:
    """A class's name without letter case and without the star that QuPath gives some."""
    return name.strip().rstrip("*").lower()


def find_drawings(folder: Path, suffixes: Collection[str], option: str) -> dict[str, Path]:
    """The files of a folder by slide: ``case_17.xml``, also ``case_17.svs.geojson``.

    Args:
        folder: where they are.
        suffixes: those that count, in small letters.
        option: of the command line that names the folder.

    Raises:
        ConfigError: there is no such folder, or a slide has two files.
    """
    if not folder.is_dir():
        raise ConfigError(f"{option} {folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        slide_id = path.stem
        if Path(slide_id).suffix.lower() in SLIDE_SUFFIXES:
            slide_id = Path(slide_id).stem
        if slide_id in found:
            raise ConfigError(
                f"{option} {folder}: {found[slide_id].name} and {path.name} are for the same "
                "slide; keep one"
            )
        found[slide_id] = path
    return found


def read_polygons(suffix: str, content: bytes, bounds: Bounds) -> list[Polygon]:
    """Polygons in the order of the file; lines, points and QuPath's detections are left alone.

    Args:
        suffix: ``.xml`` for ASAP, else GeoJSON.
        content: bytes of the file.
        bounds: the slide's scanned rectangle, whose corner is QuPath's origin; level-0 px.

    Raises:
        AnnotationError: the file is damaged or unsafe.
    """
    return _from_asap(content) if suffix == ASAP_SUFFIX else _from_geojson(content, bounds)


def _from_geojson(content: bytes, bounds: Bounds) -> list[Polygon]:
    try:
        document = json.loads(content)
        origin = np.array([bounds.x, bounds.y], np.float64)
        return [
            Polygon(name, [ring + origin for ring in rings])
            for name, geometry in _features(document)
            for rings in _polygons(geometry)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as cause:
        raise AnnotationError(f"is not GeoJSON ({cause}); export it again from QuPath") from cause


def _features(document: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Class and geometry of every annotation; cells, tiles and other detections are left alone."""
    if isinstance(document, list):
        for item in document:
            yield from _features(item)
    elif document["type"] == "FeatureCollection":
        yield from _features(document["features"])
    elif document["type"] == "Feature":
        properties = document.get("properties") or {}
        if properties.get("objectType", "annotation") == "annotation" and document["geometry"]:
            given = properties.get("classification") or {}
            yield given if isinstance(given, str) else given.get("name") or "", document["geometry"]
    else:
        yield "", document


def _polygons(geometry: Mapping[str, Any]) -> Iterator[list[Ring]]:
    """Rings of every polygon; lines and points have no area."""
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _polygons(part)
    elif kind in ("Polygon", "MultiPolygon"):
        polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
        for rings in polygons:
            yield [_ring(points) for points in rings]


def _ring(points: Sequence[Sequence[float]]) -> Ring:
    ring = np.array([point[:2] for point in points], np.float64).reshape(-1, 2)
    if not np.isfinite(ring).all():
        raise ValueError("a coordinate is not a number")
    return ring


def _from_asap(content: bytes) -> list[Polygon]:
    try:
        text = content.decode(
            "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        )
        if _DECLARATION.search(text):
            raise AnnotationError(  # noqa: TRY301
                "declares XML entities, which annotations do not do and attacks do; get the file "
                "from a source you trust"
            )
        root = ElementTree.fromstring(text)
        if root.tag != "ASAP_Annotations":
            raise ValueError(f"its root is {root.tag}")  # noqa: TRY301
        polygons = []
        for annotation in root.iter("Annotation"):
            if annotation.get("Type") in ("Polygon", "Spline", "Rectangle"):
                corners = sorted(
                    (int(c.get("Order", "0")), float(c.attrib["X"]), float(c.attrib["Y"]))
                    for c in annotation.iter("Coordinate")
                )
                ring = _ring([corner[1:] for corner in corners])
                polygons.append(Polygon(annotation.get("PartOfGroup", ""), [ring]))
    except (ElementTree.ParseError, ValueError, KeyError, RecursionError) as cause:
        raise AnnotationError(f"is not ASAP's XML ({cause}); export it again") from cause
    return polygons
