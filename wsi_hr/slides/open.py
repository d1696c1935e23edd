"""Opening a slide, whatever its format, or saying in one sentence why not."""

from __future__ import annotations

from pathlib import Path

import openslide

from wsi_hr.errors import SlideError
from wsi_hr.file_names import plain_name
from wsi_hr.slides.content import check_content, is_tiff
from wsi_hr.slides.dicom_series import DICOM_SUFFIXES, beside_series
from wsi_hr.slides.mpp import overriding_mpp
from wsi_hr.slides.openslide_reader import GENERIC_TIFF, OpenSlideReader
from wsi_hr.slides.slide import Slide
from wsi_hr.slides.tiff import TiffReader, judge_tiff
from wsi_hr.slides.tiff_damage import tiff_damage
from wsi_hr.slides.vendors import DICOM, PLAIN_PYRAMIDS, format_name, recognised_tiff

SLIDE_SUFFIXES: frozenset[str] = DICOM_SUFFIXES | {
    *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide"),
    *(".tif", ".tiff", ".btf", ".tf8"),
}
"""What files in a folder are taken for slides, lower case; any suffix can be opened by name."""

_COPY_AGAIN = "copy the file again from its source"


def open_slide(
    path: Path,
    *,
    slide_id: str | None = None,
    mpp_override: float | None = None,
    mpp_source: str = "mpp-override",
) -> Slide:
    """Open a slide with OpenSlide, or else as a TIFF with tifffile.

    Args:
        path: the slide's file; for MRXS the ``.mrxs`` beside its folder.
        slide_id: its name; by default that of :func:`slide_id_of`.
        mpp_override: um per level-0 px, above anything the slide says.
        mpp_source: whose word ``mpp_override`` is.

    Raises:
        SlideError: it is no slide, is damaged, or its pixels could only be guessed at.
    """
    head = check_content(path)
    override = None
    if mpp_override is not None:
        override = overriding_mpp(mpp_override, mpp_source, path)
    slide = _open(path, slide_id or slide_id_of(path), tiff=is_tiff(head))
    if override is not None:
        slide.mpp, slide.mpp_problem = override, None
    elif slide.mpp is None and (damage := tiff_damage(path)) is not None:
        # A file that lost its end has often lost the place that told the mpp.
        slide.mpp_problem = f"no mpp, for the file is damaged: {damage.what}; {_COPY_AGAIN}"
    return slide


def slide_id_of(path: Path) -> str:
    """The file's stem, as CLAM names slides; ``.ome`` goes too, and what no file name may hold."""
    stem = path.stem
    if stem.lower().endswith(".ome"):
        stem = stem[: -len(".ome")]
    return plain_name(stem)


def _open(path: Path, slide_id: str, *, tiff: bool) -> Slide:
    vendor = None
    try:
        vendor = openslide.OpenSlide.detect_format(path)
        if vendor == GENERIC_TIFF:
            _check_plain(path, "OpenSlide does not know it for that")
            # Of an OME-TIFF OpenSlide sees neither the pixel size nor the pyramid.
            if judge_tiff(path):
                return TiffReader(path, slide_id=slide_id)
        return OpenSlideReader(path, slide_id=slide_id)
    except openslide.OpenSlideError as cause:
        _check_fallback(path, vendor, cause, tiff=tiff)
        try:
            return TiffReader(path, slide_id=slide_id)
        except SlideError as second:
            reason = str(second).removeprefix(f"{path}: ")
            raise SlideError(
                f"{path}: OpenSlide cannot open it ({cause}) and as a TIFF {reason}"
            ) from second


def _check_fallback(
    path: Path, vendor: str | None, cause: openslide.OpenSlideError, *, tiff: bool
) -> None:
    """Make sure that what OpenSlide refuses may be read as a TIFF of no particular kind.

    Raises:
        SlideError: it is damaged, no TIFF, or in a format whose pages mean what only OpenSlide
            knows: one of them is the label.
    """
    damage = tiff_damage(path) if tiff else None
    if damage is not None and damage.fatal:
        raise SlideError(f"{path}: the file is damaged: {damage.what}; {_COPY_AGAIN}") from cause
    if vendor == DICOM and (kind := beside_series(path)) is not None:
        raise SlideError(
            f"{path}: it holds no slide, only what its file calls {kind}; give the files of its "
            "series that have the scan"
        ) from cause
    if vendor is not None and vendor not in PLAIN_PYRAMIDS:
        raise _refused(path, format_name(vendor), f"OpenSlide cannot open it ({cause})") from cause
    if not tiff:
        raise SlideError(
            f"{path}: OpenSlide cannot open it ({cause}) and it is not a TIFF; give the file the "
            "scanner wrote, or a pyramidal TIFF made of it"
        ) from cause
    if vendor is None:
        _check_plain(path, f"OpenSlide cannot open it ({cause})")


def _check_plain(path: Path, reason: str) -> None:
    """Make sure that a TIFF is in no format whose pages mean what only OpenSlide knows.

    Raises:
        SlideError: it is.
    """
    recognised = recognised_tiff(path)
    if recognised is not None:
        raise _refused(path, recognised, reason)


def _refused(path: Path, name: str, reason: str) -> SlideError:
    return SlideError(
        f"{path}: it is in the format {name}, which only OpenSlide reads here, and {reason}; "
        "copy it again with all its files, or export it from its scanner's software as a "
        "pyramidal TIFF"
    )
