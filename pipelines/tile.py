"""Slides -> patch stores: one killable process per slide, one row per slide, free to run again."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from pipelines.cluster import Where
from pipelines.contact_sheet import write_contact_sheets
from pipelines.copies import tell_copies, tell_replaced
from pipelines.disk import require_room
from pipelines.hashed_names import hashed, open_key, refuse_named
from pipelines.lock import run_lock
from pipelines.mask_folder import masks_of
from pipelines.progress import counted, slide_bar
from pipelines.qc_table import write_qc
from pipelines.record import RunRecord
from pipelines.replacement import (
    bring_back,
    drop_outdated,
    outdated_path,
    sweep_attempts,
)
from pipelines.status import STATUS_COLUMNS, STATUS_FILE, StatusTable, printable, status_row
from pipelines.tile_jobs import TileJob, run_jobs
from pipelines.tile_settings import differing, require_same_settings, settled
from pipelines.tile_spans import run_spans
from wsi_hr.cohort.manifest import SlideRecord, find_slides
from wsi_hr.cohort.name_key import NameKey
from wsi_hr.config import TileConfig
from wsi_hr.errors import (
    ConfigError,
    CoordsError,
    FileNameError,
    SlideError,
    StoreError,
    StoreReadError,
    reading,
)
from wsi_hr.exchange.coords_h5 import find_coords
from wsi_hr.file_names import file_in
from wsi_hr.geometry import QcSummary
from wsi_hr.listing import is_there
from wsi_hr.machine import num_usable_cores, usable_memory
from wsi_hr.remote import Place
from wsi_hr.runtime import sha256_file
from wsi_hr.slides.source import Source
from wsi_hr.store.manifest import is_ours
from wsi_hr.store.patch_store import STORE_SUFFIX, PatchStore
from wsi_hr.tiling.review import require_folders
from wsi_hr.tiling.tile import at_scale, unreadable_note
from wsi_hr.tiling.tissue import load_segmenter

__all__ = ["STATUS_COLUMNS", "STATUS_FILE", "tile_stage"]

logger = logging.getLogger(__name__)

PLAN_FILE = "plan.csv"

_SLIDE_BYTES = 512 << 20
"""More than most slides take: with less memory for each, fewer are worked on at a time."""

OVERRIDE_SOURCE = "mpp-override"
MANIFEST_SOURCE = "manifest"


def tile_stage(
    inputs: Sequence[Path],
    store: Place,
    config: TileConfig,
    *,
    mpp_override: float | None = None,
    coords: Path | None = None,
    masks: Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    hash_names: Path | None = None,
    console: Console | None = None,
) -> list[dict[str, str]]:
    """Tile slides into ``store``; a slide that is there already, unchanged, costs nothing.

    Args:
        inputs: folders, slides, manifests.
        store: folder of the stores, ``tile.json`` and ``status.csv``, or the URL of one; a store
            that goes to a URL is written to ``TMPDIR`` first.
        config: what is asked; the same for all slides of a store.
        mpp_override: um per level-0 px of all slides, in place of what they say. A manifest's own
            value for a slide goes before it.
        coords: folder of CLAM or TRIDENT files with the patches to cut, one per slide; None: the
            patches with enough tissue.
        masks: folder of mask files named after slides; a slide without one is segmented.
        workers: slides worked on at a time; None: as many as this process may use cores, fewer
            where memory is short. Cores that are left over work on the slides there are.
        scheduler: address or scheduler file of a dask cluster whose workers do the work; None:
            this machine does.
        hash_names: key file; slides are called by hashes of their names, which this file tells
            back, and nothing in ``store`` names a slide's file or folder. It is made where there
            is none. None: slides are called after their files.
        console: where progress is shown; None: nowhere.

    Returns:
        One row per input slide (:data:`STATUS_COLUMNS`), in the order of the inputs' paths, of
        their ids where these are hashed, with status ``done``, ``no_tissue``, ``skipped`` (part of
        another slide) or ``failed``.

    Raises:
        WsiHrError: nothing can be done at all: no slides, another run in the folder, a folder that
            cannot be written, or one that holds stores of other settings or names; no folder
            ``coords``; a cluster that cannot be used.
        ConnectionError: the cluster was lost on the way; running again goes on from there.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; running again goes on from there.
    """
    run = RunRecord("tile", config)
    where = where_to_work(workers, scheduler)
    records, key = named_slides(inputs, store, config, hash_names)
    require_coords(coords, config)
    load_segmenter(config.segmenter)
    mask_paths = masks_of(records, masks, store)
    with run_lock(store), terminated_like_interrupted():
        require_folders(store)
        require_same_settings(store, config, key)
        sweep_attempts(store)
        table = StatusTable(store, [record.slide_id for record in records])
        jobs = []
        qc_of: dict[str, tuple[str, QcSummary | None]] = {}
        with counted(console, "looking at slides", records) as looked_at:
            for record in looked_at:
                if record.problem is not None:
                    table.note(unusable_row(record))
                    continue
                try:
                    job = tile_job(record, store, config, mpp_override, coords, mask_paths)
                except (CoordsError, FileNameError) as error:
                    table.note(status_row(record, "failed", str(error)))
                    continue
                kept = _finished_store(job)
                if kept is None:
                    jobs.append(job)
                    earlier = table.earlier.get(record.slide_id, {})
                    tell_replaced(job.store_path, record.path, earlier.get("path", ""))
                else:
                    qc_of[record.slide_id] = kept.info.segmenter, kept.info.qc
                    earlier = table.earlier.get(record.slide_id, {})
                    table.note(_kept_row(record, kept, earlier))
        require_room(jobs, where.workers)
        settle_names(store, key)
        with settled(store, config, key):
            try:
                with slide_bar(console, "tiling", len(records), len(records) - len(jobs)) as bar:
                    run_all = run_jobs if where.scheduler is None else run_spans
                    for outcome in run_all(*shared_out(jobs, where), bar.working):
                        table.put(outcome.row)
                        qc_of[outcome.row["slide_id"]] = outcome.mask, outcome.qc
                        bar.finished(outcome.row["slide_id"], int(outcome.row["num_patches"]))
                tell_copies(store, table)
            except ConfigError:
                raise  # a cluster that cannot be used: nothing has been done
            except BaseException:
                _write_tables(store, table, qc_of)
                raise
            write_contact_sheets(store, _write_tables(store, table, qc_of))
            names = "" if key is None else key.fingerprint
            states = {row["slide_id"]: row["status"] for row in table.rows}
            run.write(store, names=names, states=states)
    return table.rows


def _write_tables(
    store: Place, table: StatusTable, qc_of: Mapping[str, tuple[str, QcSummary | None]]
) -> list[dict[str, str]]:
    """Write down how the slides ended, as far as they did; the rows of ``qc.csv``."""
    table.write()
    sweep_attempts(store)
    return write_qc(store, table.rows, qc_of)


def shared_out(jobs: Sequence[TileJob], where: Where) -> tuple[list[TileJob], Where]:
    """The jobs with their threads, and how many of them at a time: together, all cores.

    On a cluster a slide is many tasks instead, of one thread each.
    """
    if where.scheduler is not None:
        return list(jobs), where
    at_a_time = max(1, min(where.workers, len(jobs)))
    threads = max(1, num_usable_cores() // at_a_time)
    return [replace(job, threads=threads) for job in jobs], Where(at_a_time)


def where_to_work(workers: int | None, scheduler: str | None) -> Where:
    """What is asked by ``--workers`` and ``--scheduler``.

    Raises:
        ConfigError: both are given.
    """
    if workers is not None and scheduler is not None:
        raise ConfigError(
            f"--workers {workers}: how many slides a cluster tiles at a time is the number of "
            "threads its workers were started with; leave --workers or --scheduler out"
        )
    most = max(1, usable_memory() // _SLIDE_BYTES)
    return Where(workers or min(num_usable_cores(), most), scheduler)


def named_slides(
    inputs: Sequence[Path], store: Place, config: TileConfig, hash_names: Path | None
) -> tuple[list[SlideRecord], NameKey | None]:
    """The slides of ``inputs``, and the key by which they are named if that is asked.

    Raises:
        SlideError: there are none.
        ConfigError: the key cannot be used, or stores of this kind hold the path of their slide.
    """
    records = require_slides(inputs)
    if hash_names is None:
        return records, None
    if config.codec == "virtual":
        raise ConfigError(
            f"--hash-names {hash_names}: a virtual store holds the path of its slide; choose "
            "another tile.codec, or leave --hash-names out"
        )
    key = open_key(hash_names, [store], new=True)
    return hashed(records, key), key


def settle_names(store: Place, key: NameKey | None) -> None:
    """Write down what the hashed names of this run stand for, before the first of them is used.

    Raises:
        ConfigError: an earlier run named slides after their files in ``store``.
    """
    if key is not None:
        refuse_named(store / STATUS_FILE, store / PLAN_FILE)
        key.save()


def require_slides(inputs: Sequence[Path]) -> list[SlideRecord]:
    """The slides of ``inputs``.

    Raises:
        SlideError: there are none.
    """
    records = find_slides(inputs)
    if not records:
        raise SlideError(
            f"{', '.join(map(printable, inputs))}: no slides found; give slide files, folders of "
            "them, or a manifest CSV"
        )
    return records


def require_coords(coords: Path | None, config: TileConfig) -> None:
    """Make sure that coordinates, if they are given, are there and fit what is asked.

    Raises:
        CoordsError: there is no such folder.
        ConfigError: several scales are asked, and coordinates are of one.
    """
    if coords is not None and config.more_mpp:
        raise ConfigError("--coords: its patches are of one footprint; ask for one --mpp")
    if coords is not None and not coords.is_dir():
        raise CoordsError(f"{coords}: no such folder; give the one with the .h5 files")


def unusable_row(record: SlideRecord) -> dict[str, str]:
    """The row of a slide that has a problem before it is opened."""
    status = "skipped" if record.redundant else "failed"
    problem = (record.problem or "").removeprefix(f"{record.path}: ")
    return status_row(record, status, problem)


def tile_job(
    record: SlideRecord,
    store: Place,
    config: TileConfig,
    mpp_override: float | None,
    coords: Path | None,
    masks: Mapping[str, Path],
) -> TileJob:
    """What is to be done for a slide; the arguments are those of :func:`tile_stage`.

    ``masks`` are the users' masks by slide.

    Raises:
        CoordsError: ``coords`` has no file for the slide, or several.
    """
    path = file_in(store, record.slide_id, STORE_SUFFIX, of="slide id")
    given = None if coords is None else find_coords(coords, *record.known_as)
    mpp, source = mpp_override, OVERRIDE_SOURCE
    if record.mpp is not None:
        mpp, source = record.mpp, MANIFEST_SOURCE
    mask_path = masks.get(record.slide_id)
    return TileJob(record, path, config, mpp, source, coords=given, mask_path=mask_path)


def _finished_store(job: TileJob) -> PatchStore | None:
    """The store of a slide, if it is sound and exactly what this run would write again.

    One that was set aside when the slide changed comes back when the slide is again what it was.
    """
    path, kept = job.store_path, outdated_path(job.store_path)
    found = _current_store(path, job)
    if found is not None:
        drop_outdated(path)
    elif (is_ours(path) or not is_there(path)) and _current_store(kept, job) is not None:
        bring_back(path)
        found = _current_store(path, job)
    return found


def stands_already(job: TileJob) -> bool:
    """Whether a run would find the slide's store there, or in ``outdated/``; moves nothing."""
    path = job.store_path
    return any(_current_store(place, job) is not None for place in (path, outdated_path(path)))


