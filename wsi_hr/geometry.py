"""The spaces a patch lives in, as types. Pure: no I/O, no imaging library.

Three pixel spaces, named in every variable: ``_px0`` are level-0 pixels of the slide, ``_px_level``
pixels of the pyramid level that is read, ``_px`` pixels of the patch at the asked mpp.
Points are (x, y), sizes (w, h), arrays [row, col].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


class Point(NamedTuple):
    """A position: x to the right, y down."""

    x: int
    y: int


class Size(NamedTuple):
    """A width and a height."""

    w: int
    h: int


class Pair(NamedTuple):
    """A quantity per axis that need not be whole, e.g. a downsample or a footprint."""

    x: float
    y: float


class Bounds(NamedTuple):
    """A rectangle in level-0 pixels: top-left corner and size."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True)
class Mpp:
    """Micrometres per level-0 pixel, and whose word it is.

    Attributes:
        x: um/px along x.
        y: um/px along y.
        source: where the value was found, e.g. ``openslide.mpp-x``, ``tiff.resolution``,
            ``manifest`` or ``mpp-override``.
    """

    x: float
    y: float
    source: str

    @property
    def mean(self) -> float:
        """Mean of both axes, um/px."""
        return (self.x + self.y) / 2


@dataclass(frozen=True)
class PatchSpec:
    """What is asked: the same for every slide of a store.

    Attributes:
        patch_px: edge of a patch, in px at ``mpp``.
        stride_px: distance between neighbouring patches, px at ``mpp``.
        mpp: um per patch px.
        mpp_tolerance: a level within this relative distance of ``mpp`` is used as it is.
        min_tissue: least fraction of tissue in a patch that is kept.
    """

    patch_px: int
    stride_px: int
    mpp: float
    mpp_tolerance: float
    min_tissue: float


@dataclass(frozen=True)
class ReadPlan:
    """How one slide gives what a :class:`PatchSpec` asks.

    Attributes:
        level: pyramid level that is read.
        level_downsample: level-0 px per px of that level, per axis.
        scale: px of that level per patch px, per axis; exactly 1.0 where nothing is resampled.
        patch_px0: footprint of a patch, level-0 px, per axis.
        stride_px0: grid step, level-0 px, per axis.
        decode_scale: px of that level per px that the JPEG decoder gives, 1, 2, 4 or 8: the part
            of ``scale`` that costs nothing.
    """

    level: int
    level_downsample: Pair
    scale: Pair
    patch_px0: Pair
    stride_px0: Pair
    decode_scale: int = 1

    @property
    def resampled(self) -> bool:
        """Whether a px of a patch is made of several of the level."""
        return self.scale != (1.0, 1.0)

    @property
    def residual(self) -> Pair:
        """Decoded px per patch px, per axis."""
        return Pair(self.scale.x / self.decode_scale, self.scale.y / self.decode_scale)

    @property
    def decoded_px0(self) -> Pair:
        """Level-0 px per decoded px, per axis."""
        return Pair(
            self.level_downsample.x * self.decode_scale, self.level_downsample.y * self.decode_scale
        )

    def decoded_corners(self, coords: Int32Array) -> list[Point]:
        """The decoded px that begin at level-0 px i32[N, 2]; corners of patches do on one."""
        return [Point(x, y) for x, y in self.decoded_corner_table(coords).tolist()]

    def decoded_corner_table(self, coords: Int32Array) -> Int64Array:
        """The same, i64[N, 2]."""
        return np.floor(coords / np.array(self.decoded_px0) + 0.5).astype(np.int64)


class MaskCode(IntEnum):
    """What a px of a mask shows; the numbers are those of stores."""

    BACKGROUND = 0
    TISSUE = 1
    PEN = 2
    BLUR = 3
    FOLD = 4
    BUBBLE = 5


ARTIFACTS = ("pen", "blur", "fold", "bubble")
"""Names of the artifact classes."""


