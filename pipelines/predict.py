"""The predict stage: a run and slides (or their stores) become predictions and pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from pipelines.lock import run_lock
from pipelines.progress import progress_bar
from pipelines.record import RunRecord
from pipelines.tile import STATUS_FILE, tile_stage
from pipelines.train import SPLITS, read_splits
from wsi_hr.bags.bag_set import BagSet, stored_slides
from wsi_hr.cohort.table import read_table
from wsi_hr.errors import ConfigError, WsiHrError
from wsi_hr.prediction.exports.tables import (
    PredictionRow,
    write_patch_scores,
    write_predictions,
)
from wsi_hr.prediction.heatmap import draw_heatmap, save_heatmap
from wsi_hr.slide_prediction import SlidePrediction
from wsi_hr.store.patch_store import STORE_SUFFIX
from wsi_hr.training.metrics import auc_interval, slide_metrics
from wsi_hr.training.run import TrainedRun, load_run, require_same_tiling

PREDICTIONS = "predictions.csv"
HEATMAPS = "heatmaps"
PATCHES = "patches"
_TABLE_EVERY_S = 2.0


@dataclass(frozen=True)
class PredictReport:
    """What prediction ended with.

    Attributes:
        rows: one per input slide.
        predictions: the slides that were predicted, by id.
        metrics: on the run's held-out slides among them; empty where there are none.
    """

    rows: tuple[PredictionRow, ...]
    predictions: dict[str, SlidePrediction]
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Source:
    """Where patches come from, and what is already known of slides that have none."""

    bags: BagSet
    slide_ids: tuple[str, ...]
    failed: tuple[PredictionRow, ...]


def predict_stage(
    run_dir: Path,
    inputs: Sequence[Path],
    out: Path,
    *,
    split: str | None = None,
    device: str = "auto",
    mpp_override: float | None = None,
    workers: int | None = None,
    heatmap_px: int | None = None,
    console: Console | None = None,
) -> PredictReport:
    """Predict slides with the best epoch of a run.

    ``out`` receives predictions.csv, heatmaps/<slide_id>.png, patches/<slide_id>.csv and run.json;
    slides given as files are tiled on the way into ``out``/store, with the run's own settings.

    Args:
        run_dir: what ``wsi-hr train`` wrote.
        inputs: one store folder, or slide files, folders and manifests.
        out: output folder.
        split: only the slides of this part of the run's splits (train, val or test).
        device: where the model runs.
        mpp_override: for slides without an mpp, as for ``wsi-hr tile``.
        workers: processes that tile.
        heatmap_px: longest edge of a picture; the run's setting by default.
        console: told what happens; None for silence.

    Raises:
        WsiHrError: the run cannot be loaded, or the request does not fit it.
    """
    run = load_run(run_dir, device=device)
    torch.set_num_threads(run.config.train.threads or len(os.sched_getaffinity(0)))
    out.mkdir(parents=True, exist_ok=True)
    record = RunRecord("predict", run.config)
    with run_lock(out):
        source = _find_patches(run, inputs, out, mpp_override, workers, console)
        wanted = _wanted(source, run_dir, split)
        report = _predict(run, source, wanted, out, heatmap_px, console)
        metrics = _held_out_metrics(run, run_dir, report.predictions)
        record.write(
            out,
            model_sha256=run.digest,
            epoch=run.epoch,
            classes=list(run.classes),
            states={row.slide_id: row.status for row in report.rows},
            metrics=metrics,
        )
    return PredictReport(report.rows, report.predictions, metrics)


def _find_patches(
    run: TrainedRun,
    inputs: Sequence[Path],
    out: Path,
    mpp_override: float | None,
    workers: int | None,
    console: Console | None,
) -> _Source:
    stores = [path for path in inputs if _is_store(path)]
    if stores and len(inputs) > 1:
        raise ConfigError(
            f"{stores[0]}: is a store; give either one store, or slides, not several inputs"
        )
    if stores and stores[0].suffix == STORE_SUFFIX:
        path = stores[0]
        return _Source(BagSet(path.parent), (path.name.removesuffix(STORE_SUFFIX),), ())
    if stores:
        folder = stores[0]
        table = folder / STATUS_FILE
        rows = list(read_table(table).rows) if table.is_file() else []
        ids = tuple(stored_slides(folder))
    else:
        folder = out / "store"
        rows = tile_stage(
            inputs,
            folder,
            run.config.tile,
            mpp_override=mpp_override,
            workers=workers,
            console=console,
        )
        ids = tuple(row["slide_id"] for row in rows if row["status"] == "done")
    failed = tuple(
        PredictionRow(row["slide_id"], row["status"], row["reason"])
        for row in rows
        if row["slide_id"] not in ids
    )
    return _Source(BagSet(folder), ids, failed)


def _is_store(path: Path) -> bool:
    """Whether ``path`` is a store folder, or a single slide's store in one."""
    if not path.is_dir():
        return False
    if path.suffix == STORE_SUFFIX or (path / STATUS_FILE).is_file():
        return True
    return any(child.suffix == STORE_SUFFIX for child in path.iterdir())


