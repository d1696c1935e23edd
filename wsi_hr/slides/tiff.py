"""TIFFs that OpenSlide refuses or would misread: OME-TIFF, strips, WebP, and other rare codecs.

Also the judge of what a plain TIFF holds, whoever reads it: OpenSlide shows the first of five
fluorescence channels as grey, and 16-bit samples cut down to 8, without a word.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import tifffile

from wsi_hr.errors import SlideError
from wsi_hr.geometry import BoolArray, Bounds, Point, Size, UInt8Array
from wsi_hr.slides.jpeg_tiles import JpegTiles, has_jpeg_tiles
from wsi_hr.slides.level_check import levels_alike
from wsi_hr.slides.levels import downsamples_of, proportional, read_clipped, to_level
from wsi_hr.slides.mpp import MppClaim, judge_mpp, parse_number, resolution, stated
from wsi_hr.slides.ome import OmeFacts, is_ome, read_ome, refuse_declarations
from wsi_hr.slides.slide import Slide, profile_of_tiles
from wsi_hr.slides.thumbnail import draw_thumbnail
from wsi_hr.slides.tiff_page import SegmentCache, TiffPageReader, why_refused, why_too_large
from wsi_hr.slides.tiff_pages import (
    damage_told,
    facts_of,
    is_doubtful,
    main_of,
    main_page,
    num_planes,
    opened_tiff,
    pictures_beside,
    reduced_pages,
    walk,
)

_INTER_COLOR_PROFILE = 34675
_UNITS = {2: "inch", 3: "centimeter"}
_APERIO_KEY = re.compile(r"\|\s*(MPP|AppMag)\s*=\s*([^|;\s]+)")


class TiffReader(Slide):
    """A TIFF read by tifffile."""

    reader = "tifffile"

    def __init__(self, path: Path, *, slide_id: str):
        """Open a TIFF.

        Raises:
            SlideError: it cannot be read, or its pixels could only be guessed at.
        """
        self.path = path
        self.slide_id = slide_id
        self._jpeg_tiles: dict[int, JpegTiles | None] = {}
        self._file = opened_tiff(path)
        try:
            with damage_told(path):
                self._describe(path)
        except BaseException:
            self._file.close()
            raise

    def _describe(self, path: Path) -> None:
        base, ome = _judge(self._file, path)
        beside = pictures_beside(self._file, ome)
        self.associated_images = tuple(sorted(set(beside.values())))
        self._take_levels(_levels(self._file, base, beside, path))
        self.vendor = "tiff" if ome is None else "ome-tiff"
        self.bounds = Bounds(0, 0, *self.level_dimensions[0])
        self._icc_profile = _icc_profile(base)
        claims, self.objective_power = _claims(base, ome)
        self.mpp, self.mpp_problem = judge_mpp(claims, self.objective_power)
        doubtful = [k for k, level in enumerate(self._levels) if k and is_doubtful(level.page)]
        self._take_levels([self._levels[k] for k in levels_alike(self, doubtful)])

    def _take_levels(self, levels: list[TiffPageReader]) -> None:
        self._levels = levels
        self.level_dimensions = tuple(level.size for level in levels)
        self.level_downsamples = downsamples_of(self.level_dimensions)
        self.level_tile_sizes = tuple(level.tile_size for level in levels)

    @property
    def icc_profile(self) -> bytes | None:
        """See :class:`Slide`."""
        return self._icc_profile or profile_of_tiles(self)

    def read_region(self, xy0: Point, level: int, size: Size) -> tuple[UInt8Array, BoolArray]:
        """See :class:`Slide`."""
        if self._file.filehandle.closed:
            raise ValueError(f"{self.path}: the slide was closed")
        corner = to_level(xy0, self.level_downsamples[level])
        page = self._levels[level]
        try:
            return read_clipped(page.read, page.size, corner, size)
        except SlideError as cause:
            raise SlideError(
                f"{self.path}: level {level} cannot be read at ({corner.x}, {corner.y}), {cause}; "
                "copy the file again from its source"
            ) from cause

    def thumbnail(self, max_px: int) -> UInt8Array:
        """See :class:`Slide`."""
        return draw_thumbnail(self, max_px)

    def jpeg_tiles(self, level: int) -> JpegTiles | None:
        """See :class:`Slide`."""
        if level not in self._jpeg_tiles:
            self._jpeg_tiles[level] = _jpeg_tiles(self.path, self._levels[level].page)
        return self._jpeg_tiles[level]

    def close(self) -> None:
        """See :class:`Slide`."""
        self._file.close()
        for tiles in self._jpeg_tiles.values():
            if tiles is not None:
                tiles.close()


def judge_tiff(path: Path) -> bool:
    """Make sure that a plain TIFF holds a slide in colours; whether it is an OME-TIFF.

    Raises:
        SlideError: its pixels could only be guessed at, or are those of a label or macro.
    """
    with opened_tiff(path) as file, damage_told(path):
        return _judge(file, path)[1] is not None


class ShownLevels(NamedTuple):
    """Of the levels that another reader took from a TIFF's pages, those that may show the slide.

    Attributes:
        levels: their numbers; 0 is not among them where level 0 is not the main page.
        doubtful: those that are to be compared with the slide, see :func:`levels_alike`.
        beside: kinds of the pictures beside the slide.
    """

    levels: list[int]
    doubtful: list[int]
    beside: list[str]


def levels_shown(path: Path, sizes: Sequence[tuple[Size, Size | None]]) -> ShownLevels:
    """Which levels show the slide, of those that another reader took from a TIFF's pages.

    OpenSlide takes any tiled page of an Aperio slide for a level, and of a plain TIFF any that is
    marked as a reduced copy: a tiled macro too.

    Args:
        path: the file.
        sizes: px and tile px of the levels, finest first.

    Returns:
        All levels, where tifffile cannot tell.

    Raises:
        SlideError: there are only pictures beside a slide.
    """
    try:
        with opened_tiff(path) as file, damage_told(path):
            pages = [facts_of(page) for page in walk(file.pages)]
    except SlideError:
        return ShownLevels(list(range(len(sizes))), list(range(1, len(sizes))), [])
    try:
        base = pages[main_of(pages)]
    except SlideError as cause:
        raise SlideError(f"{path}: {cause}") from cause
    shown, doubtful = [], []
    for number, (size, tile_size) in enumerate(sizes):
        same = [page for page in pages if (page.size, page.tile_size) == (size, tile_size)]
        if any(page.beside is not None for page in same) or not proportional(base.size, size):
            continue
        if number or size == base.size:
            shown.append(number)
        if number and (not same or any(page.doubtful for page in same)):
            doubtful.append(number)
    beside = {page.beside for page in pages if page.beside is not None}
    return ShownLevels(shown, doubtful, sorted(beside))


def jpeg_tiles_of_sizes(
    path: Path, sizes: Sequence[tuple[Size, Size | None]]
) -> list[JpegTiles | None]:
    """The JPEG tiles of levels, each from the first page of its size and tile size, px.

    None where there is no such page, or it has no JPEG tiles.
    """
    found: list[JpegTiles | None] = [None] * len(sizes)
    open_levels = set(range(len(sizes)))
    try:
        with opened_tiff(path) as file, damage_told(path):
            for page in walk(file.pages):
                if not open_levels:
                    break
                facts = facts_of(page)
                if facts.tile_size is None or facts.beside is not None:
                    continue
                own = (facts.size, facts.tile_size)
                for level in [k for k in open_levels if sizes[k] == own]:
                    open_levels.remove(level)
                    found[level] = _jpeg_tiles(path, page)
    except SlideError:
        pass  # whoever opened the slide reads it all the same
    return found


def _jpeg_tiles(path: Path, page: tifffile.TiffPage) -> JpegTiles | None:
    try:
        with damage_told(path):
            return JpegTiles(path, page) if has_jpeg_tiles(page) else None
    except SlideError:
        return None  # whoever opened the slide reads it all the same


def _judge(file: tifffile.TiffFile, path: Path) -> tuple[tifffile.TiffPage, OmeFacts | None]:
    """The page that is the slide, and facts of an OME-TIFF, None of a plain one.

    Raises:
        SlideError: there is no such page, or it is not one picture in colours.
    """
    try:
        words = next(walk(file.pages)).description
        refuse_declarations(words)
        ome = read_ome(words) if is_ome(words) else None
        base = main_page(file, ome)
        refuse_declarations(base.description)
    except StopIteration:
        raise SlideError(f"{path}: it holds no image") from None
    except SlideError as cause:
        raise SlideError(f"{path}: {cause}") from cause
    reason = why_refused(base)
    if reason is None and ome is not None and ome.fluorescent:
        reason = "its OME-XML tells of fluorescence; brightfield is needed"
    num = num_planes(file, base, pictures_beside(file, ome))
    if ome is not None:
        apart = -(-ome.num_channels // max(1, base.samplesperpixel))
        num = max(num, ome.num_frames * apart)
    if reason is None and num > 1:
        reason = (
            f"it holds {num} planes of one size (channels, focal planes or times); save "
            "the one to be used as its own file"
        )
    if reason is not None:
        raise SlideError(f"{path}: {reason}")
    return base, ome


def _levels(
    file: tifffile.TiffFile, base: tifffile.TiffPage, beside: Container[int], path: Path
) -> list[TiffPageReader]:
    """The slide's page and its coarser copies, finest first."""
    cache = SegmentCache()
    pages = (base, *reduced_pages(file, base, beside))
    levels = [TiffPageReader(file, page, cache) for page in pages]
    for level in levels:
        reason = why_too_large(level.tile_size, base.samplesperpixel)
        if reason is not None:
            raise SlideError(f"{path}: {reason}")
    return sorted(levels, key=lambda level: (-level.size.w, -level.size.h))


