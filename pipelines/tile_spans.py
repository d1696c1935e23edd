"""Slides tiled by a cluster, a few shards a task, so that all workers are busy to the end.

A worker looks a slide over and lays its store out, any workers fill it span by span, and this
process finishes it: it holds the lock, and what dies with it is swept by the next run.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.cluster import Where
from pipelines.replacement import (
    attempt,
    discard_unfinished,
    drop_outdated,
    finish_store,
    move_out,
)
from pipelines.tasks import OnProgress, TaskContext, running
from pipelines.tile_jobs import (
    TileJob,
    TileOutcome,
    outcome_of,
    settle,
    shared_by,
    tried,
    with_room,
)
from wsi_hr.errors import WsiHrError
from wsi_hr.slides.isolate import run_isolated
from wsi_hr.store.manifest import FileEntry
from wsi_hr.tiling.review import publish_review
from wsi_hr.tiling.spans import (
    PARTS,
    SPAN_SHARDS,
    Begun,
    Cut,
    Part,
    Span,
    Unfinished,
    begin_slide,
    cut_span,
    join_parts,
)
from wsi_hr.tiling.tile import TileResult, at_scale, require_readable, unreadable_note

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpanJob:
    """A span to cut.

    Attributes:
        job: the slide.
        store: laid out.
        span: what is to be cut.
    """

    job: TileJob
    store: Unfinished
    span: Span


@dataclass(frozen=True)
class JoinJob:
    """Shards whose parts are to be joined.

    Attributes:
        job: the slide.
        store: all its spans are cut.
        parts: all of these shards.
    """

    job: TileJob
    store: Unfinished
    parts: tuple[Part, ...]


Job = TileJob | SpanJob | JoinJob


@dataclass(frozen=True)
class Step:
    """What came of one job.

    Attributes:
        job: the slide.
        came: of a look at the slide, of a span, or of parts; None: it failed.
        reason: why; else empty.
        seconds: it took.
        begins: whether it is the first of its slide.
    """

    job: TileJob
    came: Begun | Cut | Mapping[str, FileEntry] | None
    reason: str
    seconds: float = 0.0
    begins: bool = False


@dataclass
class _Slide:
    """What has been done of a slide whose store is being filled."""

    job: TileJob
    begun: Begun
    store: Unfinished
    since: float
    to_come: int
    files: dict[str, FileEntry] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    num_read: Counter[float] = field(default_factory=Counter)
    unreadable: dict[float, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def num_patches(self) -> int:
        return sum(self.store.num_patches.values())


def run_spans(
    jobs: Sequence[TileJob], where: Where, on_progress: OnProgress
) -> Iterator[TileOutcome]:
    """Tile slides on a cluster; yields them as they finish.

    Raises:
        ConfigError: the cluster cannot be used.
        ConnectionError: the cluster was lost on the way.
    """
    if not jobs:
        return
    slides = _Slides(on_progress)
    with running(
        _do, where, shared_by(jobs), at_a_time=len(jobs), lost=_lost, on_progress=on_progress
    ) as tasks:
        ready, failed = with_room(jobs)
        yield from failed
        tasks.add(ready)
        for step in tasks.results():
            more, outcome = slides.take(step)
            # what was begun comes first: few slides are half done at any time
            tasks.add(more, priority=1)
            if outcome is not None:
                yield outcome


class _Slides:
    """The slides whose stores are being filled.

    Args:
        on_progress: slide, patches done and patches in all.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._open: dict[str, _Slide] = {}

    def take(self, step: Step) -> tuple[Sequence[Job], TileOutcome | None]:
        """What there is to do after a step, and how its slide ended if it has."""
        slide_id, came = step.job.record.slide_id, step.came
        if isinstance(came, Begun):
            if came.store is None:
                return [], outcome_of(step.job, came.result, "", step.seconds)
            since = time.monotonic() - step.seconds
            self._open[slide_id] = _Slide(step.job, came, came.store, since, len(came.spans))
            return [SpanJob(step.job, came.store, span) for span in came.spans], None
        slide = self._open.get(slide_id)
        if slide is None:  # it was not begun, or has failed while this was on its way
            failed = outcome_of(step.job, None, step.reason, step.seconds)
            return [], failed if step.begins else None
        _, reason = tried(step.job, lambda: _add(slide, step))
        if not reason:
            self._on_progress(slide_id, slide.num_read.total(), slide.num_patches)
            if slide.to_come:
                return [], None
            if slide.parts:
                joins = _joins(slide)
                slide.parts, slide.to_come = [], len(joins)
                return joins, None
        result = None
        if not reason:
            result, reason = tried(step.job, lambda: _finished(slide))
        if result is None:
            discard_unfinished(slide.store.folder)
            reason = reason.replace(str(slide.store.folder), str(step.job.store_path))
        del self._open[slide_id]
        return [], outcome_of(step.job, result, reason, time.monotonic() - slide.since)


