"""What of a labels table was left out or looks wrong, as sentences for its author."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from wsi_hr.cohort.excel_damage import damage_of, says_nothing
from wsi_hr.cohort.label_entries import Columns, Entry
from wsi_hr.cohort.same_text import how_they_differ, twins_among
from wsi_hr.cohort.slide_names import SlideNames
from wsi_hr.cohort.table import Table

_MOST_NAMED = 5  # examples in one message; the rest is counted


def listed(items: Iterable[str]) -> str:
    """The first few of ``items``, and how many more there are."""
    texts = list(items)
    more = len(texts) - _MOST_NAMED
    return ", ".join(texts[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def with_hint(entry: Entry, names: SlideNames) -> str:
    """An entry that fits no slide, its line, and what may be behind it."""
    hint = names.hint(entry.slide)
    return f"{entry.slide!r} (line {entry.line}{f': {hint}' if hint else ''})"


def file_warnings(table: Table, columns: Columns) -> list[str]:
    """What concerns the table as a whole."""
    warnings = []
    if table.encoding == "cp1252":
        warnings.append(
            f"{table.path} is not UTF-8 and was read as Windows-1252: look at names with accents, "
            "or save it as CSV (UTF-8)"
        )
    if columns.patient is None:
        warnings.append(
            f"{table.path} has no patient column: every slide counts as its own patient; where "
            "patients have several slides, add a patient_id column or name it with "
            "--patient-column, else one patient's slides can end on both sides of a split"
        )
    return warnings


def row_warnings(
    path: Path,
    columns: Columns,
    unmatched: Sequence[Entry],
    matched: Mapping[str, Sequence[Entry]],
    names: SlideNames,
) -> list[str]:
    """Rows that gave no slide its label.

    Args:
        path: the table.
        columns: what its columns mean.
        unmatched: rows that fit no slide.
        matched: slide_id -> its rows, which agree.
        names: to guess what unmatched rows mean.
    """
    warnings = []
    nameless = [entry for entry in unmatched if not entry.slide]
    if nameless:
        warnings.append(
            f"{path}: rows with nothing in column {columns.slide!r}: {len(nameless)} ("
            + listed(f"line {entry.line}" for entry in nameless)
            + ")"
        )
    unknown = [entry for entry in unmatched if entry.slide]
    if unknown:
        unknown.sort(key=lambda entry: names.hint(entry.slide) is None)
        warnings.append(
            f"{path}: rows that name a slide that is not there: {len(unknown)}: "
            + listed(with_hint(entry, names) for entry in unknown)
        )
    repeated = [(slide_id, rows) for slide_id, rows in matched.items() if len(rows) > 1]
    if repeated:
        warnings.append(
            f"{path}: slides listed more than once, with the same label: {len(repeated)}: "
            + listed(
                f"{slide_id!r} (lines {', '.join(str(entry.line) for entry in rows)})"
                for slide_id, rows in repeated
            )
        )
    return warnings


def slide_warnings(
    path: Path, columns: Columns, slide_ids: Sequence[str], entry_of: Mapping[str, Entry]
) -> list[str]:
    """Slides that go without a label or without a patient.

    Args:
        path: the table.
        columns: what its columns mean.
        slide_ids: the slides there are.
        entry_of: slide_id -> its row.
    """
    warnings = []
    absent = sorted(set(slide_ids) - entry_of.keys())
    if absent:
        warnings.append(
            f"{path}: slides without a row, which are left out: {len(absent)}: "
            + listed(map(repr, absent))
        )
    unlabelled = [slide_id for slide_id, entry in entry_of.items() if not entry.label]
    if unlabelled:
        warnings.append(
            f"{path}: slides with an empty label, which are left out: {len(unlabelled)}: "
            + listed(f"{slide_id!r} (line {entry_of[slide_id].line})" for slide_id in unlabelled)
        )
    alone = [s for s, entry in entry_of.items() if entry.label and not entry.patient]
    if columns.patient and alone:
        warnings.append(
            f"{path}: slides with nothing in column {columns.patient!r}, which count as their own "
            f"patient: {len(alone)}: "
            + listed(f"{slide_id!r} (line {entry_of[slide_id].line})" for slide_id in alone)
        )
    return warnings


def text_warnings(path: Path, columns: Columns, entries: Sequence[Entry]) -> list[str]:
    """Labels and patients that a spreadsheet changed, that say nothing, or that have a twin."""
    label_lines: dict[str, list[int]] = defaultdict(list)
    patient_lines: dict[str, list[int]] = defaultdict(list)
    for entry in entries:
        label_lines[entry.label].append(entry.line)
        if entry.patient:
            patient_lines[entry.patient].append(entry.line)
    warnings = []
    for column, lines, one, way_out in (
        (columns.label, label_lines, "a class", "leave a slide out"),
        (columns.patient, patient_lines, "a patient", "make a slide its own patient"),
    ):
        damaged = [
            f"{cell!r} (line {lines[cell][0]}: {damage_of(cell)}{_also(lines[cell][1:])})"
            for cell in _by_line(lines)
            if damage_of(cell)
        ]
        if damaged:
            warnings.append(
                f"{path}: column {column!r} looks damaged: {listed(damaged)}; each counts as {one}"
            )
        nothing = [f"{c!r} ({on_lines(lines[c])})" for c in _by_line(lines) if says_nothing(c)]
        if nothing:
            warnings.append(
                f"{path}: column {column!r} has what often means that nothing is known, and counts "
                f"as {one} here: {listed(nothing)}; empty these cells to {way_out}"
            )
    for what, lines, kind in (
        ("patients", patient_lines, "patients"),
        ("labels", label_lines, "classes"),
    ):
        twins = list(_twins(lines))
        if twins:
            warnings.append(
                f"{path}: {what} that may be meant for the same, and count as different {kind}: "
                + listed(twins)
            )
    return warnings


def on_lines(lines: Sequence[int]) -> str:
    """``line 3``, or ``lines 3, 5``; of many the first, and how many more there are."""
    return f"line{'s' if len(lines) > 1 else ''} {listed(map(str, lines))}"


def _also(lines: Sequence[int]) -> str:
    return f"; also {on_lines(lines)}" if lines else ""


def _by_line(lines: Mapping[str, Sequence[int]]) -> list[str]:
    return sorted(lines, key=lambda cell: lines[cell][0])


def _twins(lines: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Texts that may be one, as ``'a' and 'A' (lines 2 and 5: letter case differs)``."""
    for group in twins_among(lines):
        ways = " and ".join(dict.fromkeys(how_they_differ(group[0], text) for text in group[1:]))
        where = " and ".join(listed(map(str, lines[text])) for text in group)
        yield f"{' and '.join(map(repr, group))} (lines {where}: {ways})"
