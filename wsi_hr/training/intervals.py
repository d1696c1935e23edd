"""95 % intervals from a formula, for few patients: they stay honest at 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

_Z = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


def auc_interval(value: float, num_positive: int, num_negative: int) -> Interval:
    """95 % interval of a two-class AUC that stays honest at 0 and 1.

    Score interval: the AUCs from which ``value`` is 1.96 standard errors away, the error being
    Hanley and McNeil's at *that* AUC. Source: Newcombe, Statistics in Medicine 2006, method 5.

    Args:
        value: the AUC.
        num_positive: independent observations of the class: patients, not their slides.
        num_negative: likewise of all others.

    Raises:
        ValueError: a class is empty.
    """
    if num_positive < 1 or num_negative < 1:
        raise ValueError("an AUC needs at least one slide of each class")
    shared = (num_positive + num_negative) / 2 - 1

    def error(true: float) -> float:
        spread = 1 + shared * ((1 - true) / (2 - true) + true / (1 + true))
        return math.sqrt(true * (1 - true) * spread / (num_positive * num_negative))

    low = _bisect(lambda true: value - true - _Z * error(true), 0.0, value)
    high = _bisect(lambda true: value - true + _Z * error(true), value, 1.0)
    return Interval(low, high)


def proportion_interval(value: float, num: int) -> Interval:
    """Wilson's score interval of a part of ``num`` independent observations.

    ``value`` need not be a whole number of them: patients with several slides are hit in part.
    """
    middle = (value + _Z**2 / (2 * num)) / (1 + _Z**2 / num)
    half = _Z * math.sqrt(value * (1 - value) / num + _Z**2 / (4 * num**2)) / (1 + _Z**2 / num)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def ratio_interval(
    values_N: npt.NDArray[np.floating], patient_N: npt.NDArray[np.integer]
) -> Interval | None:
    """Interval of a mean over slides of which patients have several, for a mean that is positive.

    Student's t on what each patient adds to the mean. Source: Cochran, Sampling Techniques, 1977,
    section 2.11 (the ratio estimate).

    Returns:
        None: there is one patient.
    """
    num = int(patient_N.max()) + 1
    if num < 2:
        return None
    mean = float(values_N.mean())
    residual_P = np.bincount(patient_N, values_N - mean)
    error = math.sqrt(num / (num - 1) * float((residual_P**2).sum())) / len(values_N)
    half = float(stdtrit(num - 1, 0.975)) * error
    return Interval(max(0.0, mean - half), mean + half)


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that is positive left of its root crosses 0 inside [low, high]."""
    for _ in range(60):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
