"""From somebody's table to one label per slide, with everything that did not fit reported."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_hr.cohort.label_entries import Columns, Entry, choose_columns, read_entries
from wsi_hr.cohort.label_report import (
    file_warnings,
    listed,
    row_warnings,
    slide_warnings,
    text_warnings,
    with_hint,
)
from wsi_hr.cohort.measured_labels import are_measured
from wsi_hr.cohort.slide_names import SlideNames
from wsi_hr.cohort.table import read_table
from wsi_hr.errors import LabelError


@dataclass(frozen=True)
class LabelRow:
    """One labelled slide.

    Attributes:
        slide_id: as the store has it.
        label: class name, as text.
        patient_id: the slide's own id where the table gives no patient.
        split: ``train``, ``val`` or ``test``; None: the table does not say.
    """

    slide_id: str
    label: str
    patient_id: str
    split: str | None


@dataclass(frozen=True)
class Labels:
    """What a table says about the slides there are.

    Attributes:
        classes: class names; whole numbers in their order, otherwise by the alphabet.
        rows: the labelled slides by slide_id.
        mapping: one sentence: which column was taken for what.
        warnings: what was left out or looks wrong, one sentence each.
    """

    classes: tuple[str, ...]
    rows: tuple[LabelRow, ...]
    mapping: str
    warnings: tuple[str, ...]


def load_labels(
    path: Path,
    slide_ids: Sequence[str],
    *,
    slide_column: str | None = None,
    label_column: str | None = None,
    patient_column: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Labels:
    """Give slides their labels from a table.

    A cell names a slide by its id, by file name or by path. Rows without a slide, slides without
    a row or label, and repeated rows are reported in ``warnings``.

    Args:
        path: a delimited text file, see :func:`wsi_hr.cohort.table.read_table`.
        slide_ids: the slides there are.
        slide_column: header of the column that names the slide; None: found by its name.
        label_column: likewise, the class.
        patient_column: likewise, the patient.
        names: slide_id -> its name, of slides whose ids are hashes; the table may have either.

    Raises:
        LabelError: the table cannot be used: a column is missing or ambiguous, rows contradict
            each other, a name could be several slides, no row fits a slide, a split is unknown,
            fewer than two classes remain, or the labels are measurements.
    """
    table = read_table(path)
    columns = choose_columns(table, slide_column, label_column, patient_column)
    entries = read_entries(table, columns)
    id_of = {slide_id: slide_id for slide_id in slide_ids}
    id_of |= {name: slide_id for slide_id, name in (names or {}).items()}
    known = SlideNames(list(id_of))
    matched: dict[str, list[Entry]] = {slide_id: [] for slide_id in sorted(slide_ids)}
    unmatched: list[Entry] = []
    for entry in entries:
        name = known.find(entry.slide)
        (unmatched if name is None else matched[id_of[name]]).append(entry)
    matched = {slide_id: rows for slide_id, rows in matched.items() if rows}
    with_row = {name for name, slide_id in id_of.items() if slide_id in matched}
    _refuse_ambiguous(path, unmatched, known, with_row)
    if not matched:
        ours = list((names or id_of).values())
        raise LabelError(_nothing_fits(path, columns, unmatched, ours, known))
    entry_of = {slide_id: _agreed(path, slide_id, rows) for slide_id, rows in matched.items()}
    labelled = {slide_id: entry for slide_id, entry in entry_of.items() if entry.label}
    return Labels(
        classes=_classes(path, columns, list(labelled.values())),
        rows=tuple(
            LabelRow(slide_id, entry.label, entry.patient or slide_id, entry.split or None)
            for slide_id, entry in labelled.items()
        ),
        mapping=_mapping(path, columns),
        warnings=(
            *file_warnings(table, columns),
            *row_warnings(path, columns, unmatched, matched, known),
            *slide_warnings(path, columns, slide_ids, entry_of),
            *text_warnings(path, columns, list(labelled.values())),
        ),
    )


def _refuse_ambiguous(
    path: Path, unmatched: Sequence[Entry], names: SlideNames, with_row: Collection[str]
) -> None:
    """Refuse a name that several slides share.

    Slides that have a row of their own are not meant by it: ``a`` beside ``lung_a`` and ``skin_a``
    is then simply a slide that is not there.
    """
    for entry in unmatched:
        namesakes = [name for name in names.namesakes(entry.slide) if name not in with_row]
        if len(namesakes) > 1:
            raise LabelError(
                f"{path}, line {entry.line}: slide {entry.slide!r} could be "
                f"{listed(map(repr, namesakes))}; write one of these, or the path with its folder"
            )


def _nothing_fits(
    path: Path,
    columns: Columns,
    unmatched: Sequence[Entry],
    there: Sequence[str],
    names: SlideNames,
) -> str:
    unknown = [entry for entry in unmatched if entry.slide]
    if not unknown:
        return f"{path}: column {columns.slide!r} names no slide; give a line for each slide"
    theirs = " and ".join(with_hint(entry, names) for entry in unknown[:2])
    ours = " and ".join(map(repr, sorted(there)[:2]))
    return (
        f"{path}: no row fits a slide: column {columns.slide!r} has {theirs}, the slides are "
        f"{ours or 'none at all'}; correct the names, or choose another column with --slide-column"
    )


def _agreed(path: Path, slide_id: str, entries: Sequence[Entry]) -> Entry:
    """What all rows of a slide say."""
    first = entries[0]
    for other in entries[1:]:
        for what in ("label", "patient", "split"):
            before, after = getattr(first, what), getattr(other, what)
            if before != after:
                raise LabelError(
                    f"{path}: slide {slide_id!r} has {what} {before!r} on line {first.line} and "
                    f"{after!r} on line {other.line}; delete the wrong line"
                )
    return first


def _classes(path: Path, columns: Columns, labelled: Sequence[Entry]) -> tuple[str, ...]:
    """The classes in order; at least two."""
    labels = {entry.label for entry in labelled}
    if len(labels) < 2:
        found = f"only the class {labels.pop()!r}" if labels else "no label"
        raise LabelError(
            f"{path}: column {columns.label!r} has {found} for the slides that are there; two "
            "classes are the least: add slides, or choose another column with --label-column"
        )
    if are_measured([entry.label for entry in labelled]):
        shown = listed(repr(entry.label) for entry in labelled)
        raise LabelError(
            f"{path}: column {columns.label!r} holds measurements, not classes: {len(labels)} "
            f"different values on {len(labelled)} slides ({shown}); add a column that names a "
            "class for each slide, such as low and high, and choose it with --label-column; if "
            "these are names of classes, put a letter in front"
        )
    if all(re.fullmatch(r"\d+", label, re.ASCII) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _mapping(path: Path, columns: Columns) -> str:
    patient = f"column {columns.patient!r}" if columns.patient else "none"
    split = f"column {columns.split!r}" if columns.split else "none"
    return (
        f"{path}: slide = column {columns.slide!r}, label = column {columns.label!r}, "
        f"patient = {patient}, split = {split}."
    )
