"""Whether a disk has room for the stores that are to come, before they fill it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.cluster import Where
from pipelines.estimate_jobs import run_estimates
from pipelines.tile_jobs import TileJob
from wsi_hr.errors import SlideError, StoreError
from wsi_hr.remote import RemotePath
from wsi_hr.slides.source import Source

logger = logging.getLogger(__name__)

_MOST_PER_BYTE = 100
"""No store of patches that do not overlap is larger than so many times its slide: with this much
room nothing is estimated."""
_SLIDES_TRIED = 8
_SURELY = 2.0  # an estimate from a few slides is not off by more than this factor


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the disk of ``folder``; a quota may allow less."""
    return shutil.disk_usage(folder).free


def require_room(jobs: Sequence[TileJob], workers: int) -> None:
    """Warn when the stores to come will probably not fit the disk, refuse when they surely cannot.

    The need is estimated from a few slides, in proportion to the slides' own sizes, so the run is
    refused only when not even half of it is free. Where there is plenty nothing is estimated. What
    room there is behind a URL is not known, so nothing is said.

    Args:
        jobs: slides that are to be tiled.
        workers: slides tried at a time.

    Raises:
        StoreError: not even half of the estimate is free.
    """
    sizes = [_size(job) for job in jobs]
    if not any(sizes):
        return
    folder, tile = jobs[0].store_path.parent, jobs[0].config
    if isinstance(folder, RemotePath):
        return
    free = free_bytes(folder)
    overlap = max(1.0, tile.patch_size / tile.stride_px) ** 2
    if free > sum(sizes) * _MOST_PER_BYTE * overlap * len(tile.scales):
        return
    chosen = np.unique(np.linspace(0, len(jobs) - 1, _SLIDES_TRIED).round().astype(int))
    found = list(run_estimates([jobs[k] for k in chosen], Where(workers)))
    tried = [(found.job, found.estimate) for found in found if found.estimate is not None]
    tried_bytes = sum(_size(job) for job, _ in tried)
    if not tried_bytes:
        return
    share = sum(sizes) / tried_bytes
    need = round(sum(estimate.store_bytes for _, estimate in tried) * share)
    sentence = (
        f"{folder}: the stores need about {human_bytes(need)} (estimated from {len(tried)} of "
        f"{len(jobs)} slides) and {human_bytes(free)} are free"
    )
    if need > _SURELY * free:
        raise StoreError(
            f"{sentence}; make room or choose another output folder (--dry-run tells what every "
            "slide needs)"
        )
    if need > free:
        logger.warning("%s; slides that find no room will fail", sentence)


def human_bytes(count: float) -> str:
    """``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _size(job: TileJob) -> int:
    try:
        return Source.of(job.record.path).size
    except SlideError:
        return 0  # it will fail, and say so
