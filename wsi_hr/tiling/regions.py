"""Connected parts of a mask, and shapes of a physical size to grow and shrink them by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from wsi_hr.geometry import BoolArray, Int32Array, Pair, UInt8Array

# Many slides are worked on at a time: threads of OpenCV's own would only fight over the cores.
cv2.setNumThreads(1)


@dataclass(frozen=True)
class Regions:
    """The connected parts of a mask; number 0 is everything else.

    Attributes:
        numbers: i32[H, W], which part a px belongs to.
        area_um2: f64[K + 1].
        length_um: f64[K + 1], diagonal of the upright box around it.
    """

    numbers: Int32Array
    area_um2: npt.NDArray[np.float64]
    length_um: npt.NDArray[np.float64]

    @classmethod
    def of(cls, mask: BoolArray, um: Pair, *, diagonal: bool) -> Regions:
        """Find them.

        Args:
            mask: bool[H, W].
            um: um per px, per axis.
            diagonal: whether px that touch at a corner are connected.
        """
        if not mask.any():  # most masks of artifacts; the background is all there is
            whole = Pair(mask.shape[1] * um.x, mask.shape[0] * um.y)
            area, length = np.array([whole.x * whole.y]), np.array([math.hypot(*whole)])
            return cls(np.zeros(mask.shape, np.int32), area, length)
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(
            mask.view(np.uint8), connectivity=8 if diagonal else 4
        )
        width, height = (
            stats[:, column].astype(np.float64)
            for column in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT)
        )
        return cls(
            np.asarray(numbers, np.int32),
            stats[:, cv2.CC_STAT_AREA].astype(np.float64) * um.x * um.y,
            np.hypot(width * um.x, height * um.y),
        )

    def select(self, wanted: BoolArray) -> BoolArray:
        """bool[H, W], True on the parts whose number is ``wanted`` bool[K + 1]."""
        table = wanted.copy()
        table[0] = False
        return table[self.numbers]

    def touching(self, mask: BoolArray) -> BoolArray:
        """bool[K + 1], which parts share a px with ``mask``."""
        return np.bincount(self.numbers[mask], minlength=len(self.area_um2)) > 0

    def at_border(self) -> BoolArray:
        """bool[K + 1], which parts reach the border of the picture."""
        border = np.ones(self.numbers.shape, np.bool_)
        border[1:-1, 1:-1] = False
        return self.touching(border)


def disk(diameter_um: float, um: Pair) -> UInt8Array:
    """A disk of about that diameter, an odd number of px."""
    shape = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, odd_px(diameter_um, um))
    return np.asarray(shape, np.uint8)


def odd_px(length_um: float, um: Pair) -> tuple[int, int]:
    """An odd number of px (w, h) of about that length."""
    return 2 * round(length_um / um.x / 2) + 1, 2 * round(length_um / um.y / 2) + 1


def dilated(mask: BoolArray, shape: UInt8Array) -> BoolArray:
    """The mask grown by a shape."""
    return np.asarray(cv2.dilate(mask.view(np.uint8), shape), np.uint8).view(np.bool_)


def eroded(mask: BoolArray, shape: UInt8Array) -> BoolArray:
    """The mask shrunk by a shape; beyond the picture all is mask."""
    return np.asarray(cv2.erode(mask.view(np.uint8), shape), np.uint8).view(np.bool_)


def share(mask: BoolArray, size: tuple[int, int]) -> UInt8Array:
    """The mask at another size (w, h): u8, 255 where all of the px is mask."""
    whole = mask.view(np.uint8) * np.uint8(255)
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)
