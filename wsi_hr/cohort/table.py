"""Tables as labs have them, read as text: no cell is ever taken for a number, a date or "missing".

Spreadsheets and locales change encoding, separator and line ends; all of that is undone here, so
that the rest of the package sees columns and rows. What :func:`write_table` writes is UTF-8,
comma-separated, and opens in a spreadsheet without running a formula.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_hr.cohort.same_text import bare_name
from wsi_hr.errors import LabelError, reading
from wsi_hr.remote import Place
from wsi_hr.runtime import atomic_path

SLIDE_ALIASES = (
    "slide_id",
    "slide",
    "slide_name",
    "wsi",
    "wsi_id",
    "filename",
    "file",
    "image",
    "image_id",
    "image_name",
    "sample_id",
)
"""Columns that name a slide; those that hold a path for certain are the manifest's."""

PATIENT_ALIASES = ("patient_id", "patient", "case_id", "case", "subject_id", "subject")
LABEL_ALIASES = ("label", "labels", "slide_label", "class", "target", "category", "outcome")
MPP_ALIASES = (
    "mpp",
    "microns_per_pixel",
    "um_per_px",
    "um_per_pixel",
    "spacing",
    "spacing_at_level_0",
)

_SEPARATORS = (",", ";", "\t")
_SEPARATOR_LINE = re.compile(r"sep=([,;\t])[\r\n]+")  # a spreadsheet's own hint, before the header
_QUOTED = re.compile(r'"[^"]*"')
_CHARACTERS_LOOKED_AT = 1 << 16  # to choose the separator
_SPREADSHEETS = {
    b"PK\x03\x04": "an Excel or OpenDocument workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
}
_NEEDS_QUOTES = re.compile(r'[",;\t\r\n\ufeff]')  # the last would be a BOM if it came first
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NEUTRALISED = re.compile(r"'+[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Table:
    """A header and the rows below it.

    Attributes:
        path: where it was read.
        columns: headers as they are written, without blanks around them; unique.
        rows: per row, header -> cell; cells keep their blanks. Blank rows are left out.
        lines: per row, the line of the file on which it starts, from 1.
        encoding: how the file's bytes were understood.
    """

    path: Place
    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    lines: tuple[int, ...]
    encoding: str

    def line_of(self, row_index: int) -> int:
        """Line of the file on which a row starts, from 1."""
        return self.lines[row_index]


def read_table(path: Place) -> Table:
    """Read a delimited text file.

    UTF-8 with or without BOM, UTF-16, Windows-1252; comma, semicolon or tab; any line ends;
    newlines inside quotes. Cells are text. The mark that :func:`neutralise` sets is taken off.

    Raises:
        LabelError: the file is missing, empty, a workbook, not text, has two columns of one name,
            a quote that is not closed, or a row longer than the header.
        ReadError: it cannot be read just now.
    """
    with reading(path):
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as cause:
            raise LabelError(f"{path}: the table cannot be read ({cause.strerror})") from cause
    for magic, kind in _SPREADSHEETS.items():
        if data.startswith(magic):
            raise LabelError(
                f"{path}: is {kind}; save the sheet as CSV (UTF-8) and give that file instead"
            )
    text, encoding = _decode(data, path)
    first_line = 1
    hint = _SEPARATOR_LINE.match(text)
    if hint:
        text, first_line = text[hint.end() :], 2
    separator = hint[1] if hint else _separator_of(text)
    records = [
        (line, cells)
        for line, cells in _records(text, separator, path, first_line)
        if any(cell.strip() for cell in cells)
    ]
    if not records:
        raise LabelError(f"{path}: is empty; give a table with a header line")
    header, *body = records
    names = _names(header[1], [cells for _, cells in body], path)
    rows = []
    for line, cells in body:
        if any(cell.strip() for cell in cells[len(header[1]) :]):
            raise LabelError(
                f"{path}, line {line}: has {len(cells)} cells, the header has {len(header[1])}; "
                "put a cell that contains the separator in double quotes"
            )
        padded = cells + [""] * len(header[1])
        rows.append({name: _restore(padded[column]) for column, name in names.items()})
    return Table(path, tuple(names.values()), rows, tuple(line for line, _ in body), encoding)


def match_column(
    table: Table, aliases: Sequence[str], *, what: str, required: bool, option: str | None = None
) -> str | None:
    """The one column whose header is among ``aliases``, by :func:`bare_name`.

    Args:
        table: where to look.
        aliases: names the column may have.
        what: the column's meaning, for messages.
        required: whether a table without such a column is an error.
        option: the command-line option that chooses the column, where there is one.

    Returns:
        The header as the table has it; None: there is no such column.

    Raises:
        LabelError: several columns match, or none and it is required.
    """
    wanted = {bare_name(alias) for alias in aliases}
    found = [column for column in table.columns if bare_name(column) in wanted]
    if len(found) == 1:
        return found[0]
    if found:
        way_out = f"choose one with {option}" if option else "rename all but one"
        raise LabelError(
            f"{table.path}: columns {' and '.join(map(repr, found))} could each be the {what}; "
            f"{way_out}"
        )
    if not required:
        return None
    way_out = f"name the column with {option}" if option else "rename the column"
    raise LabelError(
        f"{table.path}: no {what} column (looked for {', '.join(aliases)}); the columns are "
        f"{', '.join(map(repr, table.columns))}; {way_out}"
    )


def neutralise(cell: str) -> str:
    """``cell`` such that no spreadsheet takes it for a formula.

    A cell that starts with ``=``, ``+``, ``-``, ``@``, a tab or a line end gets an apostrophe in
    front, unless it is a plain number. A text that has such an apostrophe already gets one more,
    so that :func:`read_table` gives back exactly what was written.
    """
    if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def write_table(
    path: Place,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, str]],
    *,
    private: bool = False,
) -> None:
    """Write a table whole or not at all: UTF-8, commas, line feeds, cells neutralised.

    Args:
        path: replaced if it exists.
        columns: headers, in order.
        rows: header -> cell; taken one at a time, so a generator needs no memory.
        private: only the file's owner may read it, from its first moment on.

    Raises:
        KeyError: a row lacks a column.
    """
    with atomic_path(path) as tmp:
        if private:
            tmp.unlink(missing_ok=True)  # what a killed run left has the mode it was made with
            tmp.touch(mode=0o600)
        _write_rows(tmp, columns, rows)