def _wanted(source: _Source, run_dir: Path, split: str | None) -> _Source:
    if split is None:
        return source
    chosen = {row["slide_id"] for row in read_splits(run_dir) if row["split"] == split}
    ids = tuple(slide_id for slide_id in source.slide_ids if slide_id in chosen)
    failed = tuple(row for row in source.failed if row.slide_id in chosen)
    if not ids and not failed:
        raise ConfigError(
            f"--split {split}: none of the given slides is in that part of {run_dir / SPLITS}"
        )
    return _Source(source.bags, ids, failed)


def _predict(
    run: TrainedRun,
    everything: _Source,
    source: _Source,
    out: Path,
    heatmap_px: int | None,
    console: Console | None,
) -> PredictReport:
    for folder in (HEATMAPS, PATCHES):
        (out / folder).mkdir(exist_ok=True)
    rows = list(source.failed)
    predictions: dict[str, SlidePrediction] = {}
    max_px = heatmap_px or run.config.predict.heatmap_px
    written = time.monotonic()
    with progress_bar(console, "predicting", len(source.slide_ids)) as advance:
        for slide_id in source.slide_ids:
            try:
                predictions[slide_id] = predict_slide(run, everything.bags, slide_id, out, max_px)
                rows.append(_done(run, predictions[slide_id]))
            except WsiHrError as error:
                rows.append(PredictionRow(slide_id, "failed", str(error)))
            advance(1, slide_id)
            if time.monotonic() - written > _TABLE_EVERY_S:
                write_predictions(out / PREDICTIONS, rows, run.classes)
                written = time.monotonic()
    rows.sort(key=lambda row: row.slide_id)
    write_predictions(out / PREDICTIONS, rows, run.classes)
    return PredictReport(tuple(rows), predictions, {})


def predict_slide(
    run: TrainedRun, bags: BagSet, slide_id: str, out: Path, max_px: int
) -> SlidePrediction:
    """Predict one stored slide and write its patch scores and picture.

    Raises:
        WsiHrError: the slide's store is damaged or was cut for another model.
    """
    store = bags.store(slide_id)
    require_same_tiling(run.config.tile, store.info.tile, bags.folder / slide_id)
    prediction = run.method.predict_bag(bags.open(slide_id))
    write_patch_scores(out / PATCHES / f"{slide_id}.csv", prediction)
    best = int(prediction.probs.argmax())
    picture = draw_heatmap(
        prediction,
        store.thumbnail,
        store.info.level0_size,
        title=run.classes[best],
        max_px=max_px,
    )
    save_heatmap(picture, out / HEATMAPS / f"{slide_id}.png")
    return prediction


def _done(run: TrainedRun, prediction: SlidePrediction) -> PredictionRow:
    return PredictionRow(
        prediction.slide_id,
        "done",
        "",
        probs=tuple(float(p) for p in prediction.probs),
        predicted=run.classes[int(prediction.probs.argmax())],
        num_patches=len(prediction.grid),
    )


def _held_out_metrics(
    run: TrainedRun, run_dir: Path, predictions: dict[str, SlidePrediction]
) -> dict[str, float]:
    """Metrics on those slides that the run kept out of training and whose label it knows."""
    if not (run_dir / SPLITS).is_file():
        return {}
    label_of = {
        row["slide_id"]: run.classes.index(row["label"])
        for row in read_splits(run_dir)
        if row["split"] == "test" and row["slide_id"] in predictions
    }
    if not label_of:
        return {}
    probs = np.stack([predictions[slide_id].probs for slide_id in label_of])
    labels = np.array(list(label_of.values()))
    metrics = slide_metrics(probs, labels) | {"slides": len(labels)}
    if len(run.classes) == 2 and "auc" in metrics:
        interval = auc_interval(metrics["auc"], int((labels == 1).sum()), int((labels == 0).sum()))
        metrics |= {"auc_low": interval.low, "auc_high": interval.high}
    return metrics
