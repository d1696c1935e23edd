"""Patients whose names may be meant for one: kept on one side unless somebody says they differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from wsi_hr.cohort.label_report import listed
from wsi_hr.cohort.labels import LabelRow
from wsi_hr.cohort.same_text import how_they_differ, same_text, twins_among
from wsi_hr.cohort.table import read_table
from wsi_hr.errors import LabelError


@dataclass(frozen=True)
class DistinctPatients:
    """Patients that are different ones, however alike their names are.

    Attributes:
        pairs: two names each, as :func:`same_text` gives them.
        alone: names that are like no other.
    """

    pairs: frozenset[frozenset[str]] = frozenset()
    alone: frozenset[str] = frozenset()

    def differ(self, first: str, second: str) -> bool:
        """Whether somebody said that these are two."""
        both = frozenset((same_text(first), same_text(second)))
        return both in self.pairs or bool(both & self.alone)


def read_distinct_patients(path: Path, rows: Sequence[LabelRow]) -> DistinctPatients:
    """Read a table of patients that differ: those of one row from each other, one alone from all.

    Args:
        path: a table with a header line, see :func:`wsi_hr.cohort.table.read_table`; all its
            columns hold patients as the labels have them.
        rows: the labelled slides.

    Raises:
        LabelError: the table cannot be read, names nobody, or somebody whom the labels do not have.
    """
    table = read_table(path)
    patients = {same_text(row.patient_id) for row in rows}
    if patients.issuperset(map(same_text, table.columns)):
        raise LabelError(
            f"{path}, line 1: names patients; put a header line above it, such as patient,other"
        )
    pairs: set[frozenset[str]] = set()
    alone: set[str] = set()
    for index, row in enumerate(table.rows):
        names = {same_text(cell) for cell in row.values()} - {""}
        unknown = sorted(names - patients)
        if unknown:
            raise LabelError(
                f"{path}, line {table.line_of(index)}: no labelled slide is of patient "
                f"{' or '.join(map(repr, unknown))}; write the names as the labels have them"
            )
        if len(names) == 1:
            alone |= names
        pairs |= {frozenset(pair) for pair in combinations(names, 2)}
    if not pairs and not alone:
        raise LabelError(f"{path}: names no patient; give a line for each pair that differs")
    return DistinctPatients(frozenset(pairs), frozenset(alone))


def refuse_twins_apart(
    rows: Sequence[LabelRow],
    split_of: Mapping[str, str],
    distinct: DistinctPatients = DistinctPatients(),
) -> None:
    """Refuse a division that puts patients who may be one on two sides.

    Slides that stand for their own patient, because the labels do not name one, are not compared
    with each other.

    Args:
        rows: the labelled slides.
        split_of: slide_id -> side.
        distinct: patients that are known to differ.

    Raises:
        LabelError: naming the patients, their sides and how to go on.
    """
    slides_of: dict[str, dict[str, str]] = defaultdict(dict)
    named: set[str] = set()
    for row in sorted(rows, key=lambda row: row.slide_id):
        slides_of[row.patient_id].setdefault(split_of[row.slide_id], row.slide_id)
        if row.patient_id != row.slide_id:
            named.add(row.patient_id)
    apart = [
        f"{_where(first, slides_of[first])} and {_where(second, slides_of[second])}: "
        f"{how_they_differ(first, second)}"
        for group in twins_among(slides_of)
        for first, second in combinations(group, 2)
        if slides_of[first].keys() != slides_of[second].keys()
        and {first, second} & named
        and not distinct.differ(first, second)
    ]
    if apart:
        raise LabelError(
            f"patients that may be one are on two sides: {listed(apart)}; write a patient's name "
            "in one way, or list the patients who do differ, a pair a line, in a CSV with a header "
            "line, and give it by --distinct-patients"
        )


def _where(patient: str, slide_of: Mapping[str, str]) -> str:
    sides = " and ".join(f"{side}, slide {slide!r}" for side, slide in slide_of.items())
    return f"{patient!r} ({sides})"
