"""The train stage: a folder of patch stores and a labels table become a run."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from wsi_hr.cohort.labels import LabelRow, load_labels
from wsi_hr.cohort.splits import make_splits
from wsi_hr.cohort.table import read_table, write_table

from pipelines.lock import run_lock
from pipelines.progress import progress_bar
from pipelines.record import RunRecord
from wsi_hr.bags.bag_set import BagSet, stored_slides
from wsi_hr.config import Config, dump_config, load_recipe
from wsi_hr.errors import ConfigError
from wsi_hr.methods import build_method
from wsi_hr.methods.method import Method
from wsi_hr.models.encoder import build_encoder
from wsi_hr.runtime import seed_for, write_text_atomic
from wsi_hr.training.loop import BEST, LAST, TrainingSet, best_epoch, evaluate, fit
from wsi_hr.training.run import load_run, pick_device, run_facts

CONFIG = "config.yaml"
SPLITS = "splits.csv"
SPLIT_COLUMNS = ("slide_id", "patient_id", "label", "split")


@dataclass(frozen=True)
class LabelsSource:
    """The labels table and, where headers are ambiguous, which columns to take."""

    path: Path
    slide_column: str | None = None
    label_column: str | None = None
    patient_column: str | None = None


@dataclass(frozen=True)
class TrainReport:
    """What training ended with.

    Attributes:
        best: metrics of the chosen epoch.
        test: metrics on the held-out slides; empty where there are none.
        classes: names in the order of the probabilities.
    """

    best: dict[str, float]
    test: dict[str, float]
    classes: tuple[str, ...]


def train_stage(
    store: Path, labels: LabelsSource, run_dir: Path, config: Config, console: Console | None
) -> TrainReport:
    """Train, or go on training, one run.

    The run folder receives config.yaml, splits.csv, metrics.jsonl, best and last checkpoint and
    run.json. The same command on a run that was interrupted resumes it; on a finished one it only
    reports.

    Raises:
        WsiHrError: labels, splits, settings or stores that cannot be trained on.
    """
    slide_ids = stored_slides(store)
    bags = BagSet(store)
    config = config.model_copy(update={"tile": bags.store(slide_ids[0]).info.tile})
    table = load_labels(
        labels.path,
        slide_ids,
        slide_column=labels.slide_column,
        label_column=labels.label_column,
        patient_column=labels.patient_column,
    )
    _say(console, table.mapping, *(f"warning: {text}" for text in table.warnings))
    split_of = make_splits(
        table.rows, val=config.split.val, test=config.split.test, seed=config.seed
    )
    run_dir.mkdir(parents=True, exist_ok=True)
    with run_lock(run_dir):
        return _train(table.rows, table.classes, split_of, store, run_dir, config, console)


def _train(
    rows: tuple[LabelRow, ...],
    classes: tuple[str, ...],
    split_of: dict[str, str],
    store: Path,
    run_dir: Path,
    config: Config,
    console: Console | None,
) -> TrainReport:
    record = RunRecord("train", config)
    _claim_run_folder(run_dir, config, rows, split_of)
    label_of = {row.slide_id: classes.index(row.label) for row in rows}
    slides = {
        part: tuple(sorted(s for s, where in split_of.items() if where == part))
        for part in ("train", "val", "test")
    }
    _say(console, _describe(rows, split_of))
    data = TrainingSet(BagSet(store, label_of), slides["train"], slides["val"], label_of)
    device = pick_device(config.train.device)
    torch.set_num_threads(config.train.threads or len(os.sched_getaffinity(0)))
    method = _build(config, classes, [label_of[s] for s in slides["train"]], run_dir).to(device)
    with progress_bar(console, "training", config.train.epochs * len(slides["train"])) as advance:
        note = ""

        def on_epoch(row: dict[str, float]) -> None:
            nonlocal note
            note = _line(row)
            if console is not None and not console.is_terminal:
                console.print(note, highlight=False)
            advance(0, note)

        history = fit(
            method,
            data,
            config,
            run_dir,
            run_facts(config, classes),
            on_epoch=on_epoch,
            on_slides=lambda count: advance(count, note),
        )
    best = history[best_epoch(history)]
    # the held-out slides are looked at once, here, after the best epoch is chosen
    test = evaluate(load_run(run_dir, device=str(device)).method, data, slides["test"])
    record.write(
        run_dir,
        device=_device_name(device),
        threads=torch.get_num_threads(),
        classes=list(classes),
        slides={part: len(ids) for part, ids in slides.items()},
        best=best,
        test=test,
    )
    _say(console, f"best epoch: {_line(best)}", f"model: {run_dir / BEST}")
    return TrainReport(best, test, classes)


def _build(config: Config, classes: tuple[str, ...], labels: list[int], run_dir: Path) -> Method:
    torch.manual_seed(seed_for(config.seed, "init"))
    encoder = build_encoder(
        config.encoder, config.tile.patch_size, load_weights=not (run_dir / LAST).exists()
    )
    weights = [1.0] * len(classes)
    if config.train.class_weights:
        counts = Counter(labels)
        weights = [len(labels) / (len(classes) * counts[c]) for c in range(len(classes))]
    return build_method(config.method, encoder, weights)


def _claim_run_folder(
    run_dir: Path, config: Config, rows: tuple[LabelRow, ...], split_of: dict[str, str]
) -> None:
    """Write config and splits, or refuse a folder that holds another run's."""
    settings = run_dir / CONFIG
    if settings.exists():
        differing = _differing(
            load_recipe(settings), config.model_dump(mode="json"), skip=("device", "threads")
        )
        if differing:
            raise ConfigError(
                f"{run_dir}: holds a run with other settings ({'; '.join(differing)}); "
                "give another -o, or the same settings to resume it"
            )
    splits = [
        {
            "slide_id": row.slide_id,
            "patient_id": row.patient_id,
            "label": row.label,
            "split": split_of[row.slide_id],
        }
        for row in sorted(rows, key=lambda row: row.slide_id)
    ]
    path = run_dir / SPLITS
    if settings.exists() and path.exists():
        write_table(path.with_suffix(".new.csv"), SPLIT_COLUMNS, splits)
        same = path.with_suffix(".new.csv").read_bytes() == path.read_bytes()
        path.with_suffix(".new.csv").unlink()
        if not same:
            raise ConfigError(
                f"{path}: the run was started with other slides, labels or splits; "
                "give another -o to train on the new ones"
            )
        return
    write_table(path, SPLIT_COLUMNS, splits)
    write_text_atomic(settings, dump_config(config))


