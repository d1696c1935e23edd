"""The predict stage: a run and slides (or their stores) become predictions and pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from pipelines.finished import finished_row, result_key, seal
from pipelines.hashed_names import refuse_named
from pipelines.lock import run_lock
from pipelines.predict_inputs import PatchesFrom, find_patches, require_fit
from pipelines.progress import progress_bar
from pipelines.record import RunRecord
from pipelines.run_folder import SIDES, SPLITS, read_splits
from pipelines.run_slides import RunSlides, find_run_slides
from pipelines.sentences import say
from pipelines.unfinished import why_unfinished
from wsi_hr.bags.bag_set import BagSet
from wsi_hr.cohort.same_text import same_text
from wsi_hr.errors import (
    ConfigError,
    LabelError,
    ReadError,
    StoreReadError,
    TrainingError,
    WriteError,
    WsiHrError,
)
from wsi_hr.file_names import file_in, name_problem, own_folder, require_own
from wsi_hr.listing import is_there
from wsi_hr.machine import num_usable_cores
from wsi_hr.prediction.class_map import draw_class_map
from wsi_hr.prediction.exports.tables import (
    PredictionRow,
    write_patch_scores,
    write_predictions,
)
from wsi_hr.prediction.heatmap import draw_heatmap
from wsi_hr.prediction.legend import save_picture
from wsi_hr.remote import Place
from wsi_hr.slide_prediction import SlidePrediction
from wsi_hr.training.metrics import slide_metrics
from wsi_hr.training.run import TrainedRun, load_run, require_same_tiling

logger = logging.getLogger(__name__)

PREDICTIONS = "predictions.csv"
HEATMAPS = "heatmaps"
CLASS_MAPS = "class_maps"
PATCHES = "patches"
_TABLE_EVERY_S = 2.0


@dataclass(frozen=True)
class PredictReport:
    """What prediction ended with.

    Attributes:
        rows: one per input slide, by slide.
        metrics: on the run's held-out slides among them; empty where there are none.
    """

    rows: tuple[PredictionRow, ...]
    metrics: dict[str, float]


def predict_stage(
    run_dir: Path,
    inputs: Sequence[Place],
    out: Path,
    *,
    split: str | None = None,
    device: str = "auto",
    mpp_override: float | None = None,
    workers: int | None = None,
    hash_names: Path | None = None,
    heatmap_px: int | None = None,
    segmenter: str | None = None,
    console: Console | None = None,
    on_prediction: Callable[[SlidePrediction], object] | None = None,
) -> PredictReport:
    """Predict slides with the best epoch of a run.

    ``out`` receives predictions.csv, heatmaps/<slide_id>.png, patches/<slide_id>.csv and run.json,
    and, where the run learned classes of patches, class_maps/<slide_id>.png;
    slides given as files are tiled on the way into ``out``/store, with the run's own settings.
    Of an earlier call, slides whose result would be the same are kept. Memory holds the patch
    scores of one slide at a time. While the run has not ended, slides of its test side are left
    out, and said to be.

    Args:
        run_dir: what ``wsi-hr train`` wrote.
        inputs: one store folder, or slide files, folders and manifests.
        out: output folder.
        split: only the slides of this part of the run's splits (train, val or test).
        device: where the model runs.
        mpp_override: for slides without an mpp, as for ``wsi-hr tile``.
        workers: processes that tile.
        hash_names: key file, as for ``wsi-hr tile``; slides are called by hashes of their names.
        heatmap_px: longest edge of a picture; the run's setting by default.
        segmenter: the run's, named again, where it is a function of the user's and slides are
            tiled: what is imported is not taken from the run's files.
        console: told what happens; None for silence.
        on_prediction: given each slide's prediction as it is made; all are made anew then.

    Raises:
        WsiHrError: the run cannot be loaded, or the request does not fit it.
    """
    if split is not None and split not in SIDES:
        raise ConfigError(f"--split {split}: the splits of a run are {', '.join(SIDES)}")
    if out.resolve() in {path.resolve() for path in (run_dir, *inputs)}:
        raise ConfigError(f"-o {out}: is what is read here; choose a folder of its own")
    run = load_run(run_dir, device=device)
    if split is not None or is_there(run_dir / SPLITS):
        read_splits(run_dir)  # a damaged table is told before anything is written
    torch.set_num_threads(run.config.train.threads or num_usable_cores())
    record = RunRecord("predict", run.config)
    unfinished = why_unfinished(run_dir, run)
    if unfinished is not None:
        if split == "test":
            raise ConfigError(
                f"--split test: {run_dir} {unfinished}, and its test side stays closed until then; "
                "give the same wsi-hr train again, which goes on"
            )
        say(
            console,
            f"warning: {run_dir} {unfinished}: this is the best epoch so far, and its test side "
            "stays closed",
        )
    with run_lock(out, HEATMAPS, CLASS_MAPS, PATCHES):
        source = find_patches(
            run, run_dir, inputs, out, mpp_override, workers, hash_names, segmenter, console
        )
        if source.names:
            refuse_named(out / PREDICTIONS)
        slides = None
        if split is not None or is_there(run_dir / SPLITS):
            slides = find_run_slides(run_dir, source, console)
            if split is not None:
                source = slides.part_of(source, split, console)
            if unfinished is not None:
                source = slides.without_test_side(source)
        require_fit(run, source)
        rows = _predict(run, source, out, heatmap_px, console, on_prediction)
        metrics = _held_out_metrics(run, slides, rows) if slides else {}
        record.write(
            out,
            names=source.names,
            model_sha256=run.digest,
            epoch=run.epoch,
            classes=list(run.classes),
            device=str(run.method.encoder.device),
            threads=torch.get_num_threads(),
            chunk=run.method.encoder.chunk,
            jpeg_decoder=run.method.encoder.jpeg_decoder,
            states={row.slide_id: row.status for row in rows},
            run_ended=unfinished is None,
            metrics=metrics,
        )
    return PredictReport(tuple(rows), metrics)


def _predict(
    run: TrainedRun,
    source: PatchesFrom,
    out: Path,
    heatmap_px: int | None,
    console: Console | None,
    on_prediction: Callable[[SlidePrediction], object] | None,
) -> list[PredictionRow]:
    own_folder(out, HEATMAPS)
    own_folder(out, PATCHES)
    (own_folder if run.config.dense.classes else require_own)(out, CLASS_MAPS)
    rows = [source.told(row) for row in source.others]
    for row in rows:
        _discard(out, row.slide_id)
    max_px = heatmap_px or run.config.predict.heatmap_px
    written = time.monotonic()
    with progress_bar(console, "predicting", len(source.slide_ids)) as advance:
        for slide_id in source.slide_ids:
            row = _row_of(run, source.bags, slide_id, out, max_px, on_prediction)
            rows.append(source.told(row))
            advance(1, slide_id)
            if time.monotonic() - written > _TABLE_EVERY_S:
                write_predictions(out / PREDICTIONS, rows, run.classes)
                written = time.monotonic()
    rows.sort(key=lambda row: row.slide_id)
    write_predictions(out / PREDICTIONS, rows, run.classes)
    return rows


def _row_of(
    run: TrainedRun,
    bags: BagSet,
    slide_id: str,
    out: Path,
    max_px: int,
    on_prediction: Callable[[SlidePrediction], object] | None,
) -> PredictionRow:
    """How one slide ends; whatever goes wrong with it does not end the others."""
    try:
        return _predict_slide(run, bags, slide_id, out, max_px, on_prediction)
    except StoreReadError as error:  # what was predicted of it earlier may still be true
        return PredictionRow(slide_id, "failed", str(error))
    except (WriteError, ReadError, OSError):
        raise  # the output's disk, not the slide: stores report their own as StoreError
    except WsiHrError as error:
        reason = str(error)
    except Exception as error:  # one slide must not end the run, whatever it is
        logger.exception("%s: unexpected error", slide_id)
        reason = f"unexpected {type(error).__name__} ({error}); please report it"
    _discard(out, slide_id)
    return PredictionRow(slide_id, "failed", reason)


def _predict_slide(
    run: TrainedRun,
    bags: BagSet,
    slide_id: str,
    out: Path,
    max_px: int,
    on_prediction: Callable[[SlidePrediction], object] | None,
) -> PredictionRow:
    """Predict one stored slide and write its patch scores and, last of all, its picture.

    Raises:
        WsiHrError: the slide's store is damaged or was cut for another model, or the model gives
            no numbers.
    """
    bag, store = bags.open(slide_id), bags.store(slide_id)
    require_same_tiling(run.config.tile, store.info.tile, store.path)
    key = result_key(run, store, max_px)
    scores, heatmap = _scores_of(out, slide_id), heatmap_of(out, slide_id)
    class_map = _class_map_of(out, slide_id) if run.config.dense.classes else None
    others = [path for path in (scores, class_map) if path is not None]
    if on_prediction is None:
        kept = finished_row(slide_id, heatmap, others, key, run.classes)
        if kept is not None:
            return kept
    prediction = run.method.predict_bag(bag)
    said = (prediction.probs, prediction.saliency, prediction.patch_probs)
    if not all(np.isfinite(values).all() for values in said if values is not None):
        raise TrainingError(
            f"{slide_id}: the model gives no numbers for it; look at the slide's patches, or train "
            "with a lower train.lr"
        )
    row = PredictionRow(
        slide_id,
        "done",
        "",
        probs=tuple(float(p) for p in prediction.probs),
        predicted=run.classes[int(prediction.probs.argmax())],
        num_patches=len(prediction.grid),
    )
    names, size = run.config.dense.names, store.info.level0_size
    write_patch_scores(scores, prediction, names)
    if class_map is not None:
        picture = draw_class_map(prediction, names, store.thumbnail, size, max_px=max_px)
        save_picture(picture, class_map)
    picture = draw_heatmap(prediction, store.thumbnail, size, title=row.predicted, max_px=max_px)
    seal(picture, row, others, key)
    save_picture(picture, heatmap)
    if on_prediction is not None:
        on_prediction(prediction)
    return row


def _discard(out: Path, slide_id: str) -> None:
    """Remove what an earlier call said of a slide that now has no prediction."""
    if name_problem(slide_id, ".png") is not None:
        return  # nothing of ours has such a name
    for place_of in (heatmap_of, _class_map_of, _scores_of):
        place_of(out, slide_id).unlink(missing_ok=True)


def heatmap_of(out: Path, slide_id: str) -> Path:
    """The heatmap of a slide in a folder of predictions."""
    return file_in(out / HEATMAPS, slide_id, ".png", of="slide id")


def _class_map_of(out: Path, slide_id: str) -> Path:
    return file_in(out / CLASS_MAPS, slide_id, ".png", of="slide id")


def _scores_of(out: Path, slide_id: str) -> Path:
    return file_in(out / PATCHES, slide_id, ".csv", of="slide id")


def _held_out_metrics(
    run: TrainedRun, slides: RunSlides, rows: Sequence[PredictionRow]
) -> dict[str, float]:
    """Metrics on those slides that the run kept out of training and whose label it knows."""
    held_out = [
        (row.probs, slides.rows[row.slide_id])
        for row in rows
        if row.probs and slides.rows.get(row.slide_id, {}).get("split") == "test"
    ]
    if not held_out:
        return {}
    index_of = {same_text(name): index for index, name in enumerate(run.classes)}
    strange = {of["label"] for _, of in held_out if same_text(of["label"]) not in index_of}
    if strange:
        raise LabelError(
            f"{slides.run_dir / SPLITS}: has the class {strange.pop()!r}, the model has "
            f"{', '.join(map(repr, run.classes))}; restore the file"
        )
    probs = np.array([probs for probs, _ in held_out])
    labels = np.array([index_of[same_text(of["label"])] for _, of in held_out])
    return slide_metrics(probs, labels, [of["patient_id"] for _, of in held_out])
