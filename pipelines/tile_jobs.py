"""Many slides at a time, each in a process of its own, so that no slide can spoil another."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.status import status_row
from wsi_hr.cohort.manifest import SlideRecord
from wsi_hr.config import TileConfig
from wsi_hr.errors import WsiHrError
from wsi_hr.geometry import QcSummary
from wsi_hr.slides.isolate import run_isolated, stop_isolated
from wsi_hr.slides.source import Source
from wsi_hr.store.manifest import is_ours
from wsi_hr.tiling.tile import tile_slide

logger = logging.getLogger(__name__)

# dask opens its HTTP servers even without a dashboard: on loopback then, at ports nobody else has.
_NO_DASHBOARD: dict[str, Any] = {
    "dashboard_address": "127.0.0.1:0",
    "worker_dashboard_address": "127.0.0.1:0",
    "scheduler_kwargs": {"dashboard": False},
}

_cancelled = threading.Event()  # read by the tasks; dask cannot carry it to them as an argument


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
    store_path: Path
    config: TileConfig
    mpp: float | None
    mpp_source: str
    threads: int = 1
    coords: Path | None = None
    mask_path: Path | None = None


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


def run_jobs(jobs: Sequence[TileJob], workers: int) -> Iterator[TileOutcome]:
    """Tile slides on an in-process dask cluster; yields them as they finish.

    The cluster's threads only wait: the work is done by one process per slide. When the caller is
    interrupted, these are killed.
    """
    if not jobs:
        return
    # Imported here: dask takes most of a second, and a run with nothing to do needs none of it.
    from distributed import Client, LocalCluster, as_completed

    _quiet("distributed")
    _cancelled.clear()
    with (
        tempfile.TemporaryDirectory(prefix="wsi-hr-") as scratch,
        LocalCluster(
            n_workers=1,
            threads_per_worker=min(workers, len(jobs)),
            processes=False,
            memory_limit=0,
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
            **_NO_DASHBOARD,
        ) as cluster,
        Client(cluster) as client,
    ):
        futures = client.map(_tile_one, jobs, key="tile", pure=False)
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            _cancelled.set()
            stop_isolated()
            client.cancel(futures)
            raise


def _tile_one(job: TileJob) -> TileOutcome:
    """Tile one slide in a process of its own; whatever happens there becomes a row."""
    if _cancelled.is_set():
        raise CancelledError
    path, begun, result = job.record.path, time.monotonic(), None
    try:
        if job.store_path.exists():
            # a slide that cannot be read just now (a share that is away) takes no store with it
            Source.of(path).edges_sha256()
            _discard(job.store_path)
        result = run_isolated(
            tile_slide,
            path,
            job.record.slide_id,
            job.store_path,
            job.config,
            job.mpp,
            job.mpp_source,
            job.threads,
            job.coords,
            job.mask_path,
            deadline_s=job.config.deadline_s,
            memory_gib=job.config.memory_gib,
        )
        reason = result.reason
    except WsiHrError as error:
        reason = str(error).removeprefix(f"{path}: ")
    except Exception as error:  # one slide must not end the run, whatever it is
        logger.exception("%s: unexpected error", path)
        reason = f"unexpected {type(error).__name__} ({error}); please report it"
    row = status_row(
        job.record.slide_id,
        path,
        result.status if result else "failed",
        reason,
        num_patches=result.num_patches if result else 0,
        mpp=result.mpp if result else None,
        mpp_source=result.mpp_source if result else "",
        seconds=f"{time.monotonic() - begun:.1f}",
    )
    if result is None:
        return TileOutcome(row, "")
    return TileOutcome(row, result.source_sha256, result.mask, result.qc)


def _discard(path: Path) -> None:
    """Remove a store that no longer says what its slide says; by a rename first, so never half."""
    if is_ours(path):
        stale = path.with_name(f"{path.name}.old")  # swept, like a writer's, if we are killed here
        path.rename(stale)
        shutil.rmtree(stale)


def _quiet(library: str) -> None:
    """Keep a library's log from the user; it says nothing that a row does not."""
    for name in (library, *logging.root.manager.loggerDict):
        if name == library or name.startswith(f"{library}."):
            logging.getLogger(name).setLevel(logging.CRITICAL)