def _write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        handle.write(_line(columns))
        for row in rows:
            handle.write(_line([row[column] for column in columns]))


def _line(cells: Sequence[str]) -> str:
    # Not csv.writer: it leaves a lone carriage return unquoted, and the separators that the reader
    # would have to choose between.
    quoted = [_quote(neutralise(cell)) for cell in cells]
    return ",".join(quoted) + "\n"


def _quote(cell: str) -> str:
    if _NEEDS_QUOTES.search(cell):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _restore(cell: str) -> str:
    """Undo :func:`neutralise`."""
    return cell[1:] if _NEUTRALISED.match(cell) else cell


def _decode(data: bytes, path: Place) -> tuple[str, str]:
    """The text of ``data`` and the name of its encoding."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        candidates = ["utf-16"]
    elif 4 * data.count(0) > len(data):  # half of the bytes of Latin text in UTF-16
        candidates = ["utf-16-be" if data[0] == 0 else "utf-16-le"]
    elif b"\0" in data:
        candidates = []
    else:
        candidates = ["utf-8-sig", "cp1252"]
    for encoding in candidates:
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    raise LabelError(
        f"{path}: is not text in UTF-8, UTF-16 or Windows-1252; save it as CSV (UTF-8)"
    )


def _separator_of(text: str) -> str:
    """The separator that splits the header into most cells, and the rows into as many."""
    unquoted = _QUOTED.sub("x", text[:_CHARACTERS_LOOKED_AT])
    lines = [line for line in re.split(r"[\r\n]+", unquoted) if line.strip(" ,;\t")]

    def score(separator: str) -> tuple[int, int]:
        counts = [line.count(separator) for line in lines]
        return (counts[0], counts.count(counts[0])) if counts else (0, 0)

    return max(_SEPARATORS, key=score)


def _records(
    text: str, separator: str, path: Place, first_line: int
) -> Iterator[tuple[int, list[str]]]:
    """Lines on which records start, and their cells."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = first_line
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as cause:
            raise LabelError(
                f"{path}, line {line}: not a well-formed row, most likely a double quote without "
                f"its partner ({cause}); correct the line"
            ) from cause
        yield line, cells
        line = first_line + reader.line_num


def _names(header: list[str], body: list[list[str]], path: Place) -> dict[int, str]:
    """Position -> name of the columns; one without a name and without content is left out."""
    names: dict[int, str] = {}
    for column, cell in enumerate(header):
        name = _restore(cell.strip())
        if not name:
            if not any(cells[column].strip() for cells in body if column < len(cells)):
                continue
            name = f"column {column + 1}"
        if name in names.values():
            raise LabelError(f"{path}: two columns are called {name!r}; rename or delete one")
        names[column] = name
    return names
