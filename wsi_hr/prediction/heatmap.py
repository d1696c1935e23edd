"""A slide's per-patch scores, drawn over its thumbnail; Pillow and numpy only.

Array letters: N patches; H, W px of the map (the slide's part of the picture).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from wsi_hr import __version__
from wsi_hr.geometry import Float32Array, Int32Array, Size, UInt8Array, patch_boxes
from wsi_hr.runtime import atomic_path
from wsi_hr.slide_prediction import Role, SlidePrediction

RESEARCH_USE = "For Research Use Only. Not for use in diagnostic procedures."

# Eight evenly spaced colours of viridis (public domain, CC0): dark violet over teal to yellow.
# Lightness rises all the way, so the order survives colour blindness and a grey printer.
_ANCHORS = np.array(
    [
        (68, 1, 84),
        (70, 50, 126),
        (54, 92, 141),
        (39, 127, 142),
        (31, 161, 135),
        (74, 193, 109),
        (160, 218, 57),
        (253, 231, 37),
    ],
    dtype=np.float32,
)
_ALPHA_LOW, _ALPHA_HIGH = 0.25, 0.6  # the tissue stays visible under the lowest and highest score

# Orange-red and black differ in hue and in lightness, whatever the kind of colour blindness, and
# neither is a colour of the scale. A white line inside keeps both visible on dark fills.
OUTLINES = {Role.SUB_SALIENT: (0, 0, 0), Role.SALIENT: (230, 60, 0)}
_WHITE = (255, 255, 255)
_MEANING = {
    Role.SALIENT: "salient: the model's first choice",
    Role.SUB_SALIENT: "sub-salient: its second choice",
}

# The legend is sized by the picture's longest edge, so that it fits whatever that edge is.
_EDGE_PER_EM = 80  # longest edge over the height of a letter
_LEGEND_ROWS = 8
_LONGEST_TEXT = 300  # characters that are considered for one row; far more than fit


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont  # the latter where Pillow lacks FreeType


class Box(NamedTuple):
    """A rectangle of map pixels; ``right`` and ``bottom`` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


