"""TIFFs that OpenSlide refuses or would misread: OME-TIFF, strips, WebP, and other rare codecs.

Also the judge of what a plain TIFF holds, whoever reads it: OpenSlide shows the first of five
fluorescence channels as grey, and 16-bit samples cut down to 8, without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tifffile

from wsi_hr.errors import SlideError
from wsi_hr.geometry import BoolArray, Bounds, Point, Size, UInt8Array
from wsi_hr.slides.jpeg_tiles import JpegTiles, has_jpeg_tiles
from wsi_hr.slides.levels import downsamples_of, explains, read_clipped, to_level
from wsi_hr.slides.mpp import MppClaim, judge_mpp, parse_number, resolution, stated
from wsi_hr.slides.ome import OmeFacts, is_ome, read_ome, refuse_declarations
from wsi_hr.slides.slide import Slide, profile_of_tiles
from wsi_hr.slides.thumbnail import draw_thumbnail
from wsi_hr.slides.tiff_page import SegmentCache, TiffPageReader, why_refused, why_too_large

_MOST_PAGES = 1000  # a slide has a dozen; a damaged chain may go in circles
_REDUCED = 1  # bit of NewSubfileType
_INTER_COLOR_PROFILE = 34675
_UNITS = {2: "inch", 3: "centimeter"}
_APERIO_KEY = re.compile(r"\|\s*(MPP|AppMag)\s*=\s*([^|;\s]+)")
_RATIO_TOLERANCE = 0.01


class TiffReader(Slide):
    """A TIFF read by tifffile."""

    reader = "tifffile"
    associated_images = ()

    def __init__(self, path: Path, *, slide_id: str):
        """Open a TIFF.

        Raises:
            SlideError: it cannot be read, or its pixels could only be guessed at.
        """
        self.path = path
        self.slide_id = slide_id
        self._jpeg_tiles: dict[int, JpegTiles | None] = {}
        self._file = _opened(path)
        try:
            with _damage_told(path):
                self._describe(path)
        except BaseException:
            self._file.close()
            raise

    def _describe(self, path: Path) -> None:
        base = _first_page(self._file, path)
        ome = _judge(self._file, base, path)
        self._levels = _levels(self._file, base, path)
        self.vendor = "tiff" if ome is None else "ome-tiff"
        self.level_dimensions = tuple(level.size for level in self._levels)
        self.level_downsamples = downsamples_of(self.level_dimensions)
        self.level_tile_sizes = tuple(level.tile_size for level in self._levels)
        self.bounds = Bounds(0, 0, *self.level_dimensions[0])
        self._icc_profile = _icc_profile(base)
        claims, self.objective_power = _claims(base, ome)
        self.mpp, self.mpp_problem = judge_mpp(claims, self.objective_power)

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
    """Make sure that a plain TIFF holds colours; whether it is an OME-TIFF.

    Raises:
        SlideError: its pixels could only be guessed at.
    """
    with _opened(path) as file, _damage_told(path):
        return _judge(file, _first_page(file, path), path) is not None


def jpeg_tiles_of_sizes(
    path: Path, sizes: Sequence[tuple[Size, Size | None]]
) -> list[JpegTiles | None]:
    """The JPEG tiles of levels, each from the first page of its size and tile size, px.

    None where there is no such page, or it has no JPEG tiles.
    """
    found: list[JpegTiles | None] = [None] * len(sizes)
    open_levels = set(range(len(sizes)))
    try:
        with _opened(path) as file, _damage_told(path):
            for page in _walk(file.pages, 0):
                if not open_levels:
                    break
                size = Size(page.imagewidth, page.imagelength)
                own = (size, Size(page.tilewidth, page.tilelength))
                for level in [k for k in open_levels if page.is_tiled and sizes[k] == own]:
                    open_levels.remove(level)
                    found[level] = _jpeg_tiles(path, page)
    except SlideError:
        pass  # whoever opened the slide reads it all the same
    return found


def _jpeg_tiles(path: Path, page: tifffile.TiffPage) -> JpegTiles | None:
    try:
        with _damage_told(path):
            return JpegTiles(path, page) if has_jpeg_tiles(page) else None
    except SlideError:
        return None  # whoever opened the slide reads it all the same


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Let whatever a damaged directory leads tifffile to end in one sentence.

    Tags are read when they are first asked for, so that an offset or a type that makes no sense
    shows late, as an error of any kind.
    """
    try:
        yield
    except (SlideError, MemoryError):
        raise
    except Exception as cause:
        raise SlideError(
            f"{path}: its directory of images is damaged ({cause}); copy the file again from its "
            "source"
        ) from cause


