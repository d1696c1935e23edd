from __future__ import annotations

import pytest

from wsi_hr.cohort.excel_damage import bare_number, damage_of, says_nothing


@pytest.mark.parametrize(
    "cell",
    ["TCGA-2-JAN", "2-1", "12-34", "Jan", "jan-2-b", "MARS", "1E5", "1.2E-11", "E+11", "7", "007",
     "32.13.2024", "2024-13-01", "2024-01", "1-2.24", "99999", "4492", "449270", "17000", "60000"],
)  # fmt: skip
def test_ordinary_names_are_not_suspected(cell: str) -> None:
    assert damage_of(cell) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("007", "7"), ("7", "7"), ("7.0", "7"), ("7,00", "7"), ("0", "0"), ("000", "0"), ("70", "70")],
)
def test_whole_numbers_without_their_zeros(text: str, number: str) -> None:
    assert bare_number(text) == number


@pytest.mark.parametrize("text", ["", "7.5", "7a", "-7", "1E+7", "٧"])
def test_what_has_no_zeros_to_lose(text: str) -> None:
    assert bare_number(text) is None


@pytest.mark.parametrize(
    "cell",
    ["2-Jan", "1/2/24", "13/1/2024", "1/13/2024", "2024-01-02", "2024/1/2", "02.01.2024",
     "2024-01-02 00:00:00", "2024-01-02T10:00:00Z", "Jan 2, 2024", "2 January 2024",
     "1/2/24 9:30 AM"],
)  # fmt: skip
def test_dates_in_every_form_of_a_spreadsheet(cell: str) -> None:
    assert "dates" in (damage_of(cell) or "")


@pytest.mark.parametrize(
    ("cell", "day"), [("44927", "2023-01-01"), ("18264", "1950-01-01"), ("45000.5", "2023-03-15")]
)
def test_numbers_that_are_days(cell: str, day: str) -> None:
    assert damage_of(cell) == f"Excel keeps the date {day} as this number"


@pytest.mark.parametrize(
    "cell",
    ["nan", "NaN", "NA", "n/a", "N.A.", "None", "NULL", "<NA>", "NaT", "unknown", "?", "-", "#N/A",
     "#N/A N/A", "#NV", "#REF!", "#NAME?", "#DIV/0!", "#WERT!", "#¡VALOR!", "1.#QNAN"],
)  # fmt: skip
def test_what_is_written_for_nothing(cell: str) -> None:
    assert says_nothing(cell)


@pytest.mark.parametrize(
    "cell", ["", "Nadia", "N1", "naevus", "0", "#12", "#A1", "non", "nothing!"]
)
def test_what_means_something(cell: str) -> None:
    assert not says_nothing(cell)
