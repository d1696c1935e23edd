"""What a run folder was started with; it is never mixed with another run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.weights_of_run import WEIGHT_COLUMNS, WEIGHTS, refuse_other_weights
from wsi_hr.cohort.labels import LabelRow
from wsi_hr.cohort.same_text import same_text
from wsi_hr.cohort.table import read_table, write_table
from wsi_hr.config import Config, dump_config, load_recipe
from wsi_hr.errors import ConfigError, LabelError
from wsi_hr.listing import is_there
from wsi_hr.method_config import EncoderConfig
from wsi_hr.runtime import write_text_atomic
from wsi_hr.training.loop import BEST, LAST

CONFIG = "config.yaml"
SPLITS = "splits.csv"
SPLIT_COLUMNS = ("slide_id", "patient_id", "label", "split")
STORES = "stores.csv"
DIGEST_COLUMNS = ("source_sha256", "pixels_sha256")
"""What tells a slide from all others; a run of an earlier wsi-hr has them not."""

STORE_COLUMNS = ("slide_id", "patches", "sha256", *DIGEST_COLUMNS)
ANNOTATIONS = "annotations.csv"
ANNOTATION_COLUMNS = ("slide_id", "file", "sha256")
SIDES = ("train", "val", "test")

# Where and how fast things are computed, and limits that decide whether a slide is tiled at all.
_MAY_CHANGE = frozenset(
    {"train.device", "train.threads", "tile.deadline_s", "tile.memory_gib", "tile.max_unreadable"}
)
_SHOWN = 3


Rows = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Inputs:
    """What a run learns from, as tables of its folder.

    Attributes:
        splits: of ``splits.csv``.
        stores: of ``stores.csv``: what the patches of every slide were.
        annotations: of ``annotations.csv``; none where the run has no annotations.
        weights: of ``weights.csv``; none where no weights file is named.
    """

    splits: Rows
    stores: Rows
    annotations: Rows = ()
    weights: Rows = ()


def split_rows(rows: Sequence[LabelRow], split_of: Mapping[str, str]) -> list[dict[str, str]]:
    """The rows of ``splits.csv``, by slide."""
    return [
        {
            "slide_id": row.slide_id,
            "patient_id": row.patient_id,
            "label": row.label,
            "split": split_of[row.slide_id],
        }
        for row in sorted(rows, key=lambda row: row.slide_id)
    ]


def refuse_other_run(run_dir: Path, config: Config, inputs: Inputs) -> None:
    """Refuse a folder whose checkpoints come of other settings, slides, labels, files of weights.

    Slides that were tiled again, with another result, are other ones. A run that was stopped before
    its first checkpoint binds nobody.

    Raises:
        ConfigError: naming what differs, with both values.
        LabelError: one of the folder's tables is damaged.
    """
    if not is_there(run_dir / LAST):
        if is_there(run_dir / BEST):
            raise ConfigError(
                f"{run_dir}: holds {BEST} but no {LAST}, so it cannot be resumed and is not "
                "overwritten; restore the file, or give another -o"
            )
        return
    if not is_there(run_dir / CONFIG):
        raise ConfigError(
            f"{run_dir}: holds checkpoints but no {CONFIG}; restore the file, or give another -o"
        )
    differing = _differing(begun_with(run_dir), config.model_dump(mode="json"))
    if differing:
        raise ConfigError(
            f"{run_dir}: holds a run with other settings ({'; '.join(differing)}); "
            "give another -o, or the same settings to resume it"
        )
    changes = _changes(read_splits(run_dir), inputs.splits, SPLIT_COLUMNS)
    _refuse_changes(run_dir / SPLITS, "slides, labels or splits", changes)
    if is_there(run_dir / STORES):  # an earlier wsi-hr wrote none
        before = read_stores(run_dir)
        changes = _changes(before, inputs.stores, list(before[0]) if before else [])
        _refuse_changes(run_dir / STORES, "patches, before the slides were tiled again", changes)
    if inputs.annotations:
        before = _rows_of(run_dir / ANNOTATIONS, ANNOTATION_COLUMNS)
        changes = _changes(before, inputs.annotations, ANNOTATION_COLUMNS)
        _refuse_changes(run_dir / ANNOTATIONS, "annotations", changes)
    refuse_other_weights(run_dir, inputs.weights)


def begun_with(run_dir: Path) -> dict[str, Any]:
    """The settings that a run was begun with, under the names they have now.

    How an earlier wsi-hr's run has its batch norms is what it had them do; of the encoder, what
    that one could not set is as it was: at its default.

    Raises:
        ConfigError: its config.yaml cannot be read.
    """
    settings: dict[str, Any] = load_recipe(run_dir / CONFIG)
    encoder, method = settings.get("encoder"), settings.get("method")
    if isinstance(encoder, dict):
        if "freeze_bn" in encoder:
            never_trains = isinstance(method, dict) and method.get("name") == "abmil"
            frozen = encoder.pop("freeze_bn") or never_trains
            encoder["norm_stats"] = "running" if frozen else "batch"
        defaults = EncoderConfig.model_validate({}).model_dump(mode="json")
        settings["encoder"] = {**defaults, **encoder}
    return settings


def _refuse_changes(path: Path, what: str, changes: Sequence[str]) -> None:
    if changes:
        more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise ConfigError(
            f"{path}: the run was started with other {what} "
            f"({'; '.join(changes[:_SHOWN])}{more}); give another -o to train on the new ones"
        )


def claim(run_dir: Path, config: Config, inputs: Inputs) -> None:
    """Write settings, splits, stores and, where there are any, annotations and weights down."""
    write_table(run_dir / SPLITS, SPLIT_COLUMNS, inputs.splits)
    write_table(run_dir / STORES, STORE_COLUMNS, inputs.stores)
    if inputs.annotations:
        write_table(run_dir / ANNOTATIONS, ANNOTATION_COLUMNS, inputs.annotations)
    else:
        (run_dir / ANNOTATIONS).unlink(missing_ok=True)
    if not inputs.weights:
        (run_dir / WEIGHTS).unlink(missing_ok=True)
    # which ones a run of an earlier wsi-hr began with is not known, and not said
    elif not is_there(run_dir / LAST) or is_there(run_dir / WEIGHTS):
        write_table(run_dir / WEIGHTS, WEIGHT_COLUMNS, inputs.weights)
    write_text_atomic(run_dir / CONFIG, dump_config(config))


def read_splits(run_dir: Path) -> list[dict[str, str]]:
    """Rows of the run's splits.csv: slide_id, patient_id, label, split.

    Raises:
        LabelError: the file is missing or not such a table.
    """
    return _rows_of(run_dir / SPLITS, SPLIT_COLUMNS)


def read_stores(run_dir: Path) -> list[dict[str, str]]:
    """Rows of the run's stores.csv, those columns that it has; none where there is no such file.

    Raises:
        LabelError: the file is not such a table.
    """
    path = run_dir / STORES
    if not is_there(path):
        return []
    there = [column for column in DIGEST_COLUMNS if column in read_table(path).columns]
    return _rows_of(path, ("slide_id", "patches", "sha256", *there))


def _rows_of(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    table = read_table(path)
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise LabelError(
            f"{table.path}: has no column {absent[0]!r}, so it is not what wsi-hr train wrote; "
            "restore the file"
        )
    return [{column: row[column] for column in columns} for row in table.rows]


def describe(splits: Sequence[dict[str, str]]) -> str:
    """How many slides of which class are on which side, in one line."""
    parts = []
    for side in SIDES:
        counts = Counter(row["label"] for row in splits if row["split"] == side)
        inside = ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
        parts.append(f"{side} {counts.total()} ({inside})" if counts else f"{side} 0")
    return "slides: " + "; ".join(parts)


def _differing(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted(old.keys() | new.keys()):
        name, before, after = f"{prefix}{key}", old.get(key), new.get(key)
        if name in _MAY_CHANGE or before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            lines += _differing(before, after, f"{name}.")
        else:
            lines.append(f"{name}: {before} there, {after} now")
    return lines


def _changes(
    old: Sequence[dict[str, str]], new: Sequence[dict[str, str]], columns: Sequence[str]
) -> list[str]:
    before = {row["slide_id"]: row for row in old}
    after = {row["slide_id"]: row for row in new}
    lines = [f"slide {slide_id!r} is gone" for slide_id in before if slide_id not in after]
    lines += [f"slide {slide_id!r} is new" for slide_id in after if slide_id not in before]
    lines += [
        f"{column} of slide {slide_id!r}: {row[column]!r} there, {after[slide_id][column]!r} now"
        for slide_id, row in before.items()
        if slide_id in after
        for column in columns
        if same_text(row[column]) != same_text(after[slide_id][column])
    ]
    return lines
