"""One slide into one patch store."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from wsi_hr import __version__
from wsi_hr.config import TileConfig
from wsi_hr.errors import SlideError
from wsi_hr.exchange.coords_h5 import GivenCoords, read_coords
from wsi_hr.geometry import QcSummary, UInt8Array
from wsi_hr.slides.open import open_slide
from wsi_hr.slides.reporting import report_progress
from wsi_hr.slides.slide import Slide
from wsi_hr.slides.source import Source
from wsi_hr.store.patch_store import PatchStoreWriter, StoreInfo
from wsi_hr.tiling.blocks import Chunk
from wsi_hr.tiling.overview import Overview
from wsi_hr.tiling.passes import Passes
from wsi_hr.tiling.review import draw_review, write_review
from wsi_hr.tiling.survey import Scale, Survey, survey_slide

logger = logging.getLogger(__name__)

THUMBNAIL_PX = 1600
"""Longest edge of the thumbnail in a store: what a heatmap is drawn on by default."""


@dataclass(frozen=True)
class TileResult:
    """What became of one slide.

    Attributes:
        slide_id: the slide.
        status: ``done`` (a store was written) or ``no_tissue`` (there is none).
        reason: why there is none; else how many patches were unreadable and which colour treatment
            was not possible, if any.
        num_patches: patches in the store at its main mpp, unreadable ones included.
        mpp: um per level-0 px, mean of both axes.
        mpp_source: whose word the mpp is.
        source_sha256: SHA-256 of the slide's bytes.
        mask: what drew the mask: a segmenter, or ``mask_file``.
        qc: what the mask shows.
    """

    slide_id: str
    status: str
    reason: str
    num_patches: int
    mpp: float
    mpp_source: str
    source_sha256: str
    mask: str
    qc: QcSummary


def tile_slide(
    path: Path,
    slide_id: str,
    store_path: Path,
    config: TileConfig,
    mpp_override: float | None,
    mpp_source: str,
    threads: int = 1,
    coords: Path | None = None,
    mask_path: Path | None = None,
    source_name: str | None = None,
) -> TileResult:
    """Cut the tissue of one slide into a patch store.

    Beside the store, ``qc/`` and ``masks/`` get what a person judges the mask by
    (:func:`~wsi_hr.tiling.review.write_review`), also where there is no tissue.

    Args:
        path: the slide.
        slide_id: its name in tables and stores.
        store_path: where the store appears, whole or not at all.
        config: what is asked.
        mpp_override: um per level-0 px that replaces what the file says; None: the file's.
        mpp_source: whose word ``mpp_override`` is.
        threads: blocks of patches worked on at a time; the store does not depend on it.
        coords: a CLAM or TRIDENT file with the patches to cut; None: those with enough tissue.
        mask_path: the user's mask of this slide; None: the segmenter draws it.
        source_name: what the store calls the slide's file; None: its name.

    Returns:
        ``done`` or ``no_tissue``; anything else is an error.

    Raises:
        SlideError: the slide cannot be opened, has no plausible mpp, is coarser than asked, has
            too many unreadable patches, or changed while it was read.
        CoordsError: ``coords`` cannot be read, or does not fit the slide or what is asked.
        MaskError: the user's mask cannot be used.
        ConfigError: the user's segmenter cannot be used.
        StoreError: the store cannot be written.
    """
    with looked_over(
        path, slide_id, config, mpp_override, mpp_source, coords, mask_path, source_name
    ) as (origin, survey):
        if len(survey.scales[0].grid):
            return result_of(origin, survey, write_store(store_path, origin, survey, threads))
        return without_patches(store_path.parent, origin, survey)


@contextmanager
def looked_over(
    path: Path,
    slide_id: str,
    config: TileConfig,
    mpp_override: float | None,
    mpp_source: str,
    coords: Path | None,
    mask_path: Path | None,
    source_name: str | None,
) -> Iterator[tuple[Origin, Survey]]:
    """A slide that is open, its patches laid out; arguments and errors are :func:`tile_slide`'s."""
    given = None if coords is None else read_coords(coords)
    source = Source.of(path)
    digest = source.sha256()
    with open_slide(
        path, slide_id=slide_id, mpp_override=mpp_override, mpp_source=mpp_source
    ) as slide:
        survey = survey_slide(slide, config, given, mask_path)
        name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
        yield Origin(source, digest, config, given, source_name or name), survey


