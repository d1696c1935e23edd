from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.cohort.same_text import how_they_differ, same_text, twin_key, twins_among

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.mark.parametrize(
    "text",
    ["a b", " a b ", "a  b", "a\u00a0b", "a\u2009b", "a\u202fb", "a\u3000 b", "a\tb", "a\r\nb",
     "\x85a b"],
)  # fmt: skip
def test_blanks_are_one_space(text: str) -> None:
    assert same_text(text) == "a b"


def test_accents_are_composed() -> None:
    assert same_text(unicodedata.normalize("NFD", "Müller é")) == "Müller é"


@given(_texts)
def test_the_one_form_is_its_own(text: str) -> None:
    once = same_text(text)
    assert same_text(once) == once
    assert twin_key(same_text(text)) == twin_key(once)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ("Tumor", "tumor", "letter case differs"),
        ("STRASSE", "Straße", "letter case differs"),
        ("P-1", "P_1", "dashes, underscores or blanks differ"),
        ("P-1", "P1", "dashes, underscores or blanks differ"),
        ("P-1", "P 1", "dashes, underscores or blanks differ"),
        ("P\u20131", "P-1", "dashes, underscores or blanks differ"),
        ("P\u22121", "P\u20101", "dashes, underscores or blanks differ"),
        ("1-1", "1 - 1", "dashes, underscores or blanks differ"),
        ("P1\u200b", "P1", "characters that are not seen differ"),
        ("\ufeffP1", "P1", "characters that are not seen differ"),
        ("P\u00ad1", "P1", "characters that are not seen differ"),
        ("P1\ufe0f", "P1", "characters that are not seen differ"),
        ("007", "7", "leading zeros or decimals of zero differ"),
        ("P-007", "P-7", "leading zeros or decimals of zero differ"),
        ("1", "1.0", "leading zeros or decimals of zero differ"),
        ("7,0", "007", "leading zeros or decimals of zero differ"),
        ("\uff11", "1", "forms of a character differ"),
        ("\uff30\u2460", "P1", "forms of a character differ"),
        ("p-01", "P1", "dashes, underscores or blanks differ and letter case differs and leading"),
    ],
)
def test_twins_and_in_what_they_differ(first: str, second: str, why: str) -> None:
    assert first != second
    assert list(twins_among([first, second, "other"])) == [tuple(sorted((first, second)))]
    assert how_they_differ(first, second).startswith(why)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1-1", "11"), ("1_12", "11_2"), ("-1", "1"), ("\u22121", "1"), ("1.05", "1.5"),
        ("1", "10"), ("P1", "P10"), ("HER2+", "HER2"), ("é", "e"), ("Müller", "Mueller"),
        ("0.5", "5"), ("a", "b"),
    ],
)  # fmt: skip
def test_what_is_not_meant_for_the_same(first: str, second: str) -> None:
    assert list(twins_among([first, second])) == []
