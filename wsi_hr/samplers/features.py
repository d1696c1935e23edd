"""What a patch looks like on the slide's thumbnail, for next to nothing."""

from __future__ import annotations

import cv2
import numpy as np

from wsi_hr.geometry import Float32Array, PatchGrid, Size, UInt8Array, patch_boxes

NUM_FEATURES = 6


def colour_features(grid: PatchGrid, thumbnail: UInt8Array, level0_size: Size) -> Float32Array:
    """Mean and standard deviation of each patch's colours on the thumbnail, scaled to length 1.

    From integral images, so the cost does not depend on the size of a patch. A patch smaller than
    a pixel of the thumbnail gets that pixel, and a deviation of 0.

    Args:
        grid: N patches.
        thumbnail: u8[h, w, 3] of the whole slide.
        level0_size: size of the slide, level-0 px.

    Returns:
        f32[N, 6]: mean R, G, B, then deviation R, G, B (parts of 255), divided by the length of
        the six; 0 where all six are.
    """
    height, width = thumbnail.shape[:2]
    boxes = patch_boxes(grid, level0_size, Size(width, height))
    left, top, right, bottom = boxes.astype(np.int64).T
    sums, squares = cv2.integral2(thumbnail)[:2]

    def inside(integral: np.ndarray) -> np.ndarray:
        total = integral[bottom, right].astype(np.float64) + integral[top, left]
        return total - integral[top, right] - integral[bottom, left]

    area = ((right - left) * (bottom - top))[:, None]
    mean = inside(np.asarray(sums)) / area
    deviation = np.sqrt(np.maximum(inside(np.asarray(squares)) / area - mean**2, 0))
    found = np.concatenate([mean, deviation], axis=1)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return np.divide(found, length, out=np.zeros_like(found), where=length > 0).astype(np.float32)
