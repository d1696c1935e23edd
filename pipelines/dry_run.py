"""What tiling would take: patches, bytes and hours of every slide, and whether the disk has room.

Every slide is opened, its mask drawn and its grid planned; a few places of it are tiled in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipelines.cluster import num_slots
from pipelines.disk import free_bytes, human_bytes
from pipelines.estimate_jobs import EstimateOutcome, run_estimates
from pipelines.lock import run_lock
from pipelines.mask_folder import masks_of
from pipelines.progress import duration, slide_bar
from pipelines.sentences import say
from pipelines.status import status_row
from pipelines.tile import (
    PLAN_FILE,
    named_slides,
    require_coords,
    settle_names,
    shared_out,
    stands_already,
    terminated_like_interrupted,
    tile_job,
    unusable_row,
    where_to_work,
)
from pipelines.tile_settings import require_same_settings
from wsi_hr.cohort.table import write_table
from wsi_hr.config import TileConfig
from wsi_hr.errors import CoordsError
from wsi_hr.tiling.tissue import load_segmenter

PLAN_COLUMNS = (
    "slide_id",
    "path",
    "status",
    "reason",
    "num_patches",
    "mpp",
    "mpp_source",
    "bytes",
    "seconds",
)


@dataclass(frozen=True)
class DryRun:
    """What tiling would take.

    Attributes:
        rows: one per slide (:data:`PLAN_COLUMNS`), with status ``planned``, ``done`` (its store is
            there), ``no_tissue``, ``skipped`` or ``failed``.
        num_patches: of the planned slides.
        store_bytes: of their stores, estimated.
        hours: all of it takes with so many slides at a time.
        slots: slides tiled at a time.
        free_bytes: room on the disk.
    """

    rows: tuple[dict[str, str], ...]
    num_patches: int
    store_bytes: int
    hours: float
    slots: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the disk has room for it."""
        return self.store_bytes <= self.free_bytes


def dry_run(
    inputs: Sequence[Path],
    store: Path,
    config: TileConfig,
    *,
    mpp_override: float | None = None,
    coords: Path | None = None,
    masks: Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    hash_names: Path | None = None,
    console: Console | None = None,
) -> DryRun:
    """Tell what :func:`pipelines.tile.tile_stage` with the same arguments would take.

    Writes ``plan.csv`` into ``store``, and no store.

    Raises:
        WsiHrError: as the stage would.
        ConnectionError: the cluster was lost on the way.
    """
    where = where_to_work(workers, scheduler)
    records, key = named_slides(inputs, store, config, hash_names)
    require_coords(coords, config)
    load_segmenter(config.segmenter)
    mask_paths = masks_of(records, masks, store)
    with run_lock(store), terminated_like_interrupted():
        require_same_settings(store, config, key)
        settle_names(store, key)
        rows: dict[str, dict[str, str]] = {}
        jobs = []
        for record in records:
            if record.problem is not None:
                rows[record.slide_id] = _plan_row(unusable_row(record))
                continue
            try:
                job = tile_job(record, store, config, mpp_override, coords, mask_paths)
            except CoordsError as error:
                row = status_row(record, "failed", str(error))
                rows[record.slide_id] = _plan_row(row)
                continue
            if stands_already(job):
                rows[record.slide_id] = _plan_row(
                    status_row(record, "done", "its store is there already")
                )
            else:
                jobs.append(job)
        found: list[EstimateOutcome] = []
        jobs, where = shared_out(jobs, where)
        slots = num_slots(where) if jobs else where.workers
        with slide_bar(console, "planning", len(records), len(records) - len(jobs)) as bar:
            for outcome in run_estimates(jobs, where):
                found.append(outcome)
                rows[outcome.job.record.slide_id] = _row(outcome)
                patches = 0 if outcome.estimate is None else outcome.estimate.num_patches
                bar.finished(outcome.job.record.slide_id, patches)
        ordered = tuple(rows[record.slide_id] for record in records)
        write_table(store / PLAN_FILE, PLAN_COLUMNS, ordered)
        # a cluster cuts a slide by as many workers as it has; this machine by its share of cores
        at_most = slots if scheduler else min(slots, max(len(jobs), 1))
        return _summary(ordered, found, at_most, free_bytes(store), cut_up=scheduler is not None)


def _summary(
    rows: tuple[dict[str, str], ...],
    found: Sequence[EstimateOutcome],
    slots: int,
    free: int,
    cut_up: bool,
) -> DryRun:
    estimates = [each.estimate for each in found if each.estimate is not None]
    seconds = [estimate.seconds for estimate in estimates]
    return DryRun(
        rows=rows,
        num_patches=sum(estimate.num_patches for estimate in estimates),
        store_bytes=sum(estimate.store_bytes for estimate in estimates),
        hours=max(sum(seconds) / slots, 0.0 if cut_up else max(seconds, default=0.0)) / 3600,
        slots=slots,
        free_bytes=free,
    )


def _row(outcome: EstimateOutcome) -> dict[str, str]:
    record, found = outcome.job.record, outcome.estimate
    if found is None:
        return _plan_row(status_row(record, "failed", outcome.reason))
    status = "planned" if found.num_patches else "no_tissue"
    row = status_row(
        record,
        status,
        "" if found.num_patches else "no patch would have enough tissue",
        num_patches=found.num_patches,
        mpp=found.mpp,
        mpp_source=found.mpp_source,
        seconds=f"{found.seconds:.1f}",
    )
    return _plan_row(row, found.store_bytes)


def _plan_row(row: dict[str, str], num_bytes: int = 0) -> dict[str, str]:
    known = {**row, "bytes": str(num_bytes)}
    return {column: known[column] for column in PLAN_COLUMNS}


def print_dry_run(plan: DryRun, store: Path, console: Console) -> None:
    """Say what every slide and all of them would take."""
    for row in plan.rows:
        if row["status"] == "planned":
            what = (
                f"{row['num_patches']} patches, {human_bytes(int(row['bytes']))}, "
                f"{duration(float(row['seconds']))}"
            )
        else:
            what = row["reason"]
        say(console, f"{row['status']}: {row['slide_id']}: {what}")
    room = "has room" if plan.fits else "has no room"
    say(
        console,
        f"{plan.num_patches} patches, about {human_bytes(plan.store_bytes)} and "
        f"{duration(plan.hours * 3600)} with {plan.slots} slides at a time; the disk of {store} "
        f"{room} ({human_bytes(plan.free_bytes)} free); see {store / PLAN_FILE}",
    )