def result_of(origin: Origin, survey: Survey, notes: Sequence[str]) -> TileResult:
    """What became of a slide.

    Args:
        origin: what it is.
        survey: what it gives.
        notes: what did not go as it should, a clause each; why there is no patch, if there is none.
    """
    main = survey.scales[0]
    mpp = main.slide.mpp
    assert mpp is not None, "a slide without mpp cannot be planned"
    return TileResult(
        slide_id=main.slide.slide_id,
        status="done" if len(main.grid) else "no_tissue",
        reason="; ".join(notes),
        num_patches=len(main.grid),
        mpp=mpp.mean,
        mpp_source=mpp.source,
        source_sha256=origin.sha256,
        mask=survey.mask.method,
        qc=survey.qc,
    )


def without_patches(folder: Path, origin: Origin, survey: Survey) -> TileResult:
    """Show in a folder of stores why a slide has no patches.

    Raises:
        SlideError: the slide changed while it was read.
        StoreError: the disk does not take it.
    """
    main = survey.scales[0]
    origin.source.check_unchanged()
    slide = main.slide
    review = draw_review(slide.slide_id, survey.overview, survey.mask, slide.bounds)
    write_review(folder, slide.slide_id, review)
    why = main.why_empty(survey.mask, origin.given, survey.qc.left_out)
    return result_of(origin, survey, [why])


@dataclass(frozen=True)
class Origin:
    """What a store is made from.

    Attributes:
        source: the slide's files.
        sha256: of their bytes.
        config: what is asked.
        given: the patches to cut, where somebody else chose them.
        name: what the store calls the slide's file.
    """

    source: Source
    sha256: str
    config: TileConfig
    given: GivenCoords | None
    name: str


def write_store(store_path: Path, origin: Origin, survey: Survey, threads: int) -> list[str]:
    """Write the patches of a slide that was looked over, at all its scales.

    Args:
        store_path: where the store appears, whole or not at all; what is for people to look at
            appears in folders beside it.
        origin: what it is made from.
        survey: with patches at the main mpp.
        threads: blocks of patches worked on at a time.

    Returns:
        What did not go as it should, a clause each.

    Raises:
        SlideError: too many patches are unreadable, or the slide changed while it was read.
        StoreError: the store cannot be written.
    """
    main, config = survey.scales[0], origin.config
    slide, info = main.slide, info_of(origin, survey, main)
    notes = notes_before(origin, survey, info)
    num_read, num_patches = 0, sum(len(scale.grid) for scale in survey.scales)
    cut = [scale for scale in survey.scales if len(scale.grid)]
    # from here on other threads are at work
    with Passes(cut, threads, store_path.parent) as passes, ThreadPoolExecutor(1) as aside:
        # drawn on another core, if there is one: nothing waits for it before the store is whole
        review = aside.submit(
            draw_review, slide.slide_id, survey.overview, survey.mask, slide.bounds
        )
        thumbnail = thumbnail_of(slide, survey.overview)
        with PatchStoreWriter(store_path, info, main.grid, survey.mask, thumbnail) as writer:
            for scale in cut:
                if scale is not main:
                    writer.next_scale(info_of(origin, survey, scale), scale.grid)
                progress = _Progress(num_read, num_patches)
                unreadable = _write_patches(scale, passes.chunks(scale), writer, progress)
                num_read += len(scale.grid)
                if unreadable:
                    lost = unreadable_note(unreadable, len(scale.grid))
                    notes.append(at_scale(scale.config.mpp, config, lost))
            origin.source.check_unchanged()
            write_review(store_path.parent, slide.slide_id, review.result())
            writer.commit()
    return notes