@dataclass(frozen=True)
class TissueMask:
    """Where there is tissue and where it is spoilt, at low power.

    Attributes:
        mask: bool[H, W], True on tissue that no artifact covers.
        downsample: level-0 px per mask px, per axis.
        method: what drew it: a segmenter's name, or ``mask_file``.
        artifacts: u8[H, W], the :class:`MaskCode` of the artifact, 0 where there is none; None
            where there is none at all.
    """

    mask: BoolArray
    downsample: Pair
    method: str
    artifacts: UInt8Array | None = None

    @classmethod
    def from_codes(cls, codes: UInt8Array, downsample: Pair, method: str) -> Self:
        """Build it from u8[H, W] of :class:`MaskCode`."""
        spoilt = codes > MaskCode.TISSUE
        artifacts = np.where(spoilt, codes, np.uint8(0)) if spoilt.any() else None
        return cls(codes == MaskCode.TISSUE, downsample, method, artifacts)

    @property
    def codes(self) -> UInt8Array:
        """u8[H, W] of :class:`MaskCode`."""
        tissue = self.mask.astype(np.uint8)
        if self.artifacts is None:
            return tissue
        return np.where(self.artifacts > 0, self.artifacts, tissue)


@dataclass(frozen=True)
class QcSummary:
    """How good a slide is, by its mask.

    Attributes:
        tissue_mm2: area of tissue that no artifact covers.
        pen: area of pen, as a part of tissue and artifacts together; so the next three.
        blur: of tissue out of focus.
        fold: of dark folds.
        bubble: of bubbles and edges of the coverslip.
        left_out: patches that artifacts cost: with what they cover taken for tissue, these would
            have been cut too.
    """

    tissue_mm2: float = 0.0
    pen: float = 0.0
    blur: float = 0.0
    fold: float = 0.0
    bubble: float = 0.0
    left_out: int = 0


@dataclass(frozen=True)
class PatchGrid:
    """The patches of one slide, in store order.

    Attributes:
        coords: i32[N, 2] top-left corners (x, y), level-0 px.
        cells: i32[N, 2] grid cells (row, col).
        shape: (R, Q) rows and columns of the whole grid, empty cells included.
        tissue: f32[N] fraction of tissue.
        patch_px0: footprint of a patch, level-0 px, per axis.
        artifact: f32[N] fraction of artifacts; 0 everywhere if it is not given.
    """

    coords: Int32Array
    cells: Int32Array
    shape: tuple[int, int]
    tissue: Float32Array
    patch_px0: Pair
    artifact: Float32Array = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        if not len(self.artifact):
            object.__setattr__(self, "artifact", np.zeros(len(self.coords), np.float32))

    def __len__(self) -> int:
        return len(self.coords)

    def take(self, indices: Int64Array) -> PatchGrid:
        """The same grid with only the patches at ``indices`` i64[K], in that order."""
        return PatchGrid(
            coords=self.coords[indices],
            cells=self.cells[indices],
            shape=self.shape,
            tissue=self.tissue[indices],
            patch_px0=self.patch_px0,
            artifact=self.artifact[indices],
        )


def patch_boxes(grid: PatchGrid, level0_size: Size, map_size: Size) -> Int32Array:
    """Where the patches lie on a map of the whole slide.

    Both edges of a patch are scaled and rounded on their own, so that neighbours on the slide are
    neighbours on the map, without gap or overlap and without drift.

    Returns:
        i32[N, 4] left, top, right, bottom (exclusive), clipped to the map, at least 1 px wide.
    """
    scale_2 = np.array([map_size.w / level0_size.w, map_size.h / level0_size.h])
    first_N2 = np.floor(grid.coords * scale_2 + 0.5)
    last_N2 = np.floor((grid.coords + np.array(grid.patch_px0)) * scale_2 + 0.5)
    first_N2 = np.clip(first_N2, 0, np.array(map_size) - 1)
    last_N2 = np.clip(last_N2, first_N2 + 1, np.array(map_size))
    return np.concatenate([first_N2, last_N2], axis=1).astype(np.int32)
