"""Estimates of many slides at a time, each made in a process of its own like its store would be."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass

from pipelines.cluster import Where
from pipelines.tasks import TaskContext, run_tasks
from pipelines.tile_jobs import TileJob, shared_by
from wsi_hr.errors import WsiHrError
from wsi_hr.slides.isolate import run_isolated
from wsi_hr.tiling.estimate import SlideEstimate, estimate_slide

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EstimateOutcome:
    """What one slide will take.

    Attributes:
        job: the slide.
        estimate: None where the slide cannot be tiled.
        reason: why it cannot; else empty.
    """

    job: TileJob
    estimate: SlideEstimate | None
    reason: str


def run_estimates(jobs: Sequence[TileJob], where: Where) -> Iterator[EstimateOutcome]:
    """Estimate slides, on this machine or a cluster; yields them as they finish.

    Raises:
        ConfigError: the cluster cannot be used.
        ConnectionError: the cluster was lost on the way.
    """
    if not jobs:
        return
    yield from run_tasks(
        _estimate_one, jobs, where, shared_by(jobs), lost=_lost, on_progress=lambda *report: None
    )


def _lost(job: TileJob, reason: str) -> EstimateOutcome:
    return EstimateOutcome(job, None, reason)


def _estimate_one(job: TileJob, context: TaskContext) -> EstimateOutcome:
    path = job.record.path
    try:
        found = run_isolated(
            estimate_slide,
            path,
            job.record.slide_id,
            job.config,
            job.mpp,
            job.mpp_source,
            job.threads,
            job.coords,
            job.mask_path,
            deadline_s=job.config.deadline_s,
            memory_gib=job.config.memory_gib,
            cancelled=context.cancelled,
        )
    except CancelledError:
        raise
    except WsiHrError as error:
        return EstimateOutcome(job, None, str(error).removeprefix(f"{path}: "))
    except Exception as error:  # one slide must not end the run, whatever it is
        logger.exception("%s: unexpected error", path)
        reason = f"unexpected {type(error).__name__} ({error}); please report it"
        return EstimateOutcome(job, None, reason)
    return EstimateOutcome(job, found, "")
