"""What a person looks at to judge a mask: a small picture of it, and outlines to correct."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from wsi_hr.errors import writing
from wsi_hr.file_names import P, file_in, own_folder, require_own
from wsi_hr.geometry import Bounds, MaskCode, Mpp, QcSummary, TissueMask, UInt8Array
from wsi_hr.remote import Place, RemotePath
from wsi_hr.runtime import atomic_path, write_text_atomic
from wsi_hr.tiling.mask_files import MASK_COLORS, is_edited, mask_geojson
from wsi_hr.tiling.overview import Overview
from wsi_hr.tiling.regions import eroded

logger = logging.getLogger(__name__)

PICTURES, OUTLINES = "qc", "masks"
"""Folders beside the stores."""

PICTURE_PX = 320
"""Longest edge of the picture."""

_TINT = 0.55


def summarise(mask: TissueMask, mpp: Mpp, left_out: int) -> QcSummary:
    """How much of what a mask shows.

    Args:
        mask: tissue and artifacts.
        mpp: um per level-0 px.
        left_out: patches that artifacts cost.
    """
    counts = np.bincount(mask.codes.ravel(), minlength=len(MaskCode))
    shown = max(1, int(counts[MaskCode.TISSUE :].sum()))
    px_mm2 = mask.downsample.x * mpp.x * mask.downsample.y * mpp.y / 1e6
    return QcSummary(
        tissue_mm2=float(counts[MaskCode.TISSUE] * px_mm2),
        pen=float(counts[MaskCode.PEN] / shown),
        blur=float(counts[MaskCode.BLUR] / shown),
        fold=float(counts[MaskCode.FOLD] / shown),
        bubble=float(counts[MaskCode.BUBBLE] / shown),
        left_out=left_out,
    )


@dataclass(frozen=True)
class Review:
    """What a person judges the mask of one slide by.

    Attributes:
        picture: a PNG.
        outlines: a GeoJSON document.
    """

    picture: bytes
    outlines: str


def draw_review(slide_id: str, overview: Overview, mask: TissueMask, bounds: Bounds) -> Review:
    """Picture and outlines of a slide's mask."""
    png = io.BytesIO()
    Image.fromarray(draw_mask(overview.rgb, mask)).save(png, format="PNG")
    return Review(png.getvalue(), mask_geojson(mask, slide_id, bounds))


def write_review(folder: Path, slide_id: str, review: Review) -> None:
    """Write ``qc/<slide_id>.png`` and ``masks/<slide_id>.geojson`` into a folder of stores.

    Raises:
        WriteError: the disk does not take it.
    """
    with writing(folder):
        _make_folders(folder)
        picture, outlines = _files(folder, slide_id)
        with atomic_path(picture) as temporary:
            temporary.write_bytes(review.picture)
        if not _left_alone(outlines):
            write_text_atomic(outlines, review.outlines)


def publish_review(written: Place, folder: Place, slide_id: str) -> None:
    """Move what :func:`write_review` wrote to another folder.

    Outlines that somebody has corrected there are left as they are.

    Args:
        written: folder in which it was written; behind a URL, or on disk.
        folder: where the stores are, behind a URL if ``written`` is.
        slide_id: the slide.

    Raises:
        WriteError: the disk does not take it.
    """
    with writing(folder):
        if isinstance(folder, Path):
            _make_folders(folder)
        for source, place in zip(_files(written, slide_id), _files(folder, slide_id), strict=True):
            if source.suffix == ".geojson" and _left_alone(place):
                continue
            if isinstance(source, RemotePath):
                assert isinstance(place, RemotePath), "both are behind one URL"
                place.write_bytes(source.read_bytes())
            elif isinstance(place, RemotePath):
                place.upload(source)
            else:
                source.replace(place)


def picture_of(folder: P, slide_id: str) -> P:
    """The picture of a slide's mask in a folder of stores."""
    return file_in(file_in(folder, PICTURES, of="folder"), slide_id, ".png", of="slide id")


def _files(folder: P, slide_id: str) -> tuple[P, P]:
    """Where picture and outlines are in a folder of stores."""
    outlines = file_in(file_in(folder, OUTLINES, of="folder"), slide_id, ".geojson", of="slide id")
    return picture_of(folder, slide_id), outlines


def _make_folders(folder: Path) -> None:
    for name in (PICTURES, OUTLINES):
        own_folder(folder, name)


def require_folders(folder: Place) -> None:
    """Make sure that what is written and read there lies in ``folder``.

    Raises:
        FileNameError: one of its folders is a link that leads elsewhere.
    """
    if isinstance(folder, Path):
        require_own(folder, PICTURES)
        require_own(folder, OUTLINES)


def _left_alone(outlines: Place) -> bool:
    if not is_edited(outlines):
        return False
    logger.warning(
        "%s: was edited, so it is left as it is; to use it, give it in a folder of its own by "
        "--masks",
        outlines,
    )
    return True


def draw_mask(rgb: UInt8Array, mask: TissueMask) -> UInt8Array:
    """The overview u8[H, W, 3], small, with tissue outlined and artifacts tinted."""
    height, width = rgb.shape[:2]
    scale = min(1.0, PICTURE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.array(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    codes = np.asarray(cv2.resize(mask.codes, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    for code, color in MASK_COLORS.items():
        inside = codes == code
        if code == MaskCode.TISSUE:
            small[inside & ~eroded(inside, np.ones((3, 3), np.uint8))] = color
        else:
            tinted = (1 - _TINT) * small[inside] + _TINT * np.array(color)
            small[inside] = tinted.astype(np.uint8)
    return small
