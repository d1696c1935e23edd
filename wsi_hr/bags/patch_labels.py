"""The class of every patch, from the polygons somebody drew on its slide."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from wsi_hr.bags.patch_cover import Painted, covers
from wsi_hr.errors import AnnotationError
from wsi_hr.exchange.drawings import EXCLUDED, NOTHING, Polygon, plain_name, read_polygons
from wsi_hr.geometry import Int64Array, PatchGrid
from wsi_hr.method_config import DenseConfig
from wsi_hr.store.store_info import StoreInfo

UNKNOWN = -1
"""The label of a patch whose class nobody has said."""

UNNAMED = "unnamed"
"""The class of polygons to which nobody gave one."""


@dataclass(frozen=True)
class AnnotationFile:
    """A slide's annotations, and how to tell that they have changed.

    Attributes:
        path: the file.
        sha256: of its bytes, hexadecimal.
    """

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file as it is now."""
        return cls(path, hashlib.sha256(path.read_bytes()).hexdigest())


class PatchLabels:
    """Labels of patches, worked out when they are asked for.

    Args:
        files: by slide id.
        dense: the classes that count, and from what cover on.
        max_kept: slides whose labels are kept in memory.
    """

    def __init__(
        self, files: Mapping[str, AnnotationFile], dense: DenseConfig, *, max_kept: int = 256
    ) -> None:
        self._files = dict(files)
        self._dense = dense
        self._max_kept = max_kept
        self._kept: OrderedDict[str, npt.NDArray[np.int16]] = OrderedDict()

    def of(self, info: StoreInfo, grid: PatchGrid) -> Int64Array:
        """Class i64[N] of each patch of a slide: 0 background, then ``dense.classes``; -1 unknown.

        Raises:
            AnnotationError: the slide's file is damaged, or has changed since it was listed.
        """
        labels = self._kept.pop(info.slide_id, None)
        if labels is None:
            labels = self._read(info, grid).astype(np.int16)
        self._kept[info.slide_id] = labels
        if len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
        return labels.astype(np.int64)

    def _read(self, info: StoreInfo, grid: PatchGrid) -> Int64Array:
        file = self._files.get(info.slide_id)
        if file is None:
            known = self._dense.unannotated == "background"
            return np.full(len(grid), 0 if known else UNKNOWN, np.int64)
        return labels_of_patches(
            read_annotations(file, info), grid, self._dense.classes, min_cover=self._dense.min_cover
        )


def read_annotations(file: AnnotationFile, info: StoreInfo) -> list[Polygon]:
    """The polygons of a slide, every one of them sound; none: nothing was found on the slide.

    Raises:
        AnnotationError: the file is damaged or not the slide's, a polygon has no area, or the file
            has changed since it was listed.
    """
    try:
        content = file.path.read_bytes()
    except OSError as cause:
        raise AnnotationError(
            f"{file.path}: cannot be read ({cause.strerror}); restore it, then start the same "
            "command again"
        ) from cause
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise AnnotationError(
            f"{file.path}: has changed since training began; restore it, or train into another "
            "folder"
        )
    try:
        polygons = read_polygons(file.path.suffix.lower(), content, info.bounds)
        for polygon in polygons:
            _require_area(polygon)
    except AnnotationError as error:
        raise AnnotationError(f"{file.path}: {error}") from error.__cause__
    size = info.level0_size
    if polygons and not any(_touches(polygon, size) for polygon in polygons):
        raise AnnotationError(
            f"{file.path}: lies beside the slide, which is {size.w} x {size.h} px at level 0; see "
            "that it belongs to this slide and has its coordinates"
        )
    return polygons


def class_of(polygon: Polygon) -> str | None:
    """The class that a polygon marks; None where it says that nothing is there or to be said."""
    if plain_name(polygon.name) in NOTHING | EXCLUDED:
        return None
    return polygon.name.strip() or UNNAMED


def labels_of_patches(
    polygons: Sequence[Polygon], grid: PatchGrid, classes: Sequence[str], *, min_cover: float
) -> Int64Array:
    """Label i64[N] of each patch: the class that covers most of it, if that is enough of it.

    Where polygons overlap the later one counts. What EXCLUDED polygons cover enough of is unknown;
    all else is background.

    Args:
        polygons: in the order of the file; those of other classes do not count.
        grid: the patches.
        classes: names of the classes 1, 2, ...
        min_cover: least part of a patch.
    """
    code_of = {name: number for number, name in enumerate(classes, start=1)}
    excluded = len(classes) + 1
    painted = []
    for polygon in polygons:
        plain = plain_name(polygon.name)
        if plain in NOTHING:
            painted.append(Painted(0, polygon.rings))
        elif plain in EXCLUDED:
            painted.append(Painted(excluded, polygon.rings))
        elif class_of(polygon) in code_of:
            painted.append(Painted(code_of[class_of(polygon) or ""], polygon.rings))
    # as rounding leaves it, what is covered whole is a little less than that
    cover_NJ = covers(painted, grid, excluded + 1) + 1e-6
    labels = np.zeros(len(grid), np.int64)
    labels[cover_NJ[:, excluded] >= min_cover] = UNKNOWN
    if classes:
        best = 1 + cover_NJ[:, 1:excluded].argmax(1)
        enough = cover_NJ[np.arange(len(grid)), best] >= min_cover
        labels[enough] = best[enough]
    return labels


def _require_area(polygon: Polygon) -> None:
    if not polygon.rings or any(len(np.unique(ring, axis=0)) < 3 for ring in polygon.rings):
        raise AnnotationError(
            f"a polygon of class {class_of(polygon) or polygon.name!r} has fewer than 3 corners, "
            "so no area; mend or delete it where it was drawn"
        )


def _touches(polygon: Polygon, size: tuple[int, int]) -> bool:
    corners = np.concatenate(polygon.rings)
    return bool((corners.max(0) > 0).all() and (corners.min(0) < np.array(size)).all())
