"""What is done to the colours of a slide's patches, decided once per slide and recorded.

First the scanner's colours become sRGB (``tile.icc``), then the stains are brought to a reference
(``tile.stain``). Both are maps of a pixel's colour alone, so patches do not differ by where they
were cut. The tissue mask and the thumbnail show the slide as it is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsi_hr.config import TileConfig
from wsi_hr.errors import SlideError
from wsi_hr.geometry import Point, Size, TissueMask, UInt8Array
from wsi_hr.slides.slide import Slide
from wsi_hr.tiling.icc import UnusableProfileError, srgb_map
from wsi_hr.tiling.pixel_map import PixelMap, TabulatedMap
from wsi_hr.tiling.plan import plan_read
from wsi_hr.tiling.stain import STAIN_METHODS, NotEstimableError

logger = logging.getLogger(__name__)

_NUM_WINDOWS = 100
_WINDOW_PX = 128  # edge of a window, px of the level that patches are read from
_EVERY_PX = 2  # of a window's rows and columns: neighbours tell little that is new


@dataclass(frozen=True)
class Colour:
    """The colour treatment of one slide, at all its scales.

    Attributes:
        transform: map of a patch u8[P, P, 3]; threads may share it; None: patches stay as they
            are, bit for bit.
        record: what was asked and done, as plain JSON for the store; empty where nothing was asked.
    """

    transform: PixelMap | None = None
    record: dict[str, Any] = field(default_factory=dict)


def colour_transform(slide: Slide, mask: TissueMask, config: TileConfig) -> Colour:
    """Decide on the colours of a slide.

    What cannot be done (no profile, too little tissue) is left undone, recorded with its reason
    and logged: the slide is not lost.

    Args:
        slide: open slide, with an mpp.
        mask: its tissue; pixels for the stains are read there.
        config: what is asked.
    """
    maps: list[PixelMap] = []
    record: dict[str, Any] = {}
    if config.icc == "srgb":
        try:
            to_srgb, facts = srgb_map(slide.icc_profile)
        except UnusableProfileError as cause:
            record["icc"] = _undone(slide, "srgb", f"colours not converted to sRGB: {cause}")
        else:
            maps.append(to_srgb)
            record["icc"] = {"method": "srgb", "applied": True, **facts}
    if config.stain != "none":
        try:
            sample = _tissue_pixels(slide, mask, config, maps)
            normaliser = STAIN_METHODS[config.stain](sample)
        except NotEstimableError as cause:
            record["stain"] = _undone(slide, config.stain, f"stain not normalised: {cause}")
        else:
            maps.append(normaliser.apply)
            record["stain"] = {"method": config.stain, "applied": True, **normaliser.facts}
    return Colour(TabulatedMap(_chained(maps)) if maps else None, record)


def _undone(slide: Slide, method: str, reason: str) -> dict[str, Any]:
    logger.warning("%s: %s", slide.path, reason)
    return {"method": method, "applied": False, "reason": reason}


def _chained(maps: list[PixelMap]) -> PixelMap:
    def apply(rgb: UInt8Array) -> UInt8Array:
        for one in maps:
            rgb = one(rgb)
        return rgb

    return apply


def _tissue_pixels(
    slide: Slide, mask: TissueMask, config: TileConfig, maps: list[PixelMap]
) -> UInt8Array:
    """Pixels u8[N, 3] from windows spread evenly over the tissue, always the same ones.

    They come from the level that patches of the main mpp are read from: where it is coarser,
    nuclei and their surroundings mix, and the stains with them. Windows that cannot be read are
    left out.
    """
    level = plan_read(slide, config.spec()).level
    downsample = slide.level_downsamples[level]
    places = np.argwhere(mask.mask)  # rows, columns
    if len(places) > _NUM_WINDOWS:
        places = places[np.linspace(0, len(places) - 1, _NUM_WINDOWS).round().astype(np.int64)]
    found = [np.zeros((0, 3), np.uint8)]
    for row, col in places.tolist():
        corner = Point(
            round((col + 0.5) * mask.downsample.x - _WINDOW_PX / 2 * downsample.x),
            round((row + 0.5) * mask.downsample.y - _WINDOW_PX / 2 * downsample.y),
        )
        try:
            rgb, valid = slide.read_region(corner, level, Size(_WINDOW_PX, _WINDOW_PX))
        except SlideError as cause:
            logger.debug("%s: no stain sample at %s: %s", slide.path, corner, cause)
            continue
        rgb, valid = rgb[::_EVERY_PX, ::_EVERY_PX], valid[::_EVERY_PX, ::_EVERY_PX]
        found.append(_chained(maps)(np.ascontiguousarray(rgb))[valid])
    return np.concatenate(found)
