from __future__ import annotations

from pathlib import Path

import pytest

from wsi_hr.cohort.distinct_patients import (
    DistinctPatients,
    read_distinct_patients,
    refuse_twins_apart,
)
from wsi_hr.cohort.labels import LabelRow
from wsi_hr.errors import LabelError


def _rows(*patients: str) -> list[LabelRow]:
    return [LabelRow(f"slide{n}", "x", patient, None) for n, patient in enumerate(patients)]


def _sides(rows: list[LabelRow], *sides: str) -> dict[str, str]:
    return {row.slide_id: side for row, side in zip(rows, sides, strict=True)}


TWINS = [
    ("007", "7"), ("P-1", "p_1"), ("Müller", "müller"), ("P1", "P1\u200b"), ("1.0", "1"),
    ("A\u20137", "A7"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), TWINS)
def test_patients_who_may_be_one_are_not_on_two_sides(first: str, second: str) -> None:
    rows = _rows(first, second, "other")
    refuse_twins_apart(rows, _sides(rows, "train", "train", "test"))
    with pytest.raises(LabelError) as caught:
        refuse_twins_apart(rows, _sides(rows, "train", "test", "val"))
    for clue in (
        f"{first!r} (train, slide 'slide0')",
        f"{second!r} (test, slide 'slide1')",
        "--distinct-patients",
    ):
        assert clue in str(caught.value)
    assert "other" not in str(caught.value)


def test_three_who_may_be_one_are_named_in_pairs() -> None:
    rows = _rows("7", "07", "007")
    with pytest.raises(LabelError) as caught:
        refuse_twins_apart(rows, _sides(rows, "train", "train", "test"))
    assert "'007' (test, slide 'slide2') and '07' (train, slide 'slide1')" in str(caught.value)
    assert "'007' (test, slide 'slide2') and '7' (train, slide 'slide0')" in str(caught.value)


def test_slides_that_stand_for_themselves_are_not_compared() -> None:
    rows = [LabelRow(name, "x", name, None) for name in ("a_1", "a-1")]
    refuse_twins_apart(rows, {"a_1": "train", "a-1": "test"})
    rows.append(LabelRow("b", "x", "A1", None))
    with pytest.raises(LabelError, match="'A1'"):
        refuse_twins_apart(rows, {"a_1": "train", "a-1": "train", "b": "test"})


@pytest.mark.parametrize(
    "text",
    [
        "patient,other\n007,7\n",
        "patient;other\n7;007\n",
        "patient\n007\n",
        "first,second,third\n7,,007\n",
        "patient\n 7 \n",
    ],
)
def test_somebody_says_that_they_differ(tmp_path: Path, text: str) -> None:
    path = tmp_path / "distinct.csv"
    path.write_text(text)
    rows = _rows("007", "7", "other")
    refuse_twins_apart(
        rows, _sides(rows, "train", "test", "val"), read_distinct_patients(path, rows)
    )


def test_only_those_who_were_named_differ(tmp_path: Path) -> None:
    path = tmp_path / "distinct.csv"
    path.write_text("patient,other\n007,7\n")
    rows = _rows("007", "7", "p1", "P1")
    distinct = read_distinct_patients(path, rows)
    assert distinct == DistinctPatients(frozenset({frozenset({"007", "7"})}))
    with pytest.raises(LabelError) as caught:
        refuse_twins_apart(rows, _sides(rows, "train", "test", "train", "test"), distinct)
    assert "'P1'" in str(caught.value)
    assert "007" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("007,7\n", "line 1: names patients; put a header line above it"),
        ("patient,other\n007,77\n", "line 2: no labelled slide is of patient '77'"),
        ("patient,other\n", "names no patient"),
        ("", "is empty"),
    ],
)
def test_a_table_that_does_not_say_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "distinct.csv"
    path.write_text(text)
    with pytest.raises(LabelError, match=said):
        read_distinct_patients(path, _rows("007", "7"))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="cannot be read"):
        read_distinct_patients(tmp_path / "none.csv", _rows("007", "7"))
