"""Whether a coarse level shows what the finer ones do.

A page of a TIFF that is marked as a reduced copy and has the slide's shape may show its label or
macro all the same, and nothing in the file says so but the pixels.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from PIL import Image

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Bounds, Pair, Point, Size, UInt8Array
from wsi_hr.slides.levels import nearest
from wsi_hr.slides.slide import Slide
from wsi_hr.slides.source import stamp_of

logger = logging.getLogger(__name__)

_WINDOWS_PER_AXIS = 5
_RICHEST = 4  # of these windows, those that show most, are compared with the slide, and
_EVERY = 3  # of the others each third: a picture that is blank shows nothing anywhere
_WINDOW_PX, _BLOCK_PX = 32, 8
_MOST_READ_PX = 512  # edge of a window, px of the finer level
_WINDOWS_THAT_PROVE = 2
_TOLERANCE = 24  # grey levels: filters differ and corners are rounded, what is shown does not


_found: OrderedDict[Hashable, tuple[int, ...]] = OrderedDict()
_MOST_KNOWN = 4096  # slides of which a process knows what was found


def levels_alike(slide: Slide, doubtful: Sequence[int]) -> tuple[int, ...]:
    """The levels of a slide but those of the ``doubtful`` ones that show something else.

    Each is compared with the next finer one that stays, in windows spread over it and in those
    where it shows most. A level that is coarser than that by more than 64 is left out too: too much
    would have to be read. What cannot be read proves nothing. What is left out is logged; what was
    found is remembered as long as the file stays as it is.

    Raises:
        SlideError: the file is gone.
    """
    if not doubtful:
        return tuple(range(len(slide.level_dimensions)))
    try:
        stamp = stamp_of(slide.path)
    except OSError as cause:
        raise SlideError(f"{slide.path}: cannot be read ({cause.strerror})") from cause
    key = (slide.path, stamp, slide.level_dimensions, tuple(doubtful))
    found = _found.get(key)
    if found is None:
        found = _found[key] = tuple(_compared(slide, doubtful))
        if len(_found) > _MOST_KNOWN:
            _found.popitem(last=False)
    return found


def _compared(slide: Slide, doubtful: Sequence[int]) -> list[int]:
    kept: list[int] = []
    for level, size in enumerate(slide.level_dimensions):
        if level not in doubtful or _alike(slide, level, kept[-1]):
            kept.append(level)
            continue
        logger.warning(
            "%s: an image of %d x %d px shows something else than the slide; it is no level",
            *(slide.path, *size),
        )
    return kept


def _alike(slide: Slide, level: int, finer: int) -> bool:
    coarse, fine = slide.level_downsamples[level], slide.level_downsamples[finer]
    factor = Pair(coarse.x / fine.x, coarse.y / fine.y)
    edge = min(_WINDOW_PX, int(_MOST_READ_PX / max(factor)))
    if edge < _BLOCK_PX:
        return False
    found = []
    for window in _windows(slide.level_dimensions[level], edge):
        pixels = _read(slide, level, window)
        if pixels is not None:
            found.append((float(pixels.std(axis=(0, 1)).sum()), window, pixels))
    found.sort(key=lambda one: -one[0])
    differ = []
    for _, window, pixels in found[:_RICHEST] + found[_RICHEST::_EVERY]:
        beneath = Bounds(
            nearest(window.x * factor.x),
            nearest(window.y * factor.y),
            max(1, nearest(window.w * factor.x)),
            max(1, nearest(window.h * factor.y)),
        )
        wanted = _read(slide, finer, beneath)
        if wanted is not None:
            difference = np.abs(_blocks(pixels, window) - _blocks(wanted, window)).mean()
            differ.append(bool(difference > _TOLERANCE))
    return sum(differ) < min(_WINDOWS_THAT_PROVE, len(differ)) or not differ


def _windows(size: Size, edge: int) -> Iterator[Bounds]:
    """Windows of ``edge`` px spread evenly over a level."""
    w, h = min(edge, size.w), min(edge, size.h)
    for y in _spread(size.h - h):
        for x in _spread(size.w - w):
            yield Bounds(x, y, w, h)


def _spread(last: int) -> list[int]:
    """Whole numbers from 0 to ``last``, as many as there are windows along an axis, or all."""
    return sorted({*np.linspace(0, last, _WINDOWS_PER_AXIS).round().astype(int).tolist()})


def _read(slide: Slide, level: int, window: Bounds) -> UInt8Array | None:
    """A rectangle of a level, px of it; None where it is damaged, or the scan has nothing."""
    downsample = slide.level_downsamples[level]
    corner = Point(nearest(window.x * downsample.x), nearest(window.y * downsample.y))
    try:
        pixels, valid = slide.read_region(corner, level, Size(window.w, window.h))
    except SlideError:
        return None
    return pixels if valid.all() else None


def _blocks(pixels: UInt8Array, window: Bounds) -> np.ndarray:
    """Means of the blocks of 8 px that make up a window, whatever px they are shown in."""
    blocks = (-(-window.w // _BLOCK_PX), -(-window.h // _BLOCK_PX))
    return np.asarray(Image.fromarray(pixels).resize(blocks, Image.Resampling.BOX)).astype(int)
