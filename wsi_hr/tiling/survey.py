"""What a slide will give, known before a patch is read: its mask, and per asked mpp its grid."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_hr.config import TileConfig
from wsi_hr.errors import MaskError
from wsi_hr.exchange.coords_h5 import GivenCoords
from wsi_hr.geometry import PatchGrid, QcSummary, ReadPlan, TissueMask
from wsi_hr.slides.jpeg_tiles import JpegTiles
from wsi_hr.slides.self_check import checked_tiles
from wsi_hr.slides.slide import Slide
from wsi_hr.store.chunks import JpegChunks, chunk_codec_for
from wsi_hr.tiling.blocks import BlockEncoder
from wsi_hr.tiling.colour import Colour, colour_transform
from wsi_hr.tiling.given_grid import grid_from_coords, tiles_give
from wsi_hr.tiling.mask_files import MaskFrame, mask_sha256, read_mask
from wsi_hr.tiling.overview import Overview, read_overview
from wsi_hr.tiling.passthrough import TileStreams, coincides
from wsi_hr.tiling.pixel_map import PixelMap
from wsi_hr.tiling.plan import covered_size, num_left_out, plan_grid, plan_read, reduced_by_decoder
from wsi_hr.tiling.read import SlidePatches
from wsi_hr.tiling.recent_tiles import Decoding, RecentTiles, SharingPatches
from wsi_hr.tiling.review import summarise
from wsi_hr.tiling.tile_pixels import TilePatches
from wsi_hr.tiling.tissue import segment

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scale:
    """How a slide gives the patches of one asked mpp.

    Attributes:
        slide: open slide.
        config: the settings, with this mpp alone.
        plan: the level that is read.
        tiles: its JPEG tiles; None: the slide's reader reads.
        grid: the patches, perhaps none.
        recolour: what is done to their colours; None: they stay as they are.
    """

    slide: Slide
    config: TileConfig
    plan: ReadPlan
    tiles: JpegTiles | None
    grid: PatchGrid
    recolour: PixelMap | None = None

    @property
    def reader(self) -> str:
        """What reads the patches."""
        return self.slide.reader_of(self.plan.level) if self.tiles is None else "jpeg tiles"

    @property
    def mode(self) -> str:
        """How they are stored: ``passthrough``, ``jpeg``, ``raw`` or ``virtual``."""
        if self.config.codec != "auto":
            return self.config.codec
        if self.recolour is not None:
            return "jpeg"
        edge = self.config.patch_size
        copied = self.tiles is not None and coincides(self.grid, self.plan, edge, self.tiles)
        return "passthrough" if copied else "jpeg"

    @property
    def why_blurred(self) -> str:
        """What is to be said of patches that are not the px of a level; empty: they are."""
        if self.tiles is not None or not self.slide.interpolates(self.plan.level):
            return ""
        return (
            f"{self.slide.reader} interpolates between the px of level {self.plan.level}, whose "
            "size is no whole part of the slide's"
        )

    @property
    def decoding(self) -> Decoding | None:
        """How its tiles are decoded; None: they are not, or its patches do not come from tiles."""
        if self.tiles is None or self.mode == "passthrough":
            return None
        # Interpolated, colours at half the resolution would be averaged again by a store that keeps
        # them so too; repeated, they come through as they are: 3 dB nearer to what the slide shows.
        codec, fast = chunk_codec_for(self.config), self.config.resample == "fast"
        halved = isinstance(codec, JpegChunks) and codec.subsampling == "420"
        repeated = fast and halved and self.recolour is None and not self.plan.resampled
        return Decoding(self.plan.level, self.plan.decode_scale, not repeated)

    def encoder(self, recent: RecentTiles | None = None) -> BlockEncoder:
        """The shortest way from the slide to chunks.

        Args:
            recent: tiles that others read or even decoded; None: there are no others.
        """
        tiles, plan, edge = self.tiles, self.plan, self.config.patch_size
        fast = self.config.resample == "fast"
        by_slide = SlidePatches(self.slide, plan, edge, fast=fast)
        codec, decoding = chunk_codec_for(self.config), self.decoding
        # a virtual store only wants to know which patches the slide gives
        recolour = None if self.mode == "virtual" else self.recolour
        if tiles is None:
            return BlockEncoder(by_slide, codec, recolour=recolour)
        if decoding is None:
            return BlockEncoder(by_slide, codec, open_streams=lambda: TileStreams(tiles, plan))

        def open_tiles() -> TilePatches:
            if recent is None:
                smooth = decoding.smooth_chroma
                return TilePatches(tiles, plan, edge, fast=fast, smooth_chroma=smooth)
            return SharingPatches(recent, decoding, tiles, plan, edge, fast=fast)

        return BlockEncoder(by_slide, codec, recolour=recolour, open_tiles=open_tiles)

    def why_empty(self, mask: TissueMask, given: GivenCoords | None, left_out: int) -> str:
        """Why there is no patch, one clause; ``left_out`` are those that artifacts cost."""
        if given is not None:
            return f"{given.path.name} lists no patch"
        px0, bounds = self.plan.patch_px0, self.slide.bounds
        if 0 in self.grid.shape:
            need = (math.ceil(px0.x - 1e-6), math.ceil(px0.y - 1e-6))
            return (
                f"smaller than one patch ({bounds.w} x {bounds.h} px at level 0, a patch "
                f"needs {need[0]} x {need[1]})"
            )
        if not mask.mask.any() and not left_out:
            return "no tissue found"
        if left_out:
            return f"all {left_out} patches with tissue are spoilt by artifacts, see qc.csv"
        return (
            f"no patch has {100 * self.config.min_tissue:g} % tissue (tissue covers "
            f"{100 * mask.mask.mean():.2g} % of the slide)"
        )


@dataclass(frozen=True)
class Survey:
    """What a slide will give.

    Attributes:
        overview: the slide at low power.
        mask: where there is tissue.
        mask_sha256: of the file the mask is from; empty where a segmenter drew it.
        qc: what the mask shows, and what artifacts cost at the main mpp.
        scales: one per asked mpp, the main one first.
        colour: what is done to the colours of all of them.
    """

    overview: Overview
    mask: TissueMask
    mask_sha256: str
    qc: QcSummary
    scales: tuple[Scale, ...]
    colour: Colour


def survey_slide(
    slide: Slide,
    config: TileConfig,
    given: GivenCoords | None = None,
    mask_path: Path | None = None,
) -> Survey:
    """Look a slide over and lay out its patches.

    Args:
        slide: open slide.
        config: what is asked.
        given: the patches to cut, chosen by somebody else; None: those with enough tissue.
        mask_path: the user's mask of this slide; None: the segmenter draws it.

    Raises:
        SlideError: the slide's mpp is unknown, it is coarser than asked, or it cannot be read at
            low power.
        CoordsError: ``given`` does not fit the slide or what is asked.
        MaskError: the user's mask cannot be used.
        ConfigError: the user's segmenter cannot be used.
    """
    plans = [plan_read(slide, config.at(mpp).spec()) for mpp in config.scales]
    overview = read_overview(slide)
    mask, mask_digest = _mask(slide, overview, config, mask_path)
    scales, left_out = [], 0
    for mpp, plan in zip(config.scales, plans, strict=True):
        tiles = checked_tiles(slide, plan.level)
        if given is not None:
            # given corners need not begin on a px of the level, still less of a reduced one
            if tiles is not None and not tiles_give(given, slide, plan):
                tiles = None
            grid = grid_from_coords(given, slide, plan, mask, config.mpp_tolerance)
        else:
            if tiles is not None and config.resample == "fast":
                plan = reduced_by_decoder(plan)
            size = covered_size(slide, plan)
            area = (size, slide.bounds, plan, mask)
            grid = plan_grid(*area, config.min_tissue, config.max_artifact)
            if not scales:
                left_out = num_left_out(*area, grid, config.min_tissue)
        scales.append(Scale(slide, config.at(mpp), plan, tiles, grid))
    colour = Colour()
    if any(len(scale.grid) for scale in scales):
        colour = colour_transform(slide, mask, config)
        scales = [replace(scale, recolour=colour.transform) for scale in scales]
    _tell_of_profile(scales)
    assert slide.mpp is not None, "a slide without mpp cannot be planned"
    qc = summarise(mask, slide.mpp, left_out)
    return Survey(overview, mask, mask_digest, qc, tuple(scales), colour)


def _tell_of_profile(scales: list[Scale]) -> None:
    """Say that patches which are copied do not get the ICC profile that their tiles hold."""
    for scale in scales:
        if scale.mode == "passthrough" and scale.tiles and scale.tiles.embedded_profile():
            logger.warning(
                "%s: its tiles hold an ICC profile, which patches do not get; "
                "--set tile.icc=srgb turns their colours into sRGB by it",
                scale.slide.path,
            )
            return


def _mask(
    slide: Slide, overview: Overview, config: TileConfig, mask_path: Path | None
) -> tuple[TissueMask, str]:
    """The slide's mask, and the SHA-256 of the file it is from, if it is.

    A file is the last word: it is not cleaned, and no artifacts are looked for beyond its own.
    """
    if mask_path is None:
        return segment(overview, config, slide), ""
    try:
        content = mask_path.read_bytes()
    except OSError as cause:
        raise MaskError(f"{mask_path}: cannot be read ({cause.strerror})") from cause
    frame = MaskFrame(
        overview.valid.shape, overview.downsample, slide.level_dimensions[0], slide.bounds
    )
    return read_mask(mask_path, content, frame), mask_sha256(content)