def _add(slide: _Slide, step: Step) -> None:
    """Note what a span or a join gave.

    Raises:
        WsiHrError: it failed, or the slide has too many unreadable patches.
    """
    slide.to_come -= 1
    if step.came is None:
        raise WsiHrError(step.reason)
    if not isinstance(step.came, Cut):
        assert not isinstance(step.came, Begun), "that came before"
        slide.files.update(step.came)
        return
    slide.files.update(step.came.files)
    slide.parts += step.came.parts
    slide.num_read.update(step.came.num_read)
    job = slide.job
    for mpp, patches in step.came.unreadable.items():
        slide.unreadable[mpp] += patches
        num, num_read = len(slide.unreadable[mpp]), slide.num_read[mpp]
        of = slide.store.num_patches[mpp]
        require_readable(job.record.path, job.config, num, num_read, of)


def _joins(slide: _Slide) -> list[JoinJob]:
    """The shards that lie in several spans, a few of them a task."""
    of_shard: dict[tuple[float, int], list[Part]] = defaultdict(list)
    for part in slide.parts:
        of_shard[part.mpp, part.shard].append(part)
    shards = [of_shard[key] for key in sorted(of_shard)]
    return [
        JoinJob(slide.job, slide.store, tuple(part for parts in some for part in parts))
        for some in (
            shards[first : first + SPAN_SHARDS] for first in range(0, len(shards), SPAN_SHARDS)
        )
    ]


def _finished(slide: _Slide) -> TileResult:
    """Put the store of a slide in its place.

    Raises:
        StoreError: the disk does not take it.
    """
    job, store, result = slide.job, slide.store, slide.begun.result
    assert slide.num_read == Counter(store.num_patches), "every patch is in one span"
    valid = {}
    notes = [result.reason] if result.reason else []
    for mpp, num_patches in store.num_patches.items():
        valid[mpp] = np.ones(num_patches, np.bool_)
        lost = slide.unreadable[mpp]
        valid[mpp][lost] = False
        if lost:
            logger.warning("%s: %s", job.record.path, unreadable_note(len(lost), num_patches))
            notes.append(at_scale(mpp, job.config, unreadable_note(len(lost), num_patches)))
    publish_review(store.folder / PARTS, job.store_path.parent, job.record.slide_id)
    finish_store(store.folder, {**store.files, **slide.files}, valid, job.store_path)
    drop_outdated(job.store_path)
    return replace(result, reason="; ".join(notes))


def _lost(job: Job, reason: str) -> Step:
    tile_job = job if isinstance(job, TileJob) else job.job
    return Step(tile_job, None, reason, begins=isinstance(job, TileJob))


def _do(job: Job, context: TaskContext) -> Step:
    """Do one task on a worker."""
    if context.cancelled():
        raise CancelledError
    since = time.monotonic()
    if isinstance(job, TileJob):
        came, reason = tried(job, lambda: _begin(job, context))
        return Step(job, came, reason, time.monotonic() - since, begins=True)
    if isinstance(job, SpanJob):
        came, reason = tried(job.job, lambda: _cut(job, context))
    else:
        came, reason = tried(job.job, lambda: join_parts(job.store, job.parts))
    return Step(job.job, came, reason, time.monotonic() - since)


def _begin(job: TileJob, context: TaskContext) -> Begun:
    """Tile a small slide, lay a larger one out.

    Raises:
        WsiHrError: the slide or the disk failed.
        CancelledError: nobody waits for the slide any more.
    """
    with attempt(job.store_path) as written:
        begun = run_isolated(
            begin_slide,
            job.record.path,
            job.record.slide_id,
            written,
            job.config,
            job.mpp,
            job.mpp_source,
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
        if begun.store is None:
            settle(job, begun.result, written)
            return begun
        folder = move_out(written, job.store_path)
        return replace(begun, store=replace(begun.store, folder=folder))


def _cut(job: SpanJob, context: TaskContext) -> Cut:
    """Cut a span in a process of its own.

    Raises:
        WsiHrError: the slide or the disk failed.
        CancelledError: nobody waits for the slide any more.
    """
    slide = job.job
    return run_isolated(
        cut_span,
        slide.record.path,
        slide.record.slide_id,
        slide.mpp,
        slide.mpp_source,
        job.store,
        job.span,
        deadline_s=slide.config.deadline_s,
        memory_gib=slide.config.memory_gib,
        cancelled=context.cancelled,
    )
