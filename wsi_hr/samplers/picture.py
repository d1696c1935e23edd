"""What an epoch sees of a slide, as a picture."""

from __future__ import annotations

import cv2
import numpy as np

from wsi_hr.geometry import BoolArray, PatchGrid, Size, UInt8Array, patch_boxes

KEPT_COLOUR = (0, 90, 220)
"""Outlines of patches that are kept: no stain looks like it."""

_PALE = 0.7  # how far dropped patches are washed out
_ROOMY_PX = 12  # patches of this edge have an outline each; smaller ones where they border others


def draw_sample(
    grid: PatchGrid, kept_N: BoolArray, thumbnail: UInt8Array, level0_size: Size, *, max_px: int
) -> UInt8Array:
    """The thumbnail with the kept patches outlined and the dropped ones washed out.

    Args:
        grid: all N patches that could be seen.
        kept_N: bool[N].
        thumbnail: u8[h, w, 3] of the whole slide.
        level0_size: size of the slide, level-0 px.
        max_px: longest edge of the picture.

    Returns:
        u8[H, W, 3].
    """
    height, width = thumbnail.shape[:2]
    scale = max_px / max(height, width)
    size = Size(max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = np.array(cv2.resize(thumbnail, size, interpolation=how), np.uint8)
    boxes = patch_boxes(grid, level0_size, size)
    dropped = _covered(boxes[~kept_N], picture)
    kept = _covered(boxes[kept_N], picture)  # where patches overlap, one that is kept shows
    pale = dropped & ~kept
    picture[pale] = np.rint((1 - _PALE) * picture[pale] + _PALE * 255)
    inner = np.asarray(cv2.erode(kept.astype(np.uint8), np.ones((3, 3), np.uint8))) > 0
    picture[kept & ~inner] = KEPT_COLOUR
    for left, top, right, bottom in boxes[kept_N].tolist():
        if min(right - left, bottom - top) >= _ROOMY_PX:
            cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), KEPT_COLOUR, 1)
    return picture


def _covered(boxes: np.ndarray, picture: UInt8Array) -> BoolArray:
    covered = np.zeros(picture.shape[:2], np.bool_)
    for left, top, right, bottom in boxes.tolist():
        covered[top:bottom, left:right] = True
    return covered