def _current_store(path: Place, job: TileJob) -> PatchStore | None:
    """The store at ``path``, if it is sound and says what the slide of ``job`` says now.

    The slide is compared by size and by its first and last 64 KiB, not read through.

    Raises:
        ReadError: the store, or a file given for its slide, cannot be read just now.
    """
    try:
        found = PatchStore.open(path)
        info = found.info
        source = Source.of(job.record.path)
        same = (
            info.source_size == source.size
            and info.source_edges_sha256 == source.edges_sha256()
            and not differing(info.asked.model_dump(mode="json"), job.config)
            and _mpp_stands(found, job)
            and info.coords_sha256 == _digest_of(job.coords)
            and info.mask_sha256 == _digest_of(job.mask_path)
            and info.source_path in ("", str(job.record.path.absolute()))
            and all(
                (~scale.valid).sum() <= job.config.max_unreadable * len(scale)
                for scale in _scales(found)
            )
        )
    except StoreReadError:
        raise
    except (StoreError, SlideError):
        return None
    return found if same else None


def _digest_of(given: Path | None) -> str:
    """SHA-256 of a file that the user gives for a slide; "": none."""
    if given is None:
        return ""
    with reading(given):
        return sha256_file(given)


def _mpp_stands(found: PatchStore, job: TileJob) -> bool:
    mpp = found.info.mpp
    if job.mpp is not None:
        return (mpp.x, mpp.y, mpp.source) == (job.mpp, job.mpp, job.mpp_source)
    return mpp.source not in (OVERRIDE_SOURCE, MANIFEST_SOURCE)


