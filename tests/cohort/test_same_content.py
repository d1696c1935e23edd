from __future__ import annotations

import pytest

from wsi_hr.cohort.labels import LabelRow
from wsi_hr.cohort.same_content import check_same_content, same_content
from wsi_hr.errors import LabelError

TRAIN = {"a": "train", "b": "train", "c": "train"}
SAME = {"a": ["1", "x"], "b": ["1", "y"], "c": ["2", "z"]}


def test_slides_that_share_a_digest_are_the_same() -> None:
    assert same_content({"a": ["1", "x"], "b": ["2", "y"]}) == []
    assert same_content({"a": ["1", ""], "b": ["2", ""]}) == [], "no pixels, no digest of them"
    assert same_content(SAME) == [("a", "b")]
    chain = {"d": ["4", "v"], "a": ["1", "x"], "c": ["2", "y"], "b": ["1", "y"], "e": ["3", "v"]}
    assert same_content(chain) == [("d", "e"), ("a", "c", "b")]


def _row(slide_id: str, label: str = "x", patient: str | None = None) -> LabelRow:
    return LabelRow(slide_id, label, patient or slide_id, None)


def test_a_slide_that_counts_twice_is_told() -> None:
    rows = [_row("a", patient="P"), _row("b", patient="P"), _row("c")]
    (said,) = check_same_content(rows, TRAIN, SAME)
    assert said.startswith("'a' and 'b' have the same content")
    assert check_same_content(rows, TRAIN, {"a": ["1"], "b": ["2"], "c": ["3"]}) == []


def test_slides_without_patients_are_not_of_different_ones() -> None:
    assert len(check_same_content([_row("a"), _row("b"), _row("c")], TRAIN, SAME)) == 1


@pytest.mark.parametrize(
    ("rows", "split_of", "why"),
    [
        ([_row("a", "x", "P"), _row("b", "y", "P")], TRAIN, "label 'x' and 'y'"),
        ([_row("a", "x", "P"), _row("b", "x", "Q")], TRAIN, "patient 'P' and 'Q'"),
        ([_row("a", "x", "P"), _row("b", "x")], TRAIN, "patient 'P' and 'b'"),
        ([_row("a"), _row("b")], TRAIN | {"b": "test"}, "split 'train' and 'test'"),
        (
            [_row("a", "x", "P"), _row("b", "y", "Q")],
            TRAIN | {"b": "val"},
            "label 'x' and 'y', patient 'P' and 'Q', split 'train' and 'val'",
        ),
    ],
)
def test_the_same_slide_under_two_names_is_refused_with_both(rows, split_of, why) -> None:
    with pytest.raises(LabelError) as caught:
        check_same_content([*rows, _row("c")], split_of, SAME)
    assert f"'a' and 'b' ({why})" in str(caught.value)
