"""The rows of a labels table: which column means what, and what each row says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wsi_hr.cohort.manifest import PATH_ALIASES
from wsi_hr.cohort.same_text import bare_name, same_text
from wsi_hr.cohort.table import (
    LABEL_ALIASES,
    PATIENT_ALIASES,
    SLIDE_ALIASES,
    Table,
    match_column,
)
from wsi_hr.errors import LabelError

SPLIT_ALIASES = ("split", "set", "subset", "partition")

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "tune", "tuning"),
    "test": ("test", "testing", "heldout", "holdout"),
}


@dataclass(frozen=True)
class Columns:
    """Headers of the columns that are used; None: the table has no such column."""

    slide: str
    label: str
    patient: str | None
    split: str | None


@dataclass(frozen=True)
class Entry:
    """A row of the table; "" where there is nothing.

    Attributes:
        line: of the file, from 1.
        slide: an id, file name or path, without blanks around it.
        label: class name; of spellings that :func:`same_text` calls one, the first of the table.
        patient: likewise.
        split: ``train``, ``val``, ``test`` or "".
    """

    line: int
    slide: str
    label: str
    patient: str
    split: str


def choose_columns(
    table: Table, slide: str | None, label: str | None, patient: str | None
) -> Columns:
    """Find the columns, those that an option names by that name, the others by their aliases.

    Raises:
        LabelError: a column is missing or ambiguous.
    """
    slide_header = _column(table, slide, SLIDE_ALIASES, "slide")
    if slide_header is None:  # a path names a slide too, but an id beside it says it better
        slide_header = _required(table, (*SLIDE_ALIASES, *PATH_ALIASES), "slide")
    label_header = _column(table, label, LABEL_ALIASES, "label")
    return Columns(
        slide=slide_header,
        label=label_header or _required(table, LABEL_ALIASES, "label"),
        patient=_column(table, patient, PATIENT_ALIASES, "patient"),
        split=match_column(table, SPLIT_ALIASES, what="split", required=False),
    )


def read_entries(table: Table, columns: Columns) -> list[Entry]:
    """What the rows say, in the order of the file.

    Raises:
        LabelError: a split is neither train nor val nor test.
    """
    entries = []
    labels: dict[str, str] = {}
    patients: dict[str, str] = {}
    for index, row in enumerate(table.rows):
        line = table.line_of(index)
        split = row[columns.split].strip() if columns.split else ""
        name = split_name(split) if split else ""
        if name is None:
            raise LabelError(
                f"{table.path}, line {line}: {split!r} in column {columns.split!r} is not train, "
                "val or test; correct it, or rename the column if it means something else"
            )
        entry = Entry(
            line=line,
            slide=row[columns.slide].strip(),
            label=_first_spelling(row[columns.label], labels),
            patient=_first_spelling(row[columns.patient], patients) if columns.patient else "",
            split=name,
        )
        entries.append(entry)
    return entries


def _first_spelling(cell: str, spellings: dict[str, str]) -> str:
    """How the same text was written first; ``spellings`` has those so far and is added to."""
    return spellings.setdefault(same_text(cell), cell.strip())


def split_name(text: str) -> str | None:
    """``train``, ``val`` or ``test`` for any usual spelling; None: it is none of them."""
    plain = bare_name(text)
    return next((name for name, usual in _SPLIT_NAMES.items() if plain in usual), None)


def _column(table: Table, chosen: str | None, aliases: Sequence[str], what: str) -> str | None:
    """The column an option chose, or the one that its name gives away."""
    if chosen is None:
        return match_column(table, aliases, what=what, required=False, option=f"--{what}-column")
    return chosen if chosen in table.columns else _required(table, (chosen,), what)


def _required(table: Table, aliases: Sequence[str], what: str) -> str:
    found = match_column(table, aliases, what=what, required=True, option=f"--{what}-column")
    assert found is not None, "a required column is found or refused"
    return found
