"""Which pages of a TIFF are the slide, and which are pictures beside it: label, macro and the like.

A label shows a name, and a macro often shows the label. So a page is one of them if anything in the
file says so, its own words or its flags; and a page that nothing says anything about is a level
only if it is a copy of the slide by its size.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import tifffile

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Size
from wsi_hr.slides.beside import named_beside
from wsi_hr.slides.levels import explains, proportional
from wsi_hr.slides.ome import OmeFacts, is_ome
from wsi_hr.slides.tiff_page import why_refused

_MOST_PAGES = 1000  # a slide has a dozen; a damaged chain may go in circles
_REDUCED = 1  # bit of NewSubfileType
_APERIO_MACRO = 9  # NewSubfileType
_PAGE_NAME = 285


class PageFacts(NamedTuple):
    """What a page is, whoever reads its pixels.

    Attributes:
        size: px.
        tile_size: px of a tile; None: it has none.
        beside: see :func:`beside_slide`.
        reduced: whether it is marked as a reduced copy of another.
        doubtful: see :func:`is_doubtful`.
    """

    size: Size
    tile_size: Size | None
    beside: str | None
    reduced: bool
    doubtful: bool


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
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


def opened_tiff(path: Path) -> tifffile.TiffFile:
    """The file, which its reader closes.

    Raises:
        SlideError: tifffile does not know it.
    """
    try:
        # Its `series` are never asked for: they expand XML and open files that OME-XML names.
        return tifffile.TiffFile(path)
    except MemoryError:
        raise
    except Exception as cause:  # tifffile lets through whatever a damaged header leads to
        raise SlideError(f"{path}: tifffile cannot open it ({cause})") from cause


def walk(pages: tifffile.TiffPages, first: int = 0) -> Iterator[tifffile.TiffPage]:
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


def beside_slide(page: tifffile.TiffPage) -> str | None:
    """Which picture beside the slide a page is, by its own words or flags; None: none of them."""
    name = page.tags.valueof(_PAGE_NAME)
    # OME-XML stands in the first page and speaks of all of them
    words = "" if is_ome(page.description) else page.description
    kind = named_beside(words) or named_beside(name if isinstance(name, str) else "")
    return "macro" if kind is None and page.subfiletype == _APERIO_MACRO else kind


def is_doubtful(page: tifffile.TiffPage) -> bool:
    """Whether nothing but its flags and its shape says that a page is a copy of the slide.

    Aperio's words say of every page what it is.
    """
    return not page.description.startswith("Aperio")


def facts_of(page: tifffile.TiffPage) -> PageFacts:
    """See :class:`PageFacts`."""
    tile_size = Size(page.tilewidth, page.tilelength) if page.is_tiled else None
    return PageFacts(
        size=Size(page.imagewidth, page.imagelength),
        tile_size=tile_size,
        beside=beside_slide(page),
        reduced=bool(page.subfiletype & _REDUCED),
        doubtful=is_doubtful(page),
    )


def main_of(pages: Iterable[PageFacts]) -> int:
    """The first page that is neither a picture beside the slide nor a reduced copy of another.

    Raises:
        SlideError: there is no such page.
    """
    kinds = []
    for number, page in enumerate(pages):
        kind = page.beside or ("reduced copy" if page.reduced else None)
        if kind is None:
            return number
        kinds.append(kind)
    if not kinds:
        raise SlideError("it holds no image")
    raise SlideError(
        f"it holds no slide, only what its file calls {', '.join(dict.fromkeys(kinds))}; give the "
        "file that has the scan"
    )


def main_page(file: tifffile.TiffFile, ome: OmeFacts | None) -> tifffile.TiffPage:
    """The page that is the slide: where OME-XML says, else the first that can be.

    Raises:
        SlideError: there is no such page.
    """
    pages = list(walk(file.pages))
    if ome is not None:
        pages = pages[ome.page : ome.page + 1]
    return pages[main_of(map(facts_of, pages))]


def pictures_beside(file: tifffile.TiffFile, ome: OmeFacts | None) -> dict[int, str]:
    """Numbers of the pages that are pictures beside the slide, and which they are."""
    found = {page.index: beside_slide(page) for page in walk(file.pages)}
    told = {} if ome is None else ome.beside
    return told | {number: kind for number, kind in found.items() if kind is not None}


def reduced_pages(
    file: tifffile.TiffFile, base: tifffile.TiffPage, beside: Container[int]
) -> Iterator[tifffile.TiffPage]:
    """Coarser copies of a page: its sub-images, or else other pages that fit exactly.

    A label or macro picture must never pass for a level, so among pages only whole factors count,
    and none of the pages ``beside`` the slide.
    """
    whole = Size(base.imagewidth, base.imagelength)
    sub_images = base.pages
    for page in walk(file.pages if sub_images is None else sub_images):
        size = Size(page.imagewidth, page.imagelength)
        if not _alike(page, base) or size.w >= whole.w or beside_slide(page) is not None:
            continue
        if sub_images is not None:
            fits = proportional(whole, size)
        else:
            fits = (
                page.index not in beside
                and page.is_tiled == base.is_tiled
                and explains(whole, round(whole.w / size.w), size)
            )
        if fits:
            yield page


def num_planes(file: tifffile.TiffFile, base: tifffile.TiffPage, beside: Container[int]) -> int:
    """Pages of the size of ``base`` that are no copies of another, itself among them."""
    return sum(
        page.shape == base.shape and not page.subfiletype & _REDUCED and page.index not in beside
        for page in walk(file.pages)
    )


def _alike(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether a page holds the same kind of pixels, and any at all."""
    return (
        page.samplesperpixel == base.samplesperpixel
        and page.extrasamples == base.extrasamples
        and why_refused(page) is None
    )
