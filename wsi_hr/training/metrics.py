"""How good predictions are: AUC with an honest interval, accuracy, loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


def slide_metrics(probs_NC: FloatArray, labels_N: npt.NDArray[np.integer]) -> dict[str, float]:
    """Loss (negative log likelihood), balanced accuracy, and AUC of N slides, or N patches.

    AUC is that of the second class for two classes, the mean of one-versus-rest over the classes
    that occur otherwise; it is left out where only one class occurs.
    """
    picked = probs_NC[np.arange(len(labels_N)), labels_N].astype(np.float64)
    metrics = {
        "loss": float(-np.log(np.maximum(picked, 1e-12)).mean()),
        "accuracy": float((probs_NC.argmax(1) == labels_N).mean()),
    }
    present = np.unique(labels_N)
    if len(present) > 1:
        hits = probs_NC.argmax(1) == labels_N
        metrics["balanced_accuracy"] = float(np.mean([hits[labels_N == c].mean() for c in present]))
        metrics["auc"] = auc(probs_NC, labels_N)
    return metrics


def auc(probs_NC: FloatArray, labels_N: npt.NDArray[np.integer]) -> float:
    """Area under the ROC curve; see :func:`slide_metrics` for more than two classes."""
    from sklearn.metrics import roc_auc_score  # a second or more to import: not for every command

    classes = [1] if probs_NC.shape[1] == 2 else np.unique(labels_N)
    return float(np.mean([roc_auc_score(labels_N == c, probs_NC[:, c]) for c in classes]))


def auc_interval(value: float, num_positive: int, num_negative: int) -> Interval:
    """95 % interval of a two-class AUC that stays honest at 0 and 1.

    Score interval: the AUCs from which ``value`` is 1.96 standard errors away, the error being
    Hanley and McNeil's at *that* AUC. Source: Newcombe, Statistics in Medicine 2006, method 5.

    Raises:
        ValueError: a class is empty.
    """
    if num_positive < 1 or num_negative < 1:
        raise ValueError("an AUC needs at least one slide of each class")
    shared = (num_positive + num_negative) / 2 - 1

    def error(true: float) -> float:
        spread = 1 + shared * ((1 - true) / (2 - true) + true / (1 + true))
        return math.sqrt(true * (1 - true) * spread / (num_positive * num_negative))

    z = 1.959963984540054
    low = _bisect(lambda true: value - true - z * error(true), 0.0, value)
    high = _bisect(lambda true: value - true + z * error(true), value, 1.0)
    return Interval(low, high)


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that is positive left of its root crosses 0 inside [low, high]."""
    for _ in range(60):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