def _claims(base: tifffile.TiffPage, ome: OmeFacts | None) -> tuple[list[MppClaim], float | None]:
    """Who says what about the mpp, in order of authority, and the objective power."""
    claims: list[MppClaim] = []
    power = None
    if ome is not None:
        power = ome.objective_power
        if ome.mpp is not None:
            claims.append(ome.mpp)
    elif base.description.startswith("Aperio"):
        said = dict(_APERIO_KEY.findall(base.description))
        if "MPP" in said:
            claims.append(stated("aperio.MPP", said["MPP"]))
        number = parse_number(said.get("AppMag"))
        power = number if number > 0 else None
    tags = base.tags
    unit = tags.valueof("ResolutionUnit", 2)  # 2, the inch, is what TIFF says where it is absent
    claim = resolution(
        _rational(tags.valueof("XResolution")),
        _rational(tags.valueof("YResolution")),
        _UNITS.get(unit if isinstance(unit, int) else 0),
    )
    if claim is not None:
        claims.append(claim)
    return claims, power


def _icc_profile(base: tifffile.TiffPage) -> bytes | None:
    """Tag InterColorProfile of the slide's page."""
    profile = base.tags.valueof(_INTER_COLOR_PROFILE)
    return profile if isinstance(profile, bytes) else None


def _rational(value: object) -> float:
    """A TIFF rational as a number; NaN where it is none."""
    match value:
        case (int() as top, int() as bottom) if bottom:
            return top / bottom
        case _:
            return float("nan")
