"""What predict is given: a store, one slide's store, or slides that are tiled on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from pipelines.hashed_names import names_key_of
from pipelines.nameless import without_folders
from pipelines.tile import STATUS_FILE, tile_stage
from pipelines.tile_settings import TILE_FILE
from wsi_hr.bags.bag_set import BagSet, stored_slides
from wsi_hr.cohort.name_key import NameKey
from wsi_hr.cohort.table import read_table
from wsi_hr.config import TileConfig
from wsi_hr.errors import ConfigError, FileNameError, LabelError, StoreError
from wsi_hr.file_names import name_problem, require_own
from wsi_hr.listing import is_there
from wsi_hr.prediction.exports.tables import PredictionRow
from wsi_hr.remote import Place, RemotePath
from wsi_hr.store.patch_store import STORE_SUFFIX
from wsi_hr.training.run import TrainedRun, require_same_tiling


@dataclass(frozen=True)
class PatchesFrom:
    """Where patches come from.

    Attributes:
        bags: opens the slides.
        slide_ids: slides that have a store, sound or not.
        others: rows of the slides that have none.
        names: fingerprint of the key that hashed the slides' names; empty where none did.
    """

    bags: BagSet
    slide_ids: tuple[str, ...]
    others: tuple[PredictionRow, ...] = ()
    names: str = ""

    def told(self, row: PredictionRow) -> PredictionRow:
        """A row that, where names are hashed, does not say in which folder the stores are."""
        if not self.names:
            return row
        return replace(row, reason=without_folders(row.reason, self.bags.folder))


def find_patches(
    run: TrainedRun,
    run_dir: Path,
    inputs: Sequence[Place],
    out: Path,
    mpp_override: float | None,
    workers: int | None,
    hash_names: Path | None,
    segmenter: str | None,
    console: Console | None,
) -> PatchesFrom:
    """Sort out what the inputs are; slides are tiled into ``out``/store as the run's were.

    Arguments are those of :func:`pipelines.predict.predict_stage`.

    Raises:
        WsiHrError: the inputs cannot be used at all.
    """
    stores = [path for path in inputs if _is_store(path)]
    if stores and len(inputs) > 1:
        raise ConfigError(
            f"{stores[0]}: is a store; give either one store, or slides, not several inputs"
        )
    if stores and mpp_override is not None:
        raise ConfigError(
            f"--mpp-override {mpp_override:g}: {stores[0]} is tiled already, so it would have no "
            "effect; give it to wsi-hr tile, or give wsi-hr predict the slides"
        )
    if stores and hash_names is not None:
        raise ConfigError(
            f"--hash-names {hash_names}: {stores[0]} is tiled already, so it would have no "
            "effect; give it to wsi-hr tile, or give wsi-hr predict the slides"
        )
    if stores and segmenter is not None:
        raise ConfigError(
            f"--set tile.segmenter={segmenter}: {stores[0]} is tiled already, so it would have no "
            "effect; leave it out"
        )
    if stores and stores[0].suffix == STORE_SUFFIX:
        path = stores[0]
        bags = BagSet(path.parent, mpp=run.config.tile.mpp)
        ids = (path.name.removesuffix(STORE_SUFFIX),)
        return PatchesFrom(bags, ids, names=names_key_of(path.parent / TILE_FILE))
    if stores:
        return _whole_store(stores[0], run.config.tile.mpp)
    slides = [path for path in inputs if isinstance(path, Path)]
    elsewhere = [path for path in inputs if isinstance(path, RemotePath)]
    if elsewhere:
        raise ConfigError(
            f"{elsewhere[0]}: no store is there, and slides are read from files only; check the "
            "URL, or mount or copy the slides"
        )
    _require_segmenter(run.config.tile, run_dir, segmenter)
    folder = require_own(out, "store")
    rows = tile_stage(
        slides,
        folder,
        run.config.tile,
        mpp_override=mpp_override,
        workers=workers,
        hash_names=hash_names,
        console=console,
    )
    done = tuple(row["slide_id"] for row in rows if row["status"] == "done")
    others = (row for row in rows if row["status"] != "done")
    return PatchesFrom(
        BagSet(folder),
        done,
        tuple(PredictionRow(row["slide_id"], row["status"], row["reason"]) for row in others),
        "" if hash_names is None else NameKey.open(hash_names).fingerprint,
    )


def _require_segmenter(tile: TileConfig, run_dir: Path, named: str | None) -> None:
    """See that the user has named what is imported to draw masks.

    Raises:
        ConfigError: the run's segmenter is not of wsi-hr and was not named, or another one was.
    """
    if named is None and tile.needs_import:
        raise ConfigError(
            f"{run_dir}: its slides were tiled with {tile.segmenter}, which is no segmenter of "
            "wsi-hr, and what is imported here is not for a file to say; if you know it, name it: "
            f"--set tile.segmenter={tile.segmenter}"
        )
    if named not in (None, tile.segmenter):
        raise ConfigError(
            f"--set tile.segmenter={named}: the run's slides were tiled with {tile.segmenter}; "
            "name that one, or tile the slides yourself and give the store"
        )


def _whole_store(folder: Place, mpp: float) -> PatchesFrom:
    """All slides of a store, those of its status table that have no patches included."""
    ids = tuple(stored_slides(folder))
    table = folder / STATUS_FILE
    status = _rows_of(table) if is_there(table) else {}
    problems = {slide_id: name_problem(slide_id, STORE_SUFFIX) for slide_id in status}
    if problems and all(problems.values()):
        slide_id, problem = next(iter(problems.items()))
        raise LabelError(
            f"{table}: slide id {slide_id!r} {problem}, and so do all others; this is no table of "
            "wsi-hr tile, do not use this store"
        )
    others = []
    for slide_id in status.keys() - set(ids):
        row = status[slide_id]
        if problems[slide_id]:
            reason = f"{table}: slide id {problems[slide_id]}, so no slide is looked for"
            others.append(PredictionRow(slide_id, "failed", reason))
        elif row["status"] == "done":
            reason = f"its store is gone from {folder}; run wsi-hr tile again"
            others.append(PredictionRow(slide_id, "failed", reason))
        else:
            others.append(PredictionRow(slide_id, row["status"], row["reason"]))
    names = names_key_of(folder / TILE_FILE)
    return PatchesFrom(BagSet(folder, mpp=mpp), ids, tuple(others), names)


def _rows_of(path: Place) -> dict[str, dict[str, str]]:
    """The rows of a status table, by slide.

    Raises:
        LabelError: it is none, or has two of a slide.
        ReadError: it cannot be read.
    """
    table = read_table(path)
    again = "run the same wsi-hr tile again, which writes it anew"
    absent = [name for name in ("slide_id", "status", "reason") if name not in table.columns]
    if absent:
        raise LabelError(
            f"{path}: has no column {' and no column '.join(absent)}, so it is no status table of "
            f"wsi-hr tile; {again}"
        )
    rows = {row["slide_id"]: row for row in table.rows}
    if len(rows) < len(table.rows):
        counts = Counter(row["slide_id"] for row in table.rows)
        twice = next(slide_id for slide_id, count in counts.items() if count > 1)
        raise LabelError(f"{path}: has {counts[twice]} rows of slide {twice!r}; {again}")
    return rows


def _is_store(path: Place) -> bool:
    """Whether ``path`` is a store folder, or a single slide's store in one."""
    if not path.is_dir():
        return False
    if path.suffix == STORE_SUFFIX or is_there(path / STATUS_FILE):
        return True
    return any(child.suffix == STORE_SUFFIX for child in path.iterdir())


def require_fit(run: TrainedRun, source: PatchesFrom) -> None:
    """Refuse a whole store that was cut for another model, by its first sound slide.

    Raises:
        CheckpointError: it was; with both values.
    """
    for slide_id in source.slide_ids:
        try:
            tile = source.bags.store(slide_id).info.tile
        except (StoreError, FileNameError):
            continue  # its row will say so
        require_same_tiling(run.config.tile, tile, source.bags.folder)
        return
