"""Section C of docs/faults.md: tables as hospitals and spreadsheets leave them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from wsi_hr.training.loop import BEST, LAST, METRICS

from .oracle import Ended, fault, timed, wrong_ending

SETTINGS = (
    *("--encoder", "test_resnet", "--epochs", 1, "--device", "cpu", "--set", "train.threads=1"),
    *("--set", "train.batch_size=4"),
)
LEARNED = (BEST, LAST, METRICS, "splits.csv")
Rows = list[list[str]]


@pytest.fixture(scope="module")
def rows(cohort) -> Rows:
    """The clean table: header, then a slide a row. A note is no column that is looked at."""
    with (cohort / "labels.csv").open(newline="", encoding="utf-8") as handle:
        header, *found = csv.reader(handle)
    assert header == ["slide_id", "label", "patient_id", "split"]
    return [[*header, "note"], *([*row, "Grüße"] for row in found)]


@pytest.fixture
def train(cli, store, tmp_path) -> Callable[[bytes, str], Ended]:
    """Train by a table of these bytes into a folder of this name."""

    def call(table: bytes, name: str = "run") -> Ended:
        path = tmp_path / f"{name}.csv"
        path.write_bytes(table)
        return timed(cli, "train", store, "--labels", path, "-o", tmp_path / name, *SETTINGS)

    return call


@pytest.fixture(scope="module")
def undisturbed(rows, store, tmp_path_factory) -> dict[str, bytes]:
    """What is learned by the clean table."""
    from pipelines.settings import resolve
    from pipelines.train import LabelsSource, train_stage

    folder = tmp_path_factory.mktemp("clean")
    (folder / "labels.csv").write_bytes(text_of(rows).encode())
    values = {"encoder.name": "test_resnet", "train.epochs": 1, "train.device": "cpu"}
    config = resolve(None, values, ["train.threads=1", "train.batch_size=4"])
    train_stage(store, LabelsSource(folder / "labels.csv"), folder / "run", config, None)
    return learned(folder / "run")


def learned(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in LEARNED}


def text_of(rows: Rows, separator: str = ",", end: str = "\n") -> str:
    return "".join(separator.join(row) + end for row in rows)


def with_row(rows: Rows, *cells: str) -> Rows:
    return [*rows, [*cells, *[""] * (5 - len(cells))]]


def in_column(rows: Rows, column: int, change: Callable[[str], str]) -> Rows:
    header, *rest = rows
    return [
        header,
        *([*row[:column], change(row[column]), *row[column + 1 :]] for row in rest),
    ]


def same(rows: Rows) -> bytes:
    return text_of(rows).encode()


SAME: tuple[object, ...] = (
    fault("C1", lambda rows: text_of(rows).encode("utf-8-sig"), ""),
    fault("C2", lambda rows: text_of(rows).encode("utf-16"), ""),
    fault("C3", lambda rows: text_of(rows).encode("cp1252"), "Windows-1252"),
    fault("C4", lambda rows: text_of(rows, ";").encode(), ""),
    fault("C5", lambda rows: text_of(rows, "\t").encode(), ""),
    fault("C6", lambda rows: text_of(rows, end="\r\n").encode(), ""),
    fault("C7", lambda rows: same(in_column(rows, 4, lambda note: f'"{note}\r\n{note}"')), ""),
    fault("C8", lambda rows: text_of(rows, end=" , ,\n").encode() + b" , \n,,,\n\n", ""),
    fault("C9", lambda rows: same([["SLIDE ID", "Label", "Patient-Id", "SPLIT", "n"], *rows[1:]]),
          ""),
    fault("C10", lambda rows: same([*rows, rows[3]]), "more than once"),
    fault("C12", lambda rows: same(with_row(rows, "nowhere", "lesion", "p", "train")),
          "slide that is not there.*'nowhere'"),
    fault("C18", lambda rows: same(with_row(rows, "1.2E+11", "lesion", "p", "train")),
          "'1.2E.11' .*Excel shortens long numbers"),
    fault("C19", lambda rows: same(with_row(rows, "2-Jan", "lesion", "p", "train")),
          "'2-Jan' .*Excel makes dates"),
)  # fmt: skip


@pytest.mark.parametrize(("table", "told"), SAME)
def test_the_same_run_whatever_the_table_looks_like(
    train, rows, undisturbed, tmp_path, table: Callable[[Rows], bytes], told: str
):
    ended = train(table(rows))
    assert wrong_ending(ended, 0) == []
    assert learned(tmp_path / "run") == undisturbed
    warnings = [line for line in ended.out.splitlines() if line.startswith("warning: ")]
    assert bool(warnings) == bool(told)
    assert re.search(told, " ".join(warnings))


def conflict(rows: Rows) -> Rows:
    other = {"lesion": "normal", "normal": "lesion"}
    return [*rows, [rows[3][0], other[rows[3][1]], *rows[3][2:]]]


def one_patient(rows: Rows) -> Rows:
    """All slides with a lesion are of one patient, and nobody divided them."""
    header, *rest = rows
    return [
        [name for name in header if name != "split"],
        *([row[0], row[1], "p" if row[1] == "lesion" else row[2], row[4]] for row in rest),
    ]


REFUSED: tuple[object, ...] = (
    fault("C11", conflict, r"has label '\w+' on line 4 and '\w+' on line 10"),
    fault("C14", lambda rows: [], "is empty"),
    fault("C15", lambda rows: in_column(rows, 1, lambda _: "lesion"), "only the class 'lesion'"),
    fault("C16", one_patient, r"class 'lesion' has 1, at least 3"),
    fault("C21", lambda rows: in_column(rows, 2, lambda _: "p"), "patient 'p' is in"),
)


@pytest.mark.parametrize(("change", "sentence"), REFUSED)
def test_what_cannot_be_learned_from_is_refused(
    train, rows, tmp_path, change: Callable[[Rows], Rows], sentence: str
):
    ended = train(same(change(rows)))
    assert wrong_ending(ended, 2) == []
    assert re.search(sentence, ended.err), ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("C13")
def test_a_slide_without_label_is_named_and_left_out(train, rows, tmp_path):
    left_out = next(row[0] for row in rows[1:] if row[3] == "train")
    ended = train(same([row for row in rows if row[0] != left_out]))
    assert wrong_ending(ended, 0) == []
    assert re.search(f"warning: .*slides without a row.*{left_out}", ended.out)
    assert left_out not in (tmp_path / "run/splits.csv").read_text()
    assert len((tmp_path / "run/splits.csv").read_text().splitlines()) == 8


@pytest.mark.fault("C22")
def test_without_patients_every_slide_is_its_own(train, rows, undisturbed, tmp_path):
    ended = train(same([[*row[:2], *row[3:]] for row in rows]))
    assert wrong_ending(ended, 0) == []
    assert re.search("warning: .*every slide counts as its own patient", ended.out)
    found = learned(tmp_path / "run")
    assert found[METRICS] == undisturbed[METRICS], "the table itself says who is on which side"


def labels_in(run: Path) -> set[str]:
    with (run / "splits.csv").open(newline="", encoding="utf-8") as handle:
        return {row["label"] for row in csv.DictReader(handle)}


@pytest.mark.parametrize(
    ("lesion", "normal", "told"),
    [fault("C17", "007", "7", "leading zeros"), fault("C20", "NA", "None", "")],
)
def test_classes_are_text(train, rows, tmp_path, lesion: str, normal: str, told: str):
    names = {"lesion": lesion, "normal": normal}
    table = in_column(rows, 1, names.__getitem__)
    if told:
        table = in_column(table, 2, lambda patient: "00" + patient)
    ended = train(same(table))
    assert wrong_ending(ended, 0) == []
    assert labels_in(tmp_path / "run") == {lesion, normal}
    assert told in ended.out


@pytest.mark.parametrize(
    "sign", [fault("C23", "="), fault("C24", "+"), fault("C25", "-"), fault("C26", "@")]
)
def test_no_table_for_people_holds_a_formula(train, cli, rows, store, tmp_path, sign: str):
    formula = f"{sign}SUM(A1)|x"
    table = in_column(rows, 1, lambda label: formula if label == "lesion" else label)
    table = in_column(table, 2, lambda patient: f"{sign}{patient}")
    assert wrong_ending(train(same(table)), 0) == []
    one = store / "slide_001.zarr"
    ended = timed(cli, "predict", tmp_path / "run", one, "-o", tmp_path / "out", "--device", "cpu")
    assert wrong_ending(ended, 0) == []
    tables = [*tmp_path.glob("run/*.csv"), *tmp_path.glob("out/**/*.csv")]
    assert len(tables) > 3
    cells = []
    for path in tables:
        with path.open(newline="", encoding="utf-8") as handle:
            cells += [cell for row in csv.reader(handle) for cell in row]
    assert "'" + formula in cells, "as text"
    begin = re.compile(r"[=+@\t\r]|-(?![0-9.]+([eE][+-]?[0-9]+)?$)")
    assert [cell for cell in cells if begin.match(cell)] == []
