from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.errors import SlideError
from wsi_hr.geometry import Mpp
from wsi_hr.slides.mpp import (
    WAY_OUT,
    MppClaim,
    judge_mpp,
    overriding_mpp,
    parse_number,
    resolution,
    stated,
)

VENDOR = "openslide.mpp-x"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.25", 0.25),
        (" 0,4990 ", 0.499),
        ("1e-1", 0.1),
        ("-1", -1.0),
        (".5", 0.5),
        ("28.969000000000001", 28.969),
    ],
)
def test_numbers_are_read_with_point_or_comma(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text",
    [None, "", "nan", "inf", "-inf", "1_0", "0.25 um", "1.234,5", "0,2,5", "٠.٢٥", "0x1", "."],
)
def test_what_is_no_number_is_nan(text):
    assert math.isnan(parse_number(text))


@pytest.mark.parametrize(
    ("claim", "power", "expected"),
    [
        (stated(VENDOR, "0.2522", "0.2523"), 40.0, (0.2522, 0.2523)),
        (stated("aperio.MPP", "0,4990"), 20.0, (0.499, 0.499)),
        (stated(VENDOR, "28.969", "28.968"), None, (28.969, 28.968)),  # an overview scan
        (stated(VENDOR, "0.5"), 40.0, (0.5, 0.5)),  # 20x optics sold as 40x
        (stated("ome.PhysicalSizeX", "227.1", unit_um=1e-3), None, (0.2271, 0.2271)),
        (resolution(40_000, 40_000, "centimeter"), None, (0.25, 0.25)),
        (resolution(101_600, 101_600, "inch"), 40.0, (0.25, 0.25)),
        (resolution(40_000, math.nan, "centimeter"), None, (0.25, 0.25)),
    ],
)
def test_plausible_claims_are_believed(claim, power, expected):
    mpp, problem = judge_mpp([claim], power)
    assert problem is None
    assert (mpp.x, mpp.y) == pytest.approx(expected)
    assert mpp.source == claim.source


@pytest.mark.parametrize(
    ("claim", "power", "why"),
    [
        (resolution(72, 72, "inch"), None, "352.8 um/px (72 dpi)"),
        (resolution(300, 300, "inch"), None, "(300 dpi)"),
        (resolution(10, 10, "centimeter"), None, "1000 x 1000 um/px"),
        (stated(VENDOR, "0.00499"), None, "outside the plausible 0.05 to 100"),
        (stated(VENDOR, "250"), None, "outside the plausible 0.05 to 100"),  # nanometres
        (stated(VENDOR, "0.25", "0.5"), None, "more oblong"),
        (stated(VENDOR, "0.25", "0.28"), None, "more oblong"),
        (stated(VENDOR, "4.99"), 20.0, "an objective of 20x gives about 0.5"),
        (stated(VENDOR, "0.07"), 40.0, "an objective of 40x gives about 0.25"),
        (resolution(15_748, 15_748, "centimeter"), 40.0, "px per inch and px per cm"),
        (resolution(101_600, 101_600, "centimeter"), 40.0, "px per inch and px per cm"),
    ],
)
def test_implausible_claims_are_refused_with_the_way_out(claim, power, why):
    mpp, problem = judge_mpp([claim], power)
    assert mpp is None
    assert why in problem
    assert problem.endswith(WAY_OUT)
    assert "--mpp-override" in problem
    assert "manifest" in problem


@pytest.mark.parametrize("text", ["0", "-0.25", "nan", "", "unknown"])
def test_a_claim_that_is_no_positive_number_makes_way_for_the_next(text):
    first, second = stated(VENDOR, text), stated("aperio.MPP", "0.25")
    assert judge_mpp([first, second], None).mpp == Mpp(0.25, 0.25, "aperio.MPP")
    mpp, problem = judge_mpp([first], None)
    assert mpp is None
    assert problem == f"{VENDOR} is not a positive number; {WAY_OUT}"


def test_an_implausible_claim_is_not_passed_over_for_a_lesser_one():
    mpp, problem = judge_mpp([stated(VENDOR, "0.001"), resolution(40_000, 40_000, "inch")], None)
    assert mpp is None
    assert VENDOR in problem


def test_no_claim_at_all_is_said_so():
    assert judge_mpp([], 40.0).problem == f"no mpp in its metadata; {WAY_OUT}"


@pytest.mark.parametrize("unit", [None, "none", "furlong"])
def test_a_resolution_without_a_unit_of_length_claims_nothing(unit):
    assert resolution(40_000, 40_000, unit) is None


@given(st.floats(allow_nan=True), st.floats(allow_nan=True), st.booleans(), st.floats(0, 200))
def test_whatever_is_claimed_only_plausible_values_come_out(x, y, tagged, power):
    mpp, problem = judge_mpp([MppClaim(x, y, "somewhere", tagged=tagged)], power)
    assert (mpp is None) == (problem is not None)
    if mpp is not None:
        high = 10 if tagged else 100
        assert 0.05 <= min(mpp.x, mpp.y) <= max(mpp.x, mpp.y) <= high
        assert max(mpp.x, mpp.y) <= 1.1 * min(mpp.x, mpp.y)
        if power > 0:
            assert 1 / 3 <= mpp.mean * power / 10 <= 3


@given(st.floats(0.05, 10))
def test_every_plausible_value_is_believed_from_any_source(value):
    for claim in (stated(VENDOR, repr(value)), resolution(10_000 / value, math.nan, "centimeter")):
        mpp = judge_mpp([claim], None).mpp
        if mpp is None:  # at the very border the division may round across it
            assert value == pytest.approx(0.05) or value == pytest.approx(10)
        else:
            assert mpp.x == pytest.approx(value)


@pytest.mark.parametrize("value", [0.0, -0.25, math.nan, math.inf, 250.0, 0.00025])
def test_an_override_that_cannot_be_um_per_px_is_refused(value):
    with pytest.raises(SlideError, match=r"a\.svs: --mpp-override gives .* e\.g\. 0\.25"):
        overriding_mpp(value, "--mpp-override", Path("a.svs"))


def test_an_override_is_taken_with_its_source():
    assert overriding_mpp(0.25, "manifest", Path("a.svs")) == Mpp(0.25, 0.25, "manifest")
