from __future__ import annotations

import math

import numpy as np
import pytest

from wsi_hr.training.metrics import auc, auc_interval, slide_metrics


def test_two_classes() -> None:
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    metrics = slide_metrics(probs, np.array([0, 0, 1, 1]))
    assert metrics["auc"] == pytest.approx(0.75)
    assert metrics["accuracy"] == pytest.approx(0.5)
    assert metrics["loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.3]).mean())


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_part_of_pairs_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 6, 30) / 6  # with ties
    labels = rng.permutation(np.arange(30) % 3 == 0).astype(int)
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in score[labels == 1]
        for n in score[labels == 0]
    ]
    assert auc(np.stack([1 - score, score], 1), labels) == pytest.approx(np.mean(pairs))


def test_auc_of_three_classes_is_the_mean_over_those_that_occur() -> None:
    probs = np.array([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.6, 0.1, 0.3], [0.2, 0.3, 0.5]])
    labels = np.array([0, 0, 2, 2])
    # class 0: 0.8 > 0.6, 0.2; 0.5 > 0.2 only: 3 of 4 pairs. Class 2: all 4.
    assert auc(probs, labels) == pytest.approx((3 / 4 + 1) / 2)


def test_balanced_accuracy_weighs_classes_evenly_also_when_one_is_never_predicted() -> None:
    probs = np.array([[0.9, 0.1, 0.0]] * 3 + [[0.1, 0.9, 0.0]])
    metrics = slide_metrics(probs, np.array([0, 0, 0, 2]))
    assert metrics["balanced_accuracy"] == pytest.approx(0.5)


def test_one_class_has_no_auc() -> None:
    metrics = slide_metrics(np.array([[0.9, 0.1]]), np.array([0]))
    assert "auc" not in metrics


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
