from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, t

from wsi_hr.training.intervals import auc_interval, proportion_interval, ratio_interval


@pytest.mark.parametrize(("positive", "negative"), [(8, 8), (5, 40), (100, 300)])
@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_interval_solves_its_own_equation(value: float, positive: int, negative: int) -> None:
    interval = auc_interval(value, positive, negative)
    assert 0 <= interval.low <= value <= interval.high <= 1
    for bound in (interval.low, interval.high):
        if bound in (0.0, 1.0) or abs(bound - value) < 1e-9:
            continue
        n = (positive + negative) / 2 - 1
        variance = bound * (1 - bound) / (positive * negative)
        variance *= 1 + n * (1 - bound) / (2 - bound) + n * bound / (1 + bound)
        assert abs(value - bound) == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-4)


def test_a_perfect_auc_of_few_slides_is_not_certain() -> None:
    few, many = auc_interval(1.0, 8, 8), auc_interval(1.0, 80, 80)
    assert few.high == many.high == pytest.approx(1.0, abs=1e-6)
    assert few.low < 0.85 < many.low < 1


def test_an_empty_class_is_refused() -> None:
    with pytest.raises(ValueError, match="each class"):
        auc_interval(0.5, 0, 3)


@pytest.mark.parametrize(("hits", "num"), [(0, 1), (1, 1), (3, 8), (8, 8), (50, 200)])
def test_a_proportion_has_wilsons_interval(hits: int, num: int) -> None:
    expected = binomtest(hits, num).proportion_ci(method="wilson")
    found = proportion_interval(hits / num, num)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_mean_of_single_slides_has_students_interval() -> None:
    values = np.random.default_rng(0).uniform(1, 2, 12)
    found = ratio_interval(values, np.arange(12))
    expected = t.interval(0.95, 11, values.mean(), values.std(ddof=1) / math.sqrt(12))
    assert found is not None
    assert (found.low, found.high) == pytest.approx(expected)


def test_equal_slides_of_a_patient_count_once() -> None:
    values = np.random.default_rng(1).uniform(1, 2, 12)
    once, often = (
        ratio_interval(np.repeat(values, times), np.repeat(np.arange(12), times))
        for times in (1, 7)
    )
    assert once is not None
    assert often is not None
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert ratio_interval(values, np.zeros(12, int)) is None
