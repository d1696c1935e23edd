"""One synthetic slide: tissue with decoys, and perhaps lesions, on glass.

Everything but the lesions is drawn from (seed, slide_id) alone, so a slide and its twin without
lesions differ nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_hr.geometry import Bounds, Float32Array, Point, UInt8Array
from wsi_hr.runtime import rng_for
from wsi_hr.testing.lesion_texture import diseased
from wsi_hr.testing.lesions import Ellipse, Lesions
from wsi_hr.testing.svs import TILE_PX
from wsi_hr.testing.texture import TEXTURE_PX, tissue_texture

OUTLINE_CELLS = 96  # the outline of the tissue is drawn on so many cells an axis
TISSUE_SHARE = 0.40  # of the slide

_TWO_LESIONS_FROM = 0.038  # share of the tissue above which a lesion comes in two pieces
_NUM_DECOYS = 2
_DECOY_SHARE = (0.02, 0.05)  # of the tissue, each
_CLEARANCE = 1.15  # lesions, decoys and the tissue's edge stay apart by this part of their size
_OUTLINES_TRIED, _PLACES_TRIED = 40, 100
_NUM_GLASS_TILES = 8
_RIM_CELLS = 0.12  # width over which tissue fades into glass
_LESION_FADE, _DECOY_FADE = 0.08, 0.25  # width over which they fade, in units of their size
_STAIN_DENSITY = (0.97, 1.03)  # a slide's optical density, relative to the picture's
_STAIN_HUE = (0.985, 1.015)  # the same, for each channel
_STAIN_LIGHT = np.array([0.96, 0.87, 0.95])  # what the thinnest tissue lets through: a pink hue


class NoRoomError(ValueError):
    """The lesions and decoys asked for do not fit into the tissue."""


@dataclass(frozen=True)
class Specimen:
    """What a slide shows.

    Attributes:
        slide_id: name of the slide.
        seed: of the cohort.
        size_px0: edge of the square slide, level-0 px.
        outline: f32[OUTLINE_CELLS, OUTLINE_CELLS], above 0 on tissue, about 1 cell a unit.
        planted: the lesions that are drawn, and the decoys.
    """

    slide_id: str
    seed: int
    size_px0: int
    outline: Float32Array
    planted: Lesions

    @property
    def cell_px0(self) -> float:
        """Edge of a cell of the outline, level-0 px."""
        return self.size_px0 / OUTLINE_CELLS

    @property
    def tissue_area_px0(self) -> float:
        """Area of the tissue, level-0 px squared."""
        return float((self.outline > 0).sum()) * self.cell_px0**2


def design(
    slide_id: str, *, seed: int, size_px0: int, diseased: bool, lesion_share: tuple[float, float]
) -> Specimen:
    """Choose outline, lesions and decoys of a slide.

    Args:
        slide_id: name of the slide.
        seed: of the cohort.
        size_px0: edge of the slide, level-0 px.
        diseased: whether the lesions are drawn; a normal slide keeps their place free, so that
            nothing else tells the classes apart.
        lesion_share: least and greatest part of the tissue that is lesion.

    Raises:
        NoRoomError: no outline was found into which all fits.
    """
    for attempt in range(_OUTLINES_TRIED):
        rng = rng_for(seed, slide_id, "design", attempt)
        outline = _outline(rng)
        tissue = float((outline > 0).mean()) * size_px0**2
        share = rng.uniform(*lesion_share)
        num_lesions = 2 if share >= _TWO_LESIONS_FROM else 1
        areas = [tissue * share / num_lesions] * num_lesions
        areas += [tissue * rng.uniform(*_DECOY_SHARE) for _ in range(_NUM_DECOYS)]
        ellipses = _place(areas, outline, size_px0, rng)
        if ellipses is not None:
            planted = Lesions(
                lesions=ellipses[:num_lesions] if diseased else (),
                decoys=ellipses[num_lesions:],
            )
            return Specimen(slide_id, seed, size_px0, outline, planted)
    raise NoRoomError(f"lesions of {lesion_share} of the tissue do not fit; ask for smaller ones")


class Drawing:
    """Draws the level-0 tiles of one specimen; what it keeps is bounded by the lesions' size."""

    def __init__(self, specimen: Specimen):
        self._specimen = specimen
        rng = rng_for(specimen.seed, specimen.slide_id, "stain")
        self._offset = Point(*(int(shift) for shift in rng.integers(TEXTURE_PX, size=2)))
        self._turn, self._mirror = int(rng.integers(4)), bool(rng.integers(2))
        self._lamp = np.array([243, 242, 244]) + rng.uniform(-3, 3, 3)
        density = rng.uniform(*_STAIN_DENSITY) * rng.uniform(*_STAIN_HUE, 3)
        self._stain = _transfer(self._lamp, density)
        self._decoy_stains = [
            _transfer(self._lamp, density * np.exp(rng.uniform(-0.25, 0.25, 3)))
            for _ in specimen.planted.decoys
        ]
        noise = rng.normal(0, 0.8, (_NUM_GLASS_TILES, TILE_PX, TILE_PX, 1))
        self.glass: UInt8Array = np.clip(self._lamp + noise + 0.5, 0, 255).astype(np.uint8)

    def tile_at(self, xy0: Point) -> UInt8Array | None:
        """The tile u8[TILE_PX, TILE_PX, 3] at top-left ``xy0``, or None for bare glass."""
        cover = self._cover(xy0)
        if not cover.any():
            return None
        box = Bounds(xy0.x, xy0.y, TILE_PX, TILE_PX)
        tissue = self._tissue(box)
        for lesion, pixels in zip(self._specimen.planted.lesions, self._lesions, strict=True):
            share = _fade(lesion, box, _LESION_FADE)
            if share is not None:
                tissue = _blend(tissue, _window(pixels, lesion.bounds, box), share)
        stained = _apply(self._stain, tissue)
        for decoy, stain in zip(self._specimen.planted.decoys, self._decoy_stains, strict=True):
            share = _fade(decoy, box, _DECOY_FADE)
            if share is not None:
                stained = _blend(stained, _apply(stain, tissue), share)
        if cover.min() < 1:
            stained = _blend(self.glass[0], stained, cover)
        return stained

    @cached_property
    def _lesions(self) -> list[UInt8Array]:
        """The pixels of each lesion's bounds, before staining."""
        return [
            diseased(
                self._tissue(lesion.bounds),
                rng_for(self._specimen.seed, self._specimen.slide_id, "nuclei", index),
            )
            for index, lesion in enumerate(self._specimen.planted.lesions)
        ]

    @cached_property
    def _texture(self) -> UInt8Array:
        """The torus of tissue, turned and mirrored as this slide shows it."""
        turned = np.rot90(tissue_texture(), self._turn)
        return np.ascontiguousarray(turned[:, ::-1] if self._mirror else turned)

    def _tissue(self, box: Bounds) -> UInt8Array:
        """Normal tissue u8[h, w, 3], before staining."""
        rows = _spans(box.y + self._offset.y, box.h)
        cols = _spans(box.x + self._offset.x, box.w)
        return np.concatenate(
            [np.concatenate([self._texture[row, col] for col in cols], axis=1) for row in rows]
        )

    def _cover(self, xy0: Point) -> Float32Array:
        """How much of each px is tissue, f32[TILE_PX, TILE_PX]."""
        cell = self._specimen.cell_px0
        first_x, first_y = (max(0, math.floor(at / cell) - 1) for at in xy0)
        last_x, last_y = (math.ceil((at + TILE_PX) / cell) + 1 for at in xy0)
        near = self._specimen.outline[first_y:last_y, first_x:last_x]
        if near.max() < -_RIM_CELLS or near.min() > _RIM_CELLS:
            return np.full((TILE_PX, TILE_PX), near.max() > 0, dtype=np.float32)
        right, bottom = xy0.x + TILE_PX, xy0.y + TILE_PX
        fine = Image.fromarray(self._specimen.outline).resize(
            (TILE_PX, TILE_PX),
            Image.Resampling.BILINEAR,
            box=(xy0.x / cell, xy0.y / cell, right / cell, bottom / cell),
        )
        height = np.asarray(fine, dtype=np.float32)
        return np.clip(height / np.float32(2 * _RIM_CELLS) + np.float32(0.5), 0, 1)


