"""Patch stores -> what one epoch of training would see of them: a table and a picture a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from pipelines.contact_sheet import Entry, write_sheets
from pipelines.hashed_names import names_key_of
from pipelines.lock import run_lock
from pipelines.nameless import without_folders
from pipelines.progress import progress_bar
from pipelines.record import RunRecord
from pipelines.scales import cut_at, require_scale, too_little_tissue
from pipelines.tile_settings import TILE_FILE
from wsi_hr.bags.bag import Bag
from wsi_hr.bags.bag_set import BagSet, stored_slides
from wsi_hr.cohort.table import write_table
from wsi_hr.config import Config
from wsi_hr.errors import ConfigError, FileNameError, StoreError
from wsi_hr.file_names import file_in, own_folder
from wsi_hr.geometry import BoolArray
from wsi_hr.methods import build_method
from wsi_hr.methods.method import NoMemory
from wsi_hr.models.encoder import build_encoder
from wsi_hr.models.published_nets import resolve_encoder
from wsi_hr.remote import Place
from wsi_hr.runtime import atomic_path
from wsi_hr.samplers.picture import KEPT_COLOUR, draw_sample
from wsi_hr.training.run import pick_device
from wsi_hr.training.sampling import Sampling

SAMPLE_FILE = "sample.csv"
SAMPLE_COLUMNS = ("slide_id", "status", "reason", "num_patches", "num_kept")
KEPT_COLUMNS: tuple[str, ...] = ("x0", "y0", "row", "col", "kept")
PATCHES, PICTURES = "patches", "pictures"
PICTURE_PX = 1000


def sample_stage(
    store: Place,
    out: Path,
    config: Config,
    *,
    epoch: int = 0,
    mpp: float | None = None,
    console: Console | None = None,
) -> list[dict[str, str]]:
    """Draw what an epoch sees of every slide of a store folder; what was there is overwritten.

    Args:
        store: what ``wsi-hr tile`` wrote.
        out: gets ``patches/``, ``pictures/``, ``sample.csv``, contact sheets and ``run.json``.
        config: seed, sampler, and the method, which needs some patches at least.
        epoch: counted from 0.
        mpp: which scale of the store; None: its first.
        console: where progress is shown; None: nowhere.

    Returns:
        One row per store (:data:`SAMPLE_COLUMNS`) by slide id, with status ``done``, ``skipped``
        (no patch of the slide is of that scale) or ``failed``.

    Raises:
        WsiHrError: nothing can be done at all: no stores, or none of that scale, settings that do
            not fit, another run in the output folder.
        WriteError: the disk does not take it.
    """
    slide_ids = stored_slides(store)
    if not slide_ids:
        raise StoreError(f"{store}: holds no patch store; give the folder that wsi-hr tile wrote")
    if out.resolve() == store.resolve():
        raise ConfigError(f"-o {out}: is the store; choose a folder of its own")
    asking = [sampler.name for sampler in config.sampler if sampler.reads_attention]
    if asking and epoch > 0:
        raise ConfigError(
            f"sampler: what {asking[0]} draws in epoch {epoch} depends on what training leaves of "
            "the epoch before, so it cannot be told here; take --epoch 0, which draws at random, "
            "or attention with sampler.source=thumbnail"
        )
    record = RunRecord("sample", config)
    bags = BagSet(store, mpp=mpp)
    require_scale(bags, slide_ids, mpp)
    names = names_key_of(store / TILE_FILE)
    rows: list[dict[str, str]] = []
    with run_lock(out, PATCHES, PICTURES):
        sampling = Sampling(config.sampler, config.seed, pick_device(config.train.device), out)
        at_least = min_patches(config)
        for folder in (PATCHES, PICTURES):
            own_folder(out, folder)
        try:
            with progress_bar(console, "sampling", len(slide_ids)) as advance:
                for slide_id in slide_ids:
                    row = _sample_one(bags, slide_id, mpp, sampling, epoch, at_least, out)
                    if names:
                        row["reason"] = without_folders(row["reason"], store, out)
                    rows.append(row)
                    advance(1, slide_id)
        finally:
            sampling.forget()
            write_table(out / SAMPLE_FILE, SAMPLE_COLUMNS, rows)
        legend = {"kept": KEPT_COLOUR, "dropped: pale": (225, 225, 225)}
        write_sheets(out, [_entry(out, row) for row in rows], legend)
        states = {row["slide_id"]: row["status"] for row in rows}
        record.write(out, names=names, epoch=epoch, states=states)
    return rows


def min_patches(config: Config) -> int:
    """How many patches the method needs; the classes and the encoder's weights do not matter.

    Raises:
        WsiHrError: encoder or method cannot be built.
    """
    named = resolve_encoder(config.settled().encoder, weights=False).config
    encoder = build_encoder(named, config.tile.patch_size, load_weights=False)
    return build_method(config.method, encoder, [1.0, 1.0]).min_patches


def _sample_one(
    bags: BagSet,
    slide_id: str,
    mpp: float | None,
    sampling: Sampling,
    epoch: int,
    at_least: int,
    out: Path,
) -> dict[str, str]:
    row = {"slide_id": slide_id, "status": "failed", "reason": "", "num_patches": "0",
           "num_kept": "0"}  # fmt: skip
    try:
        if not cut_at(bags.store(slide_id), mpp):
            return {**row, "status": "skipped", "reason": too_little_tissue(mpp)}
        bag = bags.open(slide_id)
        chosen = sampling.choose(bag, epoch, at_least, NoMemory())
        kept_N = np.isin(bag.indices, chosen.indices)
        picture = draw_sample(
            bag.grid, kept_N, bag.source.thumbnail, bag.source.level0_size, max_px=PICTURE_PX
        )
    except (StoreError, FileNameError) as error:
        return {**row, "reason": str(error)}
    _write_patches(file_in(out / PATCHES, slide_id, ".csv", of="slide id"), bag, kept_N)
    with atomic_path(file_in(out / PICTURES, slide_id, ".png", of="slide id")) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    return {**row, "status": "done", "num_patches": str(len(bag)), "num_kept": str(len(chosen))}


def _write_patches(path: Path, bag: Bag, kept_N: BoolArray) -> None:
    places = np.column_stack([bag.grid.coords, bag.grid.cells, kept_N.astype(np.int64)])
    rows = (dict(zip(KEPT_COLUMNS, map(str, place), strict=True)) for place in places.tolist())
    write_table(path, KEPT_COLUMNS, rows)


def _entry(out: Path, row: dict[str, str]) -> Entry:
    if row["status"] != "done":
        return Entry(None, (row["slide_id"], row["status"]), bad=True)
    told = f"{row['num_kept']} of {row['num_patches']} patches"
    picture = file_in(out / PICTURES, row["slide_id"], ".png", of="slide id")
    return Entry(picture, (row["slide_id"], told))
