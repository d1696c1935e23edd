from __future__ import annotations

import pytest

from wsi_hr.cohort.excel_damage import bare_number, damage_of


@pytest.mark.parametrize(
    "cell",
    ["TCGA-2-JAN", "2-1", "12-34", "Jan", "jan-2-b", "MARS", "1E5", "1.2E-11", "E+11", "7", "007"],
)
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