def _outline(rng: np.random.Generator) -> Float32Array:
    """A field above 0 on ``TISSUE_SHARE`` of the cells, smooth, below 0 at the slide's border."""
    spectrum = np.fft.fft2(rng.normal(size=(OUTLINE_CELLS, OUTLINE_CELLS)))
    waves = np.hypot(*np.meshgrid(*[np.fft.fftfreq(OUTLINE_CELLS, 1 / OUTLINE_CELLS)] * 2))
    large, small = np.exp(-((waves / 2.2) ** 2)), 0.06 * np.exp(-((waves / 12) ** 2))
    field = np.fft.ifft2(spectrum * (large + small)).real
    field /= field.std()
    edge = np.abs(np.linspace(-1, 1, OUTLINE_CELLS))
    field -= 6 * np.maximum(edge[:, None], edge[None, :]) ** 8
    field -= np.quantile(field, 1 - TISSUE_SHARE)
    steepness = np.hypot(*np.gradient(field))[np.abs(field) < 0.2].mean()
    return (field / steepness).astype(np.float32)


def _place(
    areas: list[float], outline: Float32Array, size_px0: int, rng: np.random.Generator
) -> tuple[Ellipse, ...] | None:
    """Ellipses of the given areas in the tissue, apart from one another; None if one fails."""
    cell = size_px0 / OUTLINE_CELLS
    y0, x0 = (np.indices(outline.shape) + 0.5) * cell
    free = outline > 1
    placed: list[Ellipse] = []
    for area in areas:
        centres = np.argwhere(free)
        if not len(centres):
            return None
        for row, col in centres[rng.integers(len(centres), size=_PLACES_TRIED)]:
            aspect = rng.uniform(1, 1.35)
            ellipse = Ellipse(
                x0=float(col + rng.uniform(0, 1)) * cell,
                y0=float(row + rng.uniform(0, 1)) * cell,
                a_px0=math.sqrt(area / math.pi * aspect),
                b_px0=math.sqrt(area / math.pi / aspect),
                angle=float(rng.uniform(0, math.pi)),
            )
            cells = ellipse.scaled(_CLEARANCE).radius(x0, y0) <= 1
            if cells.any() and free[cells].all():
                free &= ~cells
                placed.append(ellipse)
                break
        else:
            return None
    return tuple(placed)


