"""Patch stores -> files that other programs read: one export and one row per slide."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from rich.console import Console

from pipelines.hashed_names import names_key_of
from pipelines.lock import run_lock
from pipelines.nameless import without_folders
from pipelines.progress import progress_bar
from pipelines.record import RECORD, RunRecord
from pipelines.scales import cut_at, require_scale, too_little_tissue
from pipelines.status import printable
from pipelines.tile_settings import TILE_FILE
from wsi_hr.bags.bag_set import BagSet, stored_slides
from wsi_hr.cohort.table import write_table
from wsi_hr.errors import ConfigError, FileNameError, StoreError
from wsi_hr.exchange.coords_h5 import PATCHES_FOLDER
from wsi_hr.exchange.export import FORMATS, export_store
from wsi_hr.remote import Place
from wsi_hr.store.patch_store import STORE_SUFFIX

EXPORT_FILE = "export.csv"
EXPORT_COLUMNS = ("slide_id", "output", "status", "reason", "num_patches")


class ExportSettings(BaseModel):
    """What is asked of an export, for its run record."""

    format: str
    mpp: float | None


def export_stage(
    store: Place,
    out: Path,
    form: str,
    *,
    mpp: float | None = None,
    console: Console | None = None,
) -> list[dict[str, str]]:
    """Export every slide of a store folder; what is there already, from the same store, is kept.

    Args:
        store: folder of stores, or one slide's ``.zarr``.
        out: output folder; it gets ``export.csv`` and ``run.json`` too.
        form: one of :data:`wsi_hr.exchange.export.FORMATS`.
        mpp: which scale of the stores; None: their first.
        console: where progress is shown; None: nowhere.

    Returns:
        One row per store (:data:`EXPORT_COLUMNS`) by slide id, with status ``done``, ``skipped``
        (no patch of the slide is of that scale) or ``failed``.

    Raises:
        WsiHrError: nothing can be done at all: an unknown form, no stores, or none of that scale,
            another run in the output folder, or one that is itself what is read.
        WriteError: the disk does not take it; what was finished is kept by the next run.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: choose one of {', '.join(FORMATS)}")
    if store.suffix == STORE_SUFFIX:
        slide_ids, folder = [store.name.removesuffix(STORE_SUFFIX)], store.parent
    else:
        slide_ids, folder = stored_slides(store), store
    bags = BagSet(folder, mpp=mpp)
    if not slide_ids or not bags.folder.is_dir():
        raise StoreError(f"{store}: no patch store there; give the folder that wsi-hr tile wrote")
    if out.resolve() in (store.resolve(), bags.folder.resolve()):
        raise ConfigError(f"{out}: is what is read here; choose a folder of its own")
    require_scale(bags, slide_ids, mpp)
    record = RunRecord("export", ExportSettings(format=form, mpp=mpp))
    names = names_key_of(bags.folder / TILE_FILE)
    rows: list[dict[str, str]] = []
    with run_lock(out, PATCHES_FOLDER, f"*/{PATCHES_FOLDER}"):
        try:
            with progress_bar(console, "exporting", len(slide_ids)) as advance:
                for slide_id in slide_ids:
                    row = _export_one(bags, slide_id, out, form, mpp)
                    if names:
                        row["reason"] = without_folders(row["reason"], bags.folder, out)
                    rows.append(row)
                    advance(1, slide_id)
        finally:
            write_table(out / EXPORT_FILE, EXPORT_COLUMNS, rows)
        record.write(out, names=names, states={row["slide_id"]: row["status"] for row in rows})
    return rows


def _export_one(
    bags: BagSet, slide_id: str, out: Path, form: str, mpp: float | None
) -> dict[str, str]:
    row = {"slide_id": slide_id, "output": "", "status": "failed", "reason": "", "num_patches": "0"}
    if slide_id.casefold() in (EXPORT_FILE, RECORD):
        return {**row, "reason": f"{slide_id} is what a file of ours is called; rename the slide"}
    try:
        store = bags.store(slide_id)
        if not cut_at(store, mpp):
            return {**row, "status": "skipped", "reason": too_little_tissue(mpp)}
        exported = export_store(store, out, form)
    except (StoreError, FileNameError) as error:
        return {**row, "reason": str(error)}
    lost = len(store) - exported.num_patches
    return {
        **row,
        "output": printable(exported.path.relative_to(out)),
        "status": "done",
        "reason": f"{lost} of {len(store)} patches unreadable, left out" if lost else "",
        "num_patches": str(exported.num_patches),
    }