def notes_before(origin: Origin, survey: Survey, info: StoreInfo) -> list[str]:
    """What a row says of a slide with patches before one is cut, a clause each.

    ``info`` is that of the main scale.
    """
    config = origin.config
    return [
        *info.colour_notes,
        *(
            at_scale(scale.config.mpp, config, scale.why_blurred)
            for scale in survey.scales
            if len(scale.grid) and scale.why_blurred
        ),
        *(
            at_scale(scale.config.mpp, config, scale.why_empty(survey.mask, origin.given, 0))
            for scale in survey.scales
            if not len(scale.grid)
        ),
    ]


def info_of(origin: Origin, survey: Survey, scale: Scale) -> StoreInfo:
    """What the store says of itself at one scale."""
    source, given = origin.source, origin.given
    slide = scale.slide
    assert slide.mpp is not None, "a slide without mpp cannot be planned"
    return StoreInfo(
        slide_id=slide.slide_id,
        source_name=origin.name,
        source_size=source.size,
        source_sha256=origin.sha256,
        source_edges_sha256=source.edges_sha256(),
        mpp=slide.mpp,
        level0_size=slide.level_dimensions[0],
        bounds=slide.bounds,
        vendor=slide.vendor,
        reader=scale.reader,
        mode=scale.mode,
        plan=scale.plan,
        tile=scale.config,
        asked=origin.config,
        segmenter=survey.mask.method,
        mask_downsample=survey.mask.downsample,
        wsi_hr_version=__version__,
        coords_sha256="" if given is None else given.sha256,
        colour=survey.colour.record,
        mask_sha256=survey.mask_sha256,
        qc=survey.qc,
        source_path=str(slide.path.absolute()) if scale.mode == "virtual" else "",
    )


def at_scale(mpp: float, config: TileConfig, note: str) -> str:
    """A note that names its scale, where there are several."""
    return note if len(config.scales) == 1 else f"at {mpp:g} um/px {note}"


def require_readable(path: Path, config: TileConfig, unreadable: int, read: int, of: int) -> None:
    """Make sure that a slide does not have too many unreadable patches.

    Args:
        path: the slide.
        config: says how many are too many.
        unreadable: how many are, of those read until now.
        read: how many these are.
        of: patches in all.

    Raises:
        SlideError: there are too many.
    """
    if unreadable > config.max_unreadable * of:
        raise SlideError(
            f"{path}: {unreadable} of the first {read} patches (of {of}) cannot be "
            f"read, more than max_unreadable = {config.max_unreadable:g} allows; the file is "
            "damaged, copy it again from its source or raise tile.max_unreadable"
        )


def unreadable_note(unreadable: int, of: int) -> str:
    """What a row says of the patches that a slide did not give."""
    return f"{unreadable} of {of} patches unreadable"


class _Progress(NamedTuple):
    """How many of the patches of all scales are written already."""

    before: int
    total: int


def _write_patches(
    scale: Scale,
    encoded: Iterator[list[Chunk]],
    writer: PatchStoreWriter,
    progress: _Progress,
) -> int:
    """Write the patches of one scale as they come; the number of unreadable ones."""
    grid, config, path = scale.grid, scale.config, scale.slide.path
    num_read = unreadable = 0
    for chunks in encoded:
        num_read += len(chunks)
        unreadable += chunks.count(None)
        require_readable(path, config, unreadable, num_read, len(grid))
        writer.write(chunks)
        report_progress(progress.before + num_read, progress.total)
    if unreadable:
        logger.warning("%s: %d of %d patches unreadable", path, unreadable, len(grid))
    return unreadable


def thumbnail_of(slide: Slide, overview: Overview) -> UInt8Array:
    """The slide's thumbnail; where damage prevents it, the overview with its damage left white."""
    try:
        return slide.thumbnail(THUMBNAIL_PX)
    except SlideError as cause:
        logger.warning("%s: thumbnail from the tissue overview (%s)", slide.path, cause)
        picture = Image.fromarray(overview.rgb)
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
        return np.asarray(picture)