def draw_heatmap(
    prediction: SlidePrediction,
    thumbnail: UInt8Array,
    level0_size: Size,
    *,
    title: str,
    max_px: int,
) -> Image.Image:
    """Draw what each patch meant to the prediction over the slide's thumbnail.

    The fill is the *rank* of a patch's saliency among the visited patches of this slide. Attention
    comes out of a softmax over thousands of patches: divided by its maximum, one patch would
    be bright and all others alike, and between slides the values mean nothing anyway. How much the
    first few stand out is told by the outlines instead. Patches that were not visited stay bare.

    The map lies at the picture's top left corner, the legend below it. The thumbnail is enlarged
    or reduced so that the whole picture just fits ``max_px``.

    Args:
        prediction: scores, roles and places of the N patches.
        thumbnail: u8[h, w, 3], the whole level-0 frame.
        level0_size: size of that frame, level-0 px.
        title: headline, usually the predicted class by name; the prediction knows only its number.
        max_px: longest edge of the picture, px.

    Returns:
        RGB picture; its ``info`` holds the texts that :func:`save_heatmap` writes.

    Raises:
        ValueError: a visited patch's score is not a finite number.
    """
    visited = prediction.role != Role.NOT_VISITED
    if not np.isfinite(prediction.saliency[visited]).all():
        raise ValueError(f"{prediction.slide_id}: a saliency score is not a finite number")
    em_px = max(1, max_px // _EDGE_PER_EM)
    row_px = em_px * 3 // 2
    legend_px = row_px * _LEGEND_ROWS + em_px
    height, width = thumbnail.shape[:2]
    scale = min(max_px / width, (max_px - legend_px) / height)
    map_size = Size(max(1, round(width * scale)), max(1, round(height * scale)))

    below = Image.fromarray(thumbnail).resize(map_size, Image.Resampling.BICUBIC)
    boxes = patch_boxes(prediction.grid, level0_size, map_size)
    pixels = _fill(np.array(below), boxes, _rank(prediction.saliency, visited))
    for role, colour in OUTLINES.items():  # the salient ones last, on top
        _outline(pixels, boxes[prediction.positions(role)], colour)

    picture = Image.new("RGB", (max(map_size.w, max_px // 2), map_size.h + legend_px), _WHITE)
    picture.paste(Image.fromarray(pixels), (0, 0))
    title, slide_id = printable(title), printable(prediction.slide_id)
    probability = f"probability {float(prediction.probs.max()):.3f}"
    legend = _Legend(picture, top_px=map_size.h, em_px=em_px, row_px=row_px)
    legend.headline(title)
    legend.text(f"slide {slide_id}")
    legend.text(probability)
    legend.colour_scale("lowest to highest rank of saliency in this slide")
    for role, what in _MEANING.items():
        legend.outline(OUTLINES[role], f"{what} ({len(prediction.positions(role))})")
    legend.text("bare: not visited, or no tissue")
    legend.text(RESEARCH_USE)
    picture.info = {
        "Title": f"{slide_id}: {title}",
        "Description": f"slide {slide_id}; {title}; {probability}; "
        "fill: rank of saliency in this slide",
        "Disclaimer": RESEARCH_USE,
        "Software": f"wsi-hr {__version__}",
    }
    return picture


def save_heatmap(image: Image.Image, path: Path) -> None:
    """Write ``image`` as PNG, whole or not at all, with its ``info`` texts as PNG text chunks."""
    texts = PngInfo()
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str):
            texts.add_itxt(key, value)
    with atomic_path(path) as tmp:
        image.save(tmp, format="PNG", pnginfo=texts)


def colour_of(values: Float32Array) -> Float32Array:
    """Colours f32[..., 3] (0-255) of ``values`` f32[...] in [0, 1]."""
    at = np.linspace(0, 1, len(_ANCHORS))
    channels = [np.interp(values, at, _ANCHORS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def printable(text: str) -> str:
    """``text`` with everything that does not print (control, surrogate, bidi) shown as U+FFFD."""
    return "".join(mark if mark.isprintable() else "\ufffd" for mark in text)


def _rank(saliency: Float32Array, visited: npt.NDArray[np.bool_]) -> Float32Array:
    """Rank in [0, 1] among the visited, equal scores sharing their mean rank; -1 elsewhere."""
    rank_N = np.full(len(saliency), -1, dtype=np.float32)
    _, group, count = np.unique(saliency[visited], return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count + 1) / 2
    rank_N[visited] = (mean_rank / max(1, int(visited.sum()) - 1))[group]
    return rank_N


def _fill(below: UInt8Array, boxes: Int32Array, rank: Float32Array) -> UInt8Array:
    """Tint the map u8[H, W, 3] by rank; where patches overlap, the highest one shows."""
    rank_HW = np.full(below.shape[:2], -1, dtype=np.float32)
    order = np.argsort(rank, kind="stable")
    order = order[rank[order] >= 0]
    values = rank[order].tolist()
    for (left, top, right, bottom), value in zip(boxes[order].tolist(), values, strict=True):
        rank_HW[top:bottom, left:right] = value
    tinted = rank_HW >= 0
    out = below.copy()
    out[tinted] = _blend(below[tinted], rank_HW[tinted])
    return out


def _blend(below: UInt8Array, values: Float32Array) -> UInt8Array:
    """Lay the colours of ``values`` [...] over ``below`` u8[..., 3], the higher the denser."""
    table = np.linspace(0, 1, 1024, dtype=np.float32)  # finer than 8 bits can show
    alpha = (_ALPHA_LOW + (_ALPHA_HIGH - _ALPHA_LOW) * table)[:, None]
    at = np.rint(values * (len(table) - 1)).astype(np.int32)
    blended = below * (1 - alpha)[at] + (colour_of(table) * alpha)[at]
    return np.rint(blended).astype(np.uint8)


def _outline(pixels: UInt8Array, boxes: Int32Array, colour: tuple[int, int, int]) -> None:
    """Draw each box's border inside the box, so that the outer edge is the patch's edge."""
    for box in map(Box._make, boxes.tolist()):
        edge = min(box.right - box.left, box.bottom - box.top)
        thickness = max(1, min((edge + 2) // 4, 3))
        _frame(pixels, box, thickness, colour)
        if edge >= 16:  # smaller ones have no room for a second line
            inner = Box(
                box.left + thickness,
                box.top + thickness,
                box.right - thickness,
                box.bottom - thickness,
            )
            _frame(pixels, inner, 1, _WHITE)


def _frame(pixels: UInt8Array, box: Box, thickness: int, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    pixels[top : top + thickness, left:right] = colour
    pixels[max(top, bottom - thickness) : bottom, left:right] = colour
    pixels[top:bottom, left : left + thickness] = colour
    pixels[top:bottom, max(left, right - thickness) : right] = colour


class _Legend:
    """Writes rows from top to bottom, each shortened in its middle to fit the picture's width."""

    def __init__(self, picture: Image.Image, *, top_px: int, em_px: int, row_px: int) -> None:
        self._picture = picture
        self._em = em_px
        self._row = row_px
        self._top = top_px + em_px // 2

    def headline(self, text: str) -> None:
        """Write a row in larger letters."""
        self._write(text, self._em, ImageFont.load_default(self._em * 5 // 4))

    def text(self, text: str) -> None:
        """Write a row."""
        self._write(text, self._em, ImageFont.load_default(self._em))

    def colour_scale(self, meaning: str) -> None:
        """Write the colours as they come out over white, lowest first, and what they stand for."""
        white = np.full((self._em, 8 * self._em, 3), 255, dtype=np.uint8)
        values = np.linspace(0, 1, white.shape[1], dtype=np.float32)
        self._sample(_blend(white, np.broadcast_to(values, white.shape[:2])), meaning)

    def outline(self, colour: tuple[int, int, int], meaning: str) -> None:
        """Write an outlined square and what it stands for."""
        square = _blend(
            np.full((self._em, self._em, 3), 255, dtype=np.uint8),
            np.full((self._em, self._em), 0.75, dtype=np.float32),
        )
        _outline(square, np.array([[0, 0, self._em, self._em]], dtype=np.int32), colour)
        self._sample(square, meaning)

    def _sample(self, pixels: UInt8Array, meaning: str) -> None:
        place = (self._em, self._top + (self._row - self._em) // 2)
        self._picture.paste(Image.fromarray(pixels), place)
        left = 2 * self._em + pixels.shape[1]
        self._write(meaning, left, ImageFont.load_default(self._em))

    def _write(self, text: str, left: int, font: _Font) -> None:
        room = self._picture.width - left - self._em
        middle = self._top + self._row / 2
        draw = ImageDraw.Draw(self._picture)
        draw.text((left, middle), _shorten(text, font, room), (0, 0, 0), font, anchor="lm")
        self._top += self._row


def _shorten(text: str, font: _Font, room_px: float) -> str:
    """``text``, or as much of its two ends as fits ``room_px``, with an ellipsis between."""
    if len(text) <= _LONGEST_TEXT and font.getlength(text) <= room_px:
        return text
    for kept in range(min(len(text), _LONGEST_TEXT), 1, -2):
        shorter = f"{text[: kept // 2]}...{text[-(kept // 2) :]}"
        if font.getlength(shorter) <= room_px:
            return shorter
    return ""
