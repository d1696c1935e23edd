from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_hr.cohort.labels import LabelRow
from wsi_hr.cohort.splits import make_splits
from wsi_hr.errors import LabelError


def _rows(num_of: dict[str, int], split: str | None = None) -> list[LabelRow]:
    """One slide per patient, so many of each class."""
    return [
        LabelRow(f"{label}{index:03d}", label, f"p-{label}{index:03d}", split)
        for label, num in num_of.items()
        for index in range(num)
    ]


def _patients(rows: Sequence[LabelRow], sides: dict[str, str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[sides[row.slide_id]].add(row.patient_id)
    return found


@st.composite
def _cohorts(draw: st.DrawFn) -> list[LabelRow]:
    """Patients with one to three slides, at least six of each class, a few with two classes."""
    labels = ["a", "b", "c"][: draw(st.integers(2, 3))]
    rows: list[LabelRow] = []
    for label in labels:
        for index in range(draw(st.integers(6, 30))):
            patient = f"p-{label}{index}"
            for slide in range(draw(st.integers(1, 3))):
                other = draw(st.sampled_from([label] * 9 + labels))
                used = label if slide == 0 else other
                rows.append(LabelRow(f"{patient}-{slide}", used, patient, None))
    return rows


@settings(max_examples=60)
@given(
    rows=_cohorts(),
    val=st.sampled_from([0.0, 0.1, 0.15, 0.3]),
    test=st.sampled_from([0.0, 0.15, 0.2, 0.4]),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_what_every_division_keeps(
    rows: list[LabelRow], val: float, test: float, seed: int, data: st.DataObject
) -> None:
    sides = make_splits(rows, val=val, test=test, seed=seed)
    asked = {"train"} | ({"val"} if val else set()) | ({"test"} if test else set())
    assert sides.keys() == {row.slide_id for row in rows}
    assert set(sides.values()) == asked

    patients = _patients(rows, sides)
    num = len({row.patient_id for row in rows})
    assert sum(map(len, patients.values())) == num, "no patient is on two sides"

    for side in asked:
        assert {row.label for row in rows if sides[row.slide_id] == side} == {
            row.label for row in rows
        }
    num_classes = len({row.label for row in rows})
    for side, fraction in (("val", val), ("test", test)):
        assert abs(len(patients[side]) - fraction * num) <= max(1, num_classes)

    shuffled = data.draw(st.permutations(rows))
    assert make_splits(shuffled, val=val, test=test, seed=seed) == sides


@settings(max_examples=60)
@given(
    num_of=st.lists(st.integers(10, 80), min_size=2, max_size=8),
    val=st.sampled_from([0.1, 0.15, 0.2]),
    test=st.sampled_from([0.1, 0.15, 0.25]),
)
def test_totals_are_exact_and_classes_in_proportion(
    num_of: list[int], val: float, test: float
) -> None:
    rows = _rows({f"c{index}": num for index, num in enumerate(num_of)})
    sides = make_splits(rows, val=val, test=test, seed=1)
    for side, fraction in (("val", val), ("test", test)):
        total = sum(where == side for where in sides.values())
        assert abs(total - fraction * len(rows)) <= 0.5 + 1e-6
        counts = Counter(row.label for row in rows if sides[row.slide_id] == side)
        for index, num in enumerate(num_of):
            assert abs(counts[f"c{index}"] - fraction * num) < 2


def test_what_does_not_divide_goes_where_the_class_is_short() -> None:
    deviations = []
    for more in range(20):
        num_of = {f"c{num}": num + more for num in (11, 17, 23, 31, 40)}
        rows = _rows(num_of)
        sides = make_splits(rows, val=0.15, test=0.15, seed=0)
        counts = Counter((row.label, sides[row.slide_id]) for row in rows)
        for label, num in num_of.items():
            for side, fraction in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
                deviations.append(abs(counts[label, side] - fraction * num))
    # the nearest whole number of every count would give 0.25; by totals alone it is over 0.4
    assert sum(deviations) / len(deviations) < 0.35


def test_the_seed_chooses_and_the_same_seed_repeats() -> None:
    rows = _rows({"a": 20, "b": 20})
    draws = [make_splits(rows, val=0.2, test=0.2, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_the_draw_does_not_change_between_versions() -> None:
    """A resumed run finds the splits it was started with."""
    sides = make_splits(_rows({"a": 5, "b": 4}), val=0.25, test=0.25, seed=0)
    assert " ".join(where for _, where in sorted(sides.items())) == (
        "test train train val train val train train test"
    )


def test_a_rare_class_is_on_every_side() -> None:
    rows = _rows({"common": 200, "rare": 3})
    sides = make_splits(rows, val=0.05, test=0.05, seed=0)
    assert {sides[row.slide_id] for row in rows if row.label == "rare"} == {"train", "val", "test"}
    common = Counter(sides[row.slide_id] for row in rows if row.label == "common")
    assert common == {"train": 180, "val": 10, "test": 10}


def test_patients_of_two_classes_count_for_both() -> None:
    rows = [
        LabelRow(f"{patient}-{label}", label, f"p{patient}", None)
        for patient in range(3)
        for label in ("a", "b")
    ]
    sides = make_splits(rows, val=0.2, test=0.2, seed=0)
    assert Counter(sides.values()) == {"train": 2, "val": 2, "test": 2}


def test_six_pairs_have_one_kind_of_division_and_it_is_found() -> None:
    pairs = ["ab", "ac", "ad", "bc", "bd", "cd"]  # each side must hold two that complement
    rows = [LabelRow(pair + label, label, pair, None) for pair in pairs for label in pair]
    patients = _patients(rows, make_splits(rows, val=0.3, test=0.3, seed=0))
    assert {frozenset(side) for side in patients.values()} == {
        frozenset({"ab", "cd"}),
        frozenset({"ac", "bd"}),
        frozenset({"ad", "bc"}),
    }


def test_classes_that_share_patients_leave_each_other_some() -> None:
    """Class ``z`` has three patients, each also the third of another class that comes first."""
    patients = {
        f"{block}{index}{suffix}": f"a{block}{index}" + (f" z{block}" if suffix == "z" else "")
        for block in range(6)
        for index in range(3)
        for suffix in ("x", "y", "z")
    }
    rows = [LabelRow(f"{p}-{c}", c, p, None) for p, both in patients.items() for c in both.split()]
    sides = make_splits(rows, val=0.3, test=0.3, seed=0)
    for label in {row.label for row in rows}:
        assert {sides[row.slide_id] for row in rows if row.label == label} == set(sides.values())


def test_a_division_that_cannot_be_is_refused() -> None:
    lines = ["124", "235", "346", "457", "561", "672", "713"]  # Fano's plane: no such colouring
    rows = [LabelRow(f"{line}-{p}", line, p, None) for line in lines for p in line]
    with pytest.raises(LabelError, match="patients have slides of several classes"):
        make_splits(rows, val=0.3, test=0.3, seed=0)


@pytest.mark.parametrize(
    ("num", "val", "test", "way_out"),
    [
        (1, 0.2, 0.2, "--set split.test=0 --set split.val=0"),
        (2, 0.2, 0.2, "--set split.test=0"),
        (1, 0.2, 0.0, "--set split.val=0"),
        (1, 0.0, 0.2, "--set split.test=0"),
    ],
)
def test_a_class_with_too_few_patients_is_refused_with_a_way_out_that_works(
    num: int, val: float, test: float, way_out: str
) -> None:
    rows = _rows({"common": 20, "rare": num})
    with pytest.raises(LabelError) as caught:
        make_splits(rows, val=val, test=test, seed=0)
    assert f"class 'rare' has {num}" in str(caught.value)
    assert str(caught.value).endswith(way_out)
    kept = {
        side: fraction
        for side, fraction in (("val", val), ("test", test))
        if f"split.{side}=0" not in way_out
    }
    make_splits(rows, val=kept.get("val", 0), test=kept.get("test", 0), seed=0)


def test_many_slides_of_one_patient_do_not_make_a_class_large_enough() -> None:
    rows = _rows({"common": 20})
    rows += [LabelRow(f"rare{index}", "rare", "one patient", None) for index in range(9)]
    with pytest.raises(LabelError, match="class 'rare' has 1"):
        make_splits(rows, val=0.2, test=0.2, seed=0)


def test_a_given_split_is_kept() -> None:
    rows = [
        *_rows({"a": 3, "b": 3}, "training"),
        *[replace(row, slide_id=f"v{row.slide_id}", patient_id=f"v{row.patient_id}")
          for row in _rows({"a": 1, "b": 1}, "Validation")],
        *[replace(row, slide_id=f"t{row.slide_id}", patient_id=f"t{row.patient_id}")
          for row in _rows({"a": 2}, "held-out")],
    ]  # fmt: skip
    sides = make_splits(rows, val=0.4, test=0.4, seed=0)
    expected = {"t": "test", "v": "val"}
    assert sides == {r.slide_id: expected.get(r.slide_id[0], "train") for r in rows}


def test_missing_val_is_drawn_from_train_and_never_from_test() -> None:
    rows = [
        *_rows({"a": 20, "b": 20}, "train"),
        *[replace(row, slide_id=f"t{row.slide_id}", patient_id=f"t{row.patient_id}")
          for row in _rows({"a": 20, "b": 1}, "test")],
    ]  # fmt: skip
    draws = [make_splits(rows, val=0.2, test=0.9 - 0.2, seed=seed) for seed in range(5)]
    for sides in draws:
        assert all((sides[r.slide_id] == "test") == (r.split == "test") for r in rows)
        drawn = Counter(r.label for r in rows if sides[r.slide_id] == "val")
        assert drawn == {"a": 4, "b": 4}
    assert len({tuple(sorted(sides.items())) for sides in draws}) > 1


def test_no_val_is_drawn_when_none_is_asked_for() -> None:
    rows = _rows({"a": 2, "b": 2}, "train")
    assert set(make_splits(rows, val=0, test=0.2, seed=0).values()) == {"train"}


def test_too_few_training_patients_to_draw_val_from() -> None:
    with pytest.raises(LabelError, match="class 'b' has 1.*--set split.val=0"):
        make_splits(_rows({"a": 9, "b": 1}, "train"), val=0.2, test=0, seed=0)


def test_a_patient_on_both_sides_is_refused() -> None:
    rows = _rows({"a": 3, "b": 3}, "train")
    rows.append(LabelRow("again", "a", "p-a001", "test"))
    with pytest.raises(LabelError) as caught:
        make_splits(rows, val=0.2, test=0, seed=0)
    for clue in ("'p-a001'", "train (slide 'a001')", "test (slide 'again')"):
        assert clue in str(caught.value)


def test_rows_without_split_beside_rows_with_one_are_refused() -> None:
    rows = [*_rows({"a": 3}, "train"), *_rows({"b": 7})]
    with pytest.raises(LabelError, match="7 labelled slide.*'b000'.*and 2 more"):
        make_splits(rows, val=0.2, test=0.2, seed=0)


def test_a_class_that_is_never_trained_is_refused() -> None:
    rows = [*_rows({"a": 3, "b": 3}, "train"), *_rows({"c": 3}, "test")]
    with pytest.raises(LabelError, match="no slide in train of 'c'"):
        make_splits(rows, val=0, test=0, seed=0)


def test_an_unknown_side_is_refused() -> None:
    rows = _rows({"a": 3, "b": 3}, "fold 1")
    with pytest.raises(LabelError, match="'fold 1' is not train, val or test"):
        make_splits(rows, val=0, test=0, seed=0)


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (0.5, 0.5), (float("nan"), 0.1)])
def test_fractions_that_leave_nothing_are_our_callers_mistake(val: float, test: float) -> None:
    with pytest.raises(ValueError, match="fractions"):
        make_splits(_rows({"a": 5, "b": 5}), val=val, test=test, seed=0)
