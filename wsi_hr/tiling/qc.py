"""What spoils tissue: pen, dark folds, bubbles and edges of the coverslip, blur.

All but blur are seen on the overview, at about 32 um/px, as optical density: the light that is
missing, in units in which two layers of a stain are twice one. Blur is finer than that, so it is
judged on small fields that are read at about 1 um/px, spread evenly over the tissue.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import cv2
import numpy as np
import numpy.typing as npt

from wsi_hr.errors import SlideError
from wsi_hr.geometry import BoolArray, Bounds, MaskCode, Pair, Point, Size, UInt8Array
from wsi_hr.slides.self_check import checked_tiles
from wsi_hr.slides.slide import Slide
from wsi_hr.tiling.overview import Overview
from wsi_hr.tiling.regions import Regions, dilated, disk, eroded, odd_px, share

Int16Array = npt.NDArray[np.int16]

# Optical density in hundredths, of a channel's 0..255 against glass of 245.
_DENSITY = np.round(-100 * np.log((np.arange(256) + 1.0).clip(None, 245) / 245)).astype(np.int16)

_ALL_AROUND = np.ones((3, 3), np.uint8)
_REDUCE = 2  # overview px per px that is looked at: what is sought here is 50 um wide and more
_PEN_LEAST_UM2 = 40_000.0  # strokes are at least about 200 um wide; less is pigment or blood
_PEN_RIM_UM = 400.0  # how far a stroke's washed-out rim reaches
_LINE_UM2, _LINE_UM = 20_000.0, 800.0  # least area and length of a fold or of a bubble's rim
_FOLD_WIDTH_UM = 400.0  # a fold is narrower; broader dark tissue is a nodule
_RIM_WIDTH_UM = 120.0
_SURROUNDINGS_UM = 1000.0
_STAINED = 25  # summed density, hundredths; lumina that were filled with tissue are paler
_BUBBLE_UM2 = 2e7  # a ring around more than this is no bubble

FIELD_UM = 128.0
"""Edge of a field that blur is judged on."""

MAX_FIELDS = 64
"""Fields read of one slide, at most."""

_FIELD_MPP = 1.0
_BLURRED, _VERY_BLURRED = 0.22, 0.5
_LEAST_CONTRAST = 3.0  # gray levels; below, there is nothing that could be sharp


def find_artifacts(
    overview: Overview, tissue: BoolArray, classes: Collection[str], slide: Slide | None = None
) -> UInt8Array:
    """Name what is no good of a slide.

    Where two classes meet, the first of pen, bubble, fold, blur stands.

    Args:
        overview: the slide at low power.
        tissue: bool[H, W], what the segmenter takes for tissue.
        classes: those to look for, names of :class:`MaskCode` in lower case.
        slide: the slide, where blur is looked for.

    Returns:
        u8[H, W] of :class:`MaskCode`, 0 where there is no artifact.
    """
    height, width = tissue.shape
    size = (-(-width // _REDUCE), -(-height // _REDUCE))  # (w, h), as cv2 has it
    um = Pair(overview.um.x * width / size[0], overview.um.y * height / size[1])
    small = np.asarray(cv2.resize(overview.rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    valid = share(overview.valid, size) >= 128
    density = np.asarray(cv2.LUT(small, _DENSITY), np.int16)
    pen = find_pen(density, valid, um) if "pen" in classes else np.zeros_like(valid)
    found = np.zeros_like(small[..., 0])
    if "fold" in classes:
        found[find_folds(density, (share(tissue, size) >= 128) & ~pen, um)] = MaskCode.FOLD
    if "bubble" in classes:
        found[find_bubbles(density, valid, um)] = MaskCode.BUBBLE
    found[pen] = MaskCode.PEN
    whole = np.asarray(cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST))
    if "blur" in classes and slide is not None:
        clear = tissue & (whole == 0)
        whole[find_blur(slide, overview, clear)] = MaskCode.BLUR
    whole[overview.unreadable] = 0
    return np.asarray(whole, np.uint8)


def find_pen(density: Int16Array, valid: BoolArray, um: Pair) -> BoolArray:
    """Ink that no stain looks like: green, blue, bright red, black.

    Haematoxylin, eosin and DAB let most light through in red, DAB and eosin less and less towards
    blue or green. Green ink takes more red than green; blue ink much more red than blue; red ink
    takes green and blue alike and no red; black ink takes all three. Clear cases are looked for,
    then followed into their washed-out rims.

    Args:
        density: i16[H, W, 3], optical density in hundredths.
        valid: bool[H, W], where there is a picture.
        um: um per px, per axis.
    """
    red, green, blue = _channels(density)
    red_green, green_blue, red_blue = red - green, green - blue, red - blue
    least, most = np.minimum(red, blue), np.maximum(green, blue)
    greenish = 2 * green_blue <= red_green
    inks = {
        "green": (
            (red_green >= 20) & greenish & (red >= 45),
            (red_green >= 8) & greenish & (red >= 20),
        ),
        "blue": (
            (red_green >= 25) & (red_blue >= 90) | (red_blue >= 110) & (red >= 150),
            (red_green >= 20) & (red_blue >= 70),
        ),
        "red": (
            (6 * red <= green) & (20 * green_blue <= 7 * green) & (green >= 100)
            | (4 * red <= green) & (5 * green_blue <= green) & (green >= 100)
            | (3 * red <= green) & (5 * green_blue <= 2 * green) & (green >= 200),
            (3 * red <= green) & (5 * green_blue <= 2 * green) & (green >= 30),
        ),
        "black": (
            (least >= 95) & (20 * least >= 11 * most),
            (least >= 60) & (2 * least >= most),
        ),
    }
    found = np.zeros_like(valid)
    for clear, faint in inks.values():
        if not clear.any():
            continue
        cores = dilated(eroded(clear & valid, disk(50.0, um)), disk(50.0, um))
        parts = Regions.of(cores, um, diagonal=True)
        strokes = parts.select(parts.area_um2 >= _PEN_LEAST_UM2)
        rims = dilated(strokes, disk(_PEN_RIM_UM, um)) & faint & valid
        parts = Regions.of(rims, um, diagonal=True)
        found |= strokes | parts.select(parts.touching(strokes))
    return dilated(found, _ALL_AROUND) & valid


def find_folds(density: Int16Array, tissue: BoolArray, um: Pair) -> BoolArray:
    """Long narrow bands that are much darker than the tissue around: it lies there twice.

    Args:
        density: i16[H, W, 3], optical density in hundredths.
        tissue: bool[H, W].
        um: um per px, per axis.
    """
    red, green, blue = _channels(density)
    total = np.asarray(cv2.blur((red + green + blue).astype(np.float32), (3, 3)), np.float32)
    window = odd_px(_SURROUNDINGS_UM, um)
    stained = tissue & (total >= _STAINED)
    if not stained.any():
        return stained
    weight = stained.astype(np.float32)
    around = cv2.blur(total * weight, window) / np.maximum(cv2.blur(weight, window), 1e-6)
    typical = np.median(total[stained][::7])
    dark = stained & (total >= 1.6 * typical) & (total >= 150)
    broad = dilated(eroded(dark, disk(_FOLD_WIDTH_UM, um)), disk(1.5 * _FOLD_WIDTH_UM, um))
    narrow = dark & (total >= 1.6 * around) & ~broad
    return dilated(_lines(narrow, um), _ALL_AROUND) & tissue


def find_bubbles(density: Int16Array, valid: BoolArray, um: Pair) -> BoolArray:
    """Long gray lines on the glass: edges of the coverslip, rims of air; and what they enclose.

    Args:
        density: i16[H, W, 3], optical density in hundredths.
        valid: bool[H, W], where there is a picture.
        um: um per px, per axis.
    """
    red, green, blue = _channels(density)
    least = np.minimum(np.minimum(red, green), blue)
    most = np.maximum(np.maximum(red, green), blue)
    ground = np.asarray(cv2.morphologyEx(least, cv2.MORPH_OPEN, disk(_RIM_WIDTH_UM, um)), np.int16)
    gray = most - least <= np.maximum(8, least // 3)
    rim = _lines(valid & gray & (least - ground >= 12) & (ground <= 15), um)
    if not rim.any():
        return rim
    rim = dilated(rim, _ALL_AROUND)
    inside = Regions.of(~rim, um, diagonal=False)
    return rim | inside.select((inside.area_um2 <= _BUBBLE_UM2) & ~inside.at_border())


def find_blur(slide: Slide, overview: Overview, tissue: BoolArray) -> BoolArray:
    """Tissue whose nearest field is out of focus.

    Fields lie on a square lattice over the tissue, as close as :data:`MAX_FIELDS` allows; a field
    speaks for the cell of the lattice around it. What cannot be read or has no contrast is not
    judged, hence not blurred; nor is a slide of more than 1.1 um/px.

    Args:
        slide: open slide with an mpp.
        overview: the same slide.
        tissue: bool[H, W] on the overview.
    """
    blurred = np.zeros_like(tissue)
    level = _field_level(slide)
    if level is None:
        return blurred
    for rows, cols in _lattice(tissue, overview.um):
        inside = tissue[rows, cols]
        row, col = _middle(inside)
        center = Pair(
            (cols.start + col + 0.5) * overview.downsample.x,
            (rows.start + row + 0.5) * overview.downsample.y,
        )
        if _field_is_blurred(slide, level, center):
            blurred[rows, cols] = inside
    return blurred


def is_blurred(gray: UInt8Array) -> bool:
    """Whether a picture u8[H, W] at 1 um/px lacks fine detail for the coarser detail it has.

    Detail below 2 um as a part of that of 2 to 8 um is 0.3 (fat) to 2 for tissue in focus; blurred
    by a Gaussian of 2 um, 0.15 to 0.25; of 4 um, at most 0.17. Of stronger blur nothing is left
    there, so where nothing is, detail of 2 to 8 um is held against that of 8 to 32 um: in focus it
    is 0.56 at least, blurred by 4 um, 0.45 to 0.5 where it is that faint, by 6 um, below 0.4.
    Measured on 248 fields of CMU-1, TCGA, NCT-CRC and others.
    """
    picture = gray.astype(np.float32)
    soft, softer = cv2.GaussianBlur(picture, (0, 0), 1), cv2.GaussianBlur(picture, (0, 0), 4)
    middle = float((soft - softer).std())
    if middle >= _LEAST_CONTRAST:
        return float((picture - soft).std()) < _BLURRED * middle
    coarse = float((softer - cv2.GaussianBlur(picture, (0, 0), 16)).std())
    return coarse >= _LEAST_CONTRAST and middle < _VERY_BLURRED * coarse


def _field_is_blurred(slide: Slide, level: int, center: Pair) -> bool:
    """Whether the field of a level around a point of level 0 is, as far as can be told."""
    assert slide.mpp is not None, "an overview needs it"
    downsample, whole = slide.level_downsamples[level], slide.level_dimensions[level]
    size = Size(
        math.ceil(FIELD_UM / (slide.mpp.x * downsample.x)),
        math.ceil(FIELD_UM / (slide.mpp.y * downsample.y)),
    )
    if size.w > whole.w or size.h > whole.h:
        return False
    x = min(max(0, round(center.x / downsample.x - size.w / 2)), whole.w - size.w)
    y = min(max(0, round(center.y / downsample.y - size.h / 2)), whole.h - size.h)
    tiles = checked_tiles(slide, level)
    try:
        if tiles is not None:
            # moved into one tile where it fits, which decodes one instead of up to four
            x, y = _within(x, size.w, tiles.tile_size.w), _within(y, size.h, tiles.tile_size.h)
            x, y = min(x, whole.w - size.w), min(y, whole.h - size.h)
            rgb = tiles.read(Bounds(x, y, *size), 1)
        else:
            corner = Point(round(x * downsample.x), round(y * downsample.y))
            rgb, valid = slide.read_region(corner, level, size)
            if not valid.all():
                return False
    except SlideError:
        return False
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    edge = round(FIELD_UM / _FIELD_MPP)
    scaled = cv2.resize(gray, (edge, edge), interpolation=cv2.INTER_AREA)
    return is_blurred(np.asarray(scaled, np.uint8))


def _within(start: int, length: int, tile: int) -> int:
    """A start from which ``length`` px cross no border of tiles, near the given one; or that."""
    first = (start + length // 2) // tile * tile
    return start if length > tile else min(max(start, first), first + tile - length)


def _field_level(slide: Slide) -> int | None:
    """The coarsest level on which detail of 2 um shows; None: there is none."""
    assert slide.mpp is not None, "an overview needs it"
    um = [slide.mpp.mean * max(downsample) for downsample in slide.level_downsamples]
    fine = [level for level in range(len(um)) if um[level] <= 1.1 * _FIELD_MPP]
    return max(fine, key=lambda level: um[level], default=None)


def _lattice(tissue: BoolArray, um: Pair) -> list[tuple[slice, slice]]:
    """Cells that hold tissue, of a square lattice with at most ``MAX_FIELDS`` of them."""
    height, width = tissue.shape
    sums = np.asarray(cv2.integral(tissue.view(np.uint8), sdepth=cv2.CV_32S), np.int32)
    step_um = max(4 * FIELD_UM, math.sqrt(int(sums[-1, -1]) * um.x * um.y / MAX_FIELDS))
    while True:
        ys = _edges(height, max(1, round(step_um / um.y)))
        xs = _edges(width, max(1, round(step_um / um.x)))
        rows, cols = np.diff(np.diff(sums[np.ix_(ys, xs)], axis=0), axis=1).nonzero()
        if len(rows) <= MAX_FIELDS:
            return [
                (slice(ys[row], ys[row + 1]), slice(xs[col], xs[col + 1]))
                for row, col in zip(rows.tolist(), cols.tolist(), strict=True)
            ]
        step_um *= 1.1


def _edges(length: int, step: int) -> list[int]:
    """Where the cells of one axis begin, and where the last one ends."""
    return [*range(0, length, step), length]


def _middle(inside: BoolArray) -> tuple[int, int]:
    """Row and column of the px that lies deepest in the tissue of a cell."""
    padded = np.pad(inside.astype(np.uint8), 1)
    depth = np.asarray(cv2.distanceTransform(padded, cv2.DIST_L1, 3))[1:-1, 1:-1]
    row, col = divmod(int(depth.argmax()), inside.shape[1])
    return row, col


def _channels(density: Int16Array) -> list[Int16Array]:
    """Red, green and blue as arrays of their own, which is faster than as slices."""
    return [np.asarray(channel, np.int16) for channel in cv2.split(density)]


def _lines(mask: BoolArray, um: Pair) -> BoolArray:
    """Connected parts that are long and thin."""
    parts = Regions.of(mask, um, diagonal=True)
    return parts.select(
        (parts.area_um2 >= _LINE_UM2)
        & (parts.length_um >= _LINE_UM)
        & (parts.length_um**2 >= 5 * parts.area_um2)
    )
