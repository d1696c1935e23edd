"""The class of every patch, drawn over the slide's thumbnail; Pillow and numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from wsi_hr.geometry import Size, UInt8Array, patch_boxes
from wsi_hr.prediction.legend import RESEARCH_USE, MapPicture, printable
from wsi_hr.slide_prediction import SlidePrediction

# Colours that differ for every kind of colour vision (Okabe and Ito 2008), those least like
# stained tissue first; grey for the classes that come after them.
COLOURS = np.array(
    [
        (0, 114, 178),
        (240, 228, 66),
        (0, 158, 115),
        (230, 159, 0),
        (86, 180, 233),
        (0, 0, 0),
        (213, 94, 0),
        (204, 121, 167),
        (120, 120, 120),
    ],
    dtype=np.float32,
)
_OTHERS = len(COLOURS) - 1
_ALPHA = 0.6  # the tissue stays visible


def draw_class_map(
    prediction: SlidePrediction,
    classes: Sequence[str],
    thumbnail: UInt8Array,
    level0_size: Size,
    *,
    max_px: int,
) -> Image.Image:
    """Tint every patch by its most probable class; the first class, background, stays bare.

    Where patches overlap, the surest one shows. From the ninth colour on classes share one.

    Args:
        prediction: has the probabilities of the patches' classes.
        classes: their names, background first.
        thumbnail: u8[h, w, 3], the whole level-0 frame.
        level0_size: size of that frame, level-0 px.
        max_px: longest edge of the picture, px.

    Returns:
        RGB picture; its ``info`` holds the texts that
        :func:`~wsi_hr.prediction.legend.save_picture` writes.
    """
    probs_NK = prediction.patch_probs
    assert probs_NK is not None, "a run without classes of patches has no map of them"
    class_N = probs_NK.argmax(1)
    counts = np.bincount(class_N, minlength=len(classes)).tolist()
    named = [f"{printable(name)} ({count})" for name, count in zip(classes, counts, strict=True)]
    colours = min(len(classes) - 1, len(COLOURS))
    picture = MapPicture(thumbnail, max_px=max_px, num_rows=colours + 4)

    boxes_N4 = patch_boxes(prediction.grid, level0_size, picture.map_size)
    shown_HW = np.full(picture.below.shape[:2], -1, np.int64)
    for patch in np.argsort(probs_NK.max(1), kind="stable").tolist():
        left, top, right, bottom = boxes_N4[patch].tolist()
        shown_HW[top:bottom, left:right] = min(class_N[patch] - 1, _OTHERS)
    pixels = picture.below.copy()
    tinted = shown_HW >= 0
    pixels[tinted] = _blend(pixels[tinted], shown_HW[tinted])

    slide_id = printable(prediction.slide_id)
    picture.headline("classes of patches")
    picture.text(f"slide {slide_id}")
    for colour in range(colours):
        meaning = named[1 + colour] if colour < _OTHERS else "; ".join(named[1 + colour :])
        white = np.full((picture.em_px, picture.em_px, 3), 255, np.uint8)
        picture.sample(_blend(white, np.full(white.shape[:2], colour)), meaning)
    picture.text(f"bare: {named[0]}, or no tissue")
    picture.text(RESEARCH_USE)
    return picture.finished(
        pixels,
        title=f"{slide_id}: classes of patches",
        description=f"slide {slide_id}; patches by most probable class: {'; '.join(named)}",
    )


def _blend(below: UInt8Array, colours: np.ndarray) -> UInt8Array:
    """Lay ``COLOURS`` by number i64[...] over ``below`` u8[..., 3]."""
    return np.rint((1 - _ALPHA) * below + _ALPHA * COLOURS[colours]).astype(np.uint8)
