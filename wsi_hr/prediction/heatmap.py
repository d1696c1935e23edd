"""A slide's per-patch scores, drawn over its thumbnail; Pillow and numpy only.

Array letters: N patches; H, W px of the map (the slide's part of the picture).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_hr.geometry import Float32Array, Int32Array, Size, UInt8Array, patch_boxes
from wsi_hr.prediction.legend import RESEARCH_USE, MapPicture, printable
from wsi_hr.slide_prediction import Role, SlidePrediction

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
_LEGEND_ROWS = 8


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
        RGB picture; its ``info`` holds the texts that
        :func:`~wsi_hr.prediction.legend.save_picture` writes.

    Raises:
        ValueError: a visited patch's score is not a finite number.
    """
    visited = prediction.role != Role.NOT_VISITED
    if not np.isfinite(prediction.saliency[visited]).all():
        raise ValueError(f"{prediction.slide_id}: a saliency score is not a finite number")
    picture = MapPicture(thumbnail, max_px=max_px, num_rows=_LEGEND_ROWS)
    boxes = patch_boxes(prediction.grid, level0_size, picture.map_size)
    pixels = _fill(picture.below, boxes, _rank(prediction.saliency, visited))
    for role, colour in OUTLINES.items():  # the salient ones last, on top
        _outline(pixels, boxes[prediction.positions(role)], colour)

    title, slide_id = printable(title), printable(prediction.slide_id)
    probability = f"probability {float(prediction.probs.max()):.3f}"
    picture.headline(title)
    picture.text(f"slide {slide_id}")
    picture.text(probability)
    meaning = "lowest to highest rank of saliency in this slide"
    picture.sample(_scale(picture.em_px), meaning)
    for role, what in _MEANING.items():
        sample = _outlined(picture.em_px, OUTLINES[role])
        picture.sample(sample, f"{what} ({len(prediction.positions(role))})")
    picture.text("bare: not visited, or no tissue")
    picture.text(RESEARCH_USE)
    return picture.finished(
        pixels,
        title=f"{slide_id}: {title}",
        description=f"slide {slide_id}; {title}; {probability}; "
        "fill: rank of saliency in this slide",
    )


def colour_of(values: Float32Array) -> Float32Array:
    """Colours f32[..., 3] (0-255) of ``values`` f32[...] in [0, 1]."""
    at = np.linspace(0, 1, len(_ANCHORS))
    channels = [np.interp(values, at, _ANCHORS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


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


def _scale(em_px: int) -> UInt8Array:
    """The colours as they come out over white, lowest first."""
    white = np.full((em_px, 8 * em_px, 3), 255, dtype=np.uint8)
    values = np.linspace(0, 1, white.shape[1], dtype=np.float32)
    return _blend(white, np.broadcast_to(values, white.shape[:2]))


def _outlined(em_px: int, colour: tuple[int, int, int]) -> UInt8Array:
    """A square with an outline."""
    square = _blend(
        np.full((em_px, em_px, 3), 255, dtype=np.uint8),
        np.full((em_px, em_px), 0.75, dtype=np.float32),
    )
    _outline(square, np.array([[0, 0, em_px, em_px]], dtype=np.int32), colour)
    return square
