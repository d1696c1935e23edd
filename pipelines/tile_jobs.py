"""Many slides at a time, each in a process of its own, so that no slide can spoil another."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pipelines.cluster import Shared, Where
from pipelines.lock import LOCK_FILE
from pipelines.replacement import attempt, drop_outdated, publish, set_aside
from pipelines.status import status_row
from pipelines.tasks import OnProgress, TaskContext, run_tasks
from wsi_hr.cohort.manifest import SlideRecord
from wsi_hr.config import TileConfig
from wsi_hr.errors import WsiHrError
from wsi_hr.geometry import QcSummary
from wsi_hr.listing import is_there
from wsi_hr.remote import Place
from wsi_hr.slides.isolate import run_isolated
from wsi_hr.slides.source import Source
from wsi_hr.tiling.review import publish_review
from wsi_hr.tiling.tile import TileResult, tile_slide

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class TileJob:
    """What is needed to tile one slide.

    Attributes:
        record: the slide.
        store_path: where its store goes.
        config: what is asked.
        mpp: um per level-0 px, in place of what the slide says; None: the slide's word.
        mpp_source: whose word ``mpp`` is.
        threads: cores to work on it with.
        coords: file with the patches to cut; None: those with enough tissue.
        mask_path: the user's mask of it; None: it has none.
    """

    record: SlideRecord
    store_path: Place
    config: TileConfig
    mpp: float | None
    mpp_source: str
    threads: int = 1
    coords: Path | None = None
    mask_path: Path | None = None

    @property
    def source_name(self) -> str | None:
        """What the store calls the slide's file, where that must not be its name."""
        record = self.record
        return f"{record.slide_id}{record.path.suffix}" if record.name else None


@dataclass(frozen=True)
class TileOutcome:
    """How one slide ended.

    Attributes:
        row: its row of the status table.
        source_sha256: of the slide's bytes; empty where it did not come that far.
        mask: what drew its mask; empty where it did not come that far.
        qc: what the mask shows; None where it did not come that far.
    """

    row: dict[str, str]
    source_sha256: str
    mask: str = ""
    qc: QcSummary | None = None


def run_jobs(
    jobs: Sequence[TileJob], where: Where, on_progress: OnProgress
) -> Iterator[TileOutcome]:
    """Tile slides on this machine; yields them as they finish.

    Dask's threads only wait: the work is done by one process per slide. When the caller is
    interrupted, these are killed.
    """
    if not jobs:
        return
    shared = shared_by(jobs)
    ready, failed = with_room(jobs)
    yield from failed
    yield from run_tasks(_tile_one, ready, where, shared, lost=_lost, on_progress=on_progress)


def shared_by(jobs: Sequence[TileJob]) -> Shared:
    """What the workers of a cluster must see to do ``jobs``, of which there is one at least."""
    return Shared(jobs[0].store_path.parent / LOCK_FILE, jobs[0].record.path)


def with_room(jobs: Sequence[TileJob]) -> tuple[list[TileJob], list[TileOutcome]]:
    """Set aside what stands where stores are to go; jobs that have room now, and how others failed.

    Before the work is given out, not by whoever does it: a worker given up for dead may come back
    when another has done its work, and would take the new store away.
    """
    ready, failed = [], []
    for job in jobs:
        _, reason = tried(job, partial(_give_room, job))
        if reason:
            failed.append(_lost(job, reason))
        else:
            ready.append(job)
    return ready, failed


def _give_room(job: TileJob) -> None:
    """Set aside a store that does not say what the slide says now.

    Raises:
        SlideError: the slide cannot be read just now (a share is away): it takes no store with it.
        StoreError: something else than a store is there, or it cannot be moved.
    """
    if is_there(job.store_path):
        Source.of(job.record.path).edges_sha256()
    set_aside(job.store_path)


def _lost(job: TileJob, reason: str) -> TileOutcome:
    return outcome_of(job, None, reason, 0)


def _tile_one(job: TileJob, context: TaskContext) -> TileOutcome:
    """Tile one slide in a process of its own; whatever happens there becomes a row."""
    if context.cancelled():
        raise CancelledError
    begun = time.monotonic()
    result, reason = tried(job, lambda: _tile_apart(job, context))
    return outcome_of(job, result, reason, time.monotonic() - begun)


def tried(job: TileJob, work: Callable[[], T]) -> tuple[T | None, str]:
    """What some work on a slide gave, or the reason why it failed, whatever that is.

    Raises:
        CancelledError: nobody waits for the slide any more.
    """
    path = job.record.path
    try:
        return work(), ""
    except CancelledError:
        raise
    except WsiHrError as error:
        return None, str(error).removeprefix(f"{path}: ")
    except Exception as error:  # one slide must not end the run, whatever it is
        logger.exception("%s: unexpected error", path)
        return None, f"unexpected {type(error).__name__} ({error}); please report it"


def outcome_of(job: TileJob, result: TileResult | None, reason: str, seconds: float) -> TileOutcome:
    """How a slide ended.

    Args:
        job: the slide.
        result: what became of it; None: it failed.
        reason: why.
        seconds: it took.
    """
    row = status_row(
        job.record,
        result.status if result else "failed",
        result.reason if result else reason,
        num_patches=result.num_patches if result else 0,
        mpp=result.mpp if result else None,
        mpp_source=result.mpp_source if result else "",
        seconds=f"{seconds:.1f}",
    )
    if result is None:
        return TileOutcome(row, "")
    return TileOutcome(row, result.source_sha256, result.mask, result.qc)


def settle(job: TileJob, result: TileResult, written: Path) -> None:
    """Put what an attempt came to in its place.

    Raises:
        StoreError: the disk does not take it.
    """
    publish_review(written.parent, job.store_path.parent, job.record.slide_id)
    if result.status == "done":
        publish(written, job.store_path)
    drop_outdated(job.store_path)


def _tile_apart(job: TileJob, context: TaskContext) -> TileResult:
    """Tile a slide, and put what came out in its place.

    Raises:
        WsiHrError: the slide or the disk failed.
        CancelledError: nobody waits for the slide any more.
    """
    with attempt(job.store_path) as written:
        result = run_isolated(
            tile_slide,
            job.record.path,
            job.record.slide_id,
            written,
            job.config,
            job.mpp,
            job.mpp_source,
            job.threads,
            job.coords,
            job.mask_path,
            job.source_name,
            deadline_s=job.config.deadline_s,
            memory_gib=job.config.memory_gib,
            on_progress=lambda done, total: context.report(job.record.slide_id, done, total),
            cancelled=context.cancelled,
        )
        if context.cancelled():
            raise CancelledError
        settle(job, result, written)
    return result