def _opened(path: Path) -> tifffile.TiffFile:
    try:
        # Its `series` are never asked for: they expand XML and open files that OME-XML names.
        return tifffile.TiffFile(path)
    except MemoryError:
        raise
    except Exception as cause:  # tifffile lets through whatever a damaged header leads to
        raise SlideError(f"{path}: tifffile cannot open it ({cause})") from cause


def _first_page(file: tifffile.TiffFile, path: Path) -> tifffile.TiffPage:
    try:
        return file.pages.first
    except IndexError as cause:
        raise SlideError(f"{path}: it holds no image") from cause


def _judge(file: tifffile.TiffFile, base: tifffile.TiffPage, path: Path) -> OmeFacts | None:
    """Facts of an OME-TIFF, None of a plain one; refuses what is not one picture in colours."""
    try:
        refuse_declarations(base.description)
        ome = read_ome(base.description) if is_ome(base.description) else None
    except SlideError as cause:
        raise SlideError(f"{path}: {cause}") from cause
    reason = why_refused(base)
    if reason is None and ome is not None and ome.fluorescent:
        reason = "its OME-XML tells of fluorescence; brightfield is needed"
    num_planes = sum(_is_another_plane(page, base) for page in _walk(file.pages, 1)) + 1
    if ome is not None:
        apart = -(-ome.num_channels // max(1, base.samplesperpixel))
        num_planes = max(num_planes, ome.num_frames * apart)
    if reason is None and num_planes > 1:
        reason = (
            f"it holds {num_planes} planes of one size (channels, focal planes or times); save "
            "the one to be used as its own file"
        )
    if reason is not None:
        raise SlideError(f"{path}: {reason}")
    return ome


def _levels(file: tifffile.TiffFile, base: tifffile.TiffPage, path: Path) -> list[TiffPageReader]:
    """The first page and its coarser copies, finest first."""
    cache = SegmentCache()
    levels = [TiffPageReader(file, page, cache) for page in (base, *_reduced_pages(file, base))]
    for level in levels:
        reason = why_too_large(level.tile_size, base.samplesperpixel)
        if reason is not None:
            raise SlideError(f"{path}: {reason}")
    return sorted(levels, key=lambda level: (-level.size.w, -level.size.h))


def _walk(pages: tifffile.TiffPages, first: int) -> Iterator[tifffile.TiffPage]:
    """The pages from ``first`` on, at most 1000 of them."""
    for index in range(first, _MOST_PAGES):
        try:
            page = pages[index]
        except IndexError:
            return
        except MemoryError:
            raise
        except Exception:  # the chain is damaged here; what came before it is whole
            return
        if isinstance(page, tifffile.TiffPage):
            yield page


def _is_another_plane(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    return page.shape == base.shape and not page.subfiletype & _REDUCED


def _reduced_pages(file: tifffile.TiffFile, base: tifffile.TiffPage) -> Iterator[tifffile.TiffPage]:
    """Coarser copies of the first page: its sub-images, or else later pages that fit exactly.

    A label or macro picture must never pass for a level, so among pages only whole factors count.
    """
    whole = Size(base.imagewidth, base.imagelength)
    sub_images = base.pages
    for page in _walk(file.pages, 1) if sub_images is None else _walk(sub_images, 0):
        if not _alike(page, base):
            continue
        size = Size(page.imagewidth, page.imagelength)
        ratio = whole.w / size.w
        if ratio <= 1:
            continue
        if sub_images is None:
            fits = page.is_tiled == base.is_tiled and explains(whole, round(ratio), size)
        else:
            fits = abs(whole.h / ratio - size.h) <= 1 + _RATIO_TOLERANCE * size.h
        if fits:
            yield page


def _alike(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether a page holds the same kind of pixels, and any at all."""
    return (
        page.samplesperpixel == base.samplesperpixel
        and page.extrasamples == base.extrasamples
        and why_refused(page) is None
    )


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
    """Tag InterColorProfile of the first page."""
    profile = base.tags.valueof(_INTER_COLOR_PROFILE)
    return profile if isinstance(profile, bytes) else None


def _rational(value: object) -> float:
    """A TIFF rational as a number; NaN where it is none."""
    match value:
        case (int() as top, int() as bottom) if bottom:
            return top / bottom
        case _:
            return float("nan")