def _kept_row(record: SlideRecord, found: PatchStore, earlier: Mapping[str, str]) -> dict[str, str]:
    asked, scales = found.info.asked, _scales(found)
    notes = [*found.info.colour_notes, *_empty(asked, scales, earlier), *_lost(asked, scales)]
    return status_row(
        record,
        "done",
        "; ".join(notes),
        num_patches=len(found),
        mpp=found.info.mpp.mean,
        mpp_source=found.info.mpp.source,
        seconds=earlier.get("seconds", ""),
    )


def _empty(
    asked: TileConfig, scales: Sequence[PatchStore], earlier: Mapping[str, str]
) -> list[str]:
    """The asked scales at which a store has no patches, and why if an earlier row tells."""
    there = {scale.info.tile.mpp for scale in scales}
    notes = []
    for mpp in asked.more_mpp:
        if mpp not in there:
            at = at_scale(mpp, asked, "")
            clauses = earlier.get("reason", "").split("; ")
            notes += [clause for clause in clauses if clause.startswith(at)] or [f"{at}no patch"]
    return notes


def _lost(asked: TileConfig, scales: Sequence[PatchStore]) -> list[str]:
    """What the slide did not give, at every scale of its store, worded as when it was tiled."""
    return [
        at_scale(scale.info.tile.mpp, asked, unreadable_note(int((~scale.valid).sum()), len(scale)))
        for scale in scales
        if not scale.valid.all()
    ]


def _scales(found: PatchStore) -> list[PatchStore]:
    """The store at each scale at which it has patches, its main one first."""
    others = [PatchStore.open(found.path, mpp) for mpp in found.info.asked.more_mpp]
    return [found, *(other for other in others if other.info.tile.mpp != found.info.tile.mpp)]


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does; only the main thread may arrange that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