def _spans(start: int, length: int) -> list[slice]:
    """Slices of an axis of the torus that together are ``length`` px from ``start`` on."""
    spans: list[slice] = []
    while length > 0:
        first = start % TEXTURE_PX
        spans.append(slice(first, min(first + length, TEXTURE_PX)))
        start, length = start + TEXTURE_PX - first, length - (TEXTURE_PX - first)
    return spans


def _transfer(lamp: npt.NDArray[np.float64], density: npt.NDArray[np.float64]) -> list[int]:
    """Lookup tables of the three channels: picture to slide, optical density times ``density``."""
    light = np.arange(256)[None, :] / 255 * _STAIN_LIGHT[:, None]
    return (lamp[:, None] * light ** density[:, None] + 0.5).astype(np.int64).ravel().tolist()


def _apply(stain: list[int], pixels: UInt8Array) -> UInt8Array:
    return np.asarray(Image.fromarray(pixels).point(stain))


def _fade(ellipse: Ellipse, box: Bounds, fade: float) -> Float32Array | None:
    """How much the px of a box belong to ``ellipse``, f32[h, w]; None if none of them does."""
    around = ellipse.bounds
    if (
        around.x >= box.x + box.w
        or around.y >= box.y + box.h
        or around.x + around.w <= box.x
        or around.y + around.h <= box.y
    ):
        return None
    x = np.arange(box.x, box.x + box.w, dtype=np.float64)[None, :]
    y = np.arange(box.y, box.y + box.h, dtype=np.float64)[:, None]
    share = np.clip((1 - ellipse.radius(x, y)) / fade, 0, 1).astype(np.float32)
    return share if share.any() else None


def _window(pixels: UInt8Array, around: Bounds, box: Bounds) -> UInt8Array:
    """What ``pixels``, which lie at ``around``, show in ``box``; black where they show nothing."""
    rows = np.arange(box.y - around.y, box.y - around.y + box.h)
    cols = np.arange(box.x - around.x, box.x - around.x + box.w)
    shown = np.logical_and.outer((rows >= 0) & (rows < around.h), (cols >= 0) & (cols < around.w))
    near = pixels[rows.clip(0, around.h - 1)[:, None], cols.clip(0, around.w - 1)]
    return near * shown[..., None].astype(np.uint8)


def _blend(under: UInt8Array, over: UInt8Array, share: Float32Array) -> UInt8Array:
    weight = share[..., None]
    return (under + weight * (over.astype(np.float32) - under) + 0.5).astype(np.uint8)