def read_splits(run_dir: Path) -> list[dict[str, str]]:
    """Rows of the run's splits.csv: slide_id, patient_id, label, split.

    Raises:
        LabelError: the file is missing or not a table.
    """
    return list(read_table(run_dir / SPLITS).rows)


def _differing(
    old: dict[str, Any], new: dict[str, Any], skip: tuple[str, ...], prefix: str = ""
) -> list[str]:
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if key in skip or before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            lines += _differing(before, after, skip, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {before} there, {after} now")
    return lines


def _describe(rows: tuple[LabelRow, ...], split_of: dict[str, str]) -> str:
    parts = []
    for part in ("train", "val", "test"):
        counts = Counter(row.label for row in rows if split_of[row.slide_id] == part)
        inside = ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
        parts.append(f"{part} {counts.total()} ({inside})" if counts else f"{part} 0")
    return "slides: " + "; ".join(parts)


def _line(row: dict[str, float]) -> str:
    named = {"train_loss": "loss", "val_loss": "val loss", "val_auc": "val AUC"}
    values = [f"{name} {row[key]:.3f}" for key, name in named.items() if key in row]
    return f"epoch {int(row['epoch']) + 1}: " + ", ".join(values)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _say(console: Console | None, *lines: str) -> None:
    if console is not None:
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
