"""How good predictions are: loss, accuracy, AUC, each with the interval that its patients allow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsi_hr.training.intervals import Interval, auc_interval, proportion_interval, ratio_interval
from wsi_hr.training.resampling import Resampled, one_versus_rest

__all__ = ["Interval", "auc", "auc_interval", "slide_metrics"]

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

FEW_PATIENTS = 20
"""With fewer of them in a class, intervals come from a formula instead of from resampling."""

_LEAST_PROB = 1e-12


def slide_metrics(
    probs_NC: FloatArray, labels_N: IntArray, patients: Sequence[str] | IntArray | None = None
) -> dict[str, float]:
    """Loss (negative log likelihood), accuracy, balanced accuracy and AUC of N slides, or patches.

    AUC is that of the second class for two classes, the mean of one-versus-rest over the classes
    that occur otherwise; it and balanced accuracy are left out where only one class occurs.

    Every figure has its 95 % interval beside it, as ``<name>_low`` and ``<name>_high``, but for the
    loss of one patient alone. What counts in it is patients: the slides of one are drawn together
    or not at all. With :data:`FEW_PATIENTS` in every class it is the middle 95 % of the figure over
    1,000 draws of patients with replacement, the same draws each time. With fewer, or where the
    figure is 0 or 1, of which resampling knows no doubt, it is a score interval for as many
    observations as there are patients.

    Args:
        probs_NC: probabilities of N slides and C classes.
        labels_N: index of the true class.
        patients: whose each slide is; None: each is a patient's only one.

    Returns:
        The figures, their intervals, ``slides`` (N) and ``patients``.
    """
    if patients is None:
        patients = np.arange(len(labels_N))
    patient_N = np.unique(np.asarray(patients), return_inverse=True)[1]
    num_patients = int(patient_N.max()) + 1
    present = np.unique(labels_N)
    patients_of = {c: len(np.unique(patient_N[labels_N == c])) for c in present}
    losses_N = -np.log(np.maximum(picked(probs_NC, labels_N), _LEAST_PROB))
    hits_N = (probs_NC.argmax(1) == labels_N).astype(np.float64)
    resampled = None
    if min(patients_of.values()) >= FEW_PATIENTS:
        resampled = Resampled(patient_N)

    figures: dict[str, float] = {"loss": float(losses_N.mean()), "accuracy": float(hits_N.mean())}
    intervals: dict[str, Interval | None] = {
        "loss": resampled.of_mean(losses_N) if resampled else ratio_interval(losses_N, patient_N),
        "accuracy": resampled.of_mean(hits_N)
        if resampled and 0 < figures["accuracy"] < 1
        else proportion_interval(figures["accuracy"], num_patients),
    }
    if len(present) > 1:
        recalls = {c: float(hits_N[labels_N == c].mean()) for c in present}
        figures["balanced_accuracy"] = float(np.mean(list(recalls.values())))
        figures["auc"] = auc(probs_NC, labels_N)
        if resampled and 0 < figures["balanced_accuracy"] < 1:
            intervals["balanced_accuracy"] = resampled.of_class_mean(hits_N, labels_N)
        else:
            intervals["balanced_accuracy"] = _mean_interval(
                [proportion_interval(recalls[c], patients_of[c]) for c in present]
            )
        if resampled and 0 < figures["auc"] < 1:
            intervals["auc"] = resampled.of_auc(probs_NC, labels_N, _compared(probs_NC, labels_N))
        else:
            intervals["auc"] = _score_interval_of_auc(probs_NC, labels_N, patient_N)
    for name, interval in intervals.items():
        if interval is not None:
            figures |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return figures | {"slides": len(labels_N), "patients": num_patients}


def loss_metrics(
    losses_N: FloatArray, patients: Sequence[str] | IntArray, name: str
) -> dict[str, float]:
    """The mean of ``losses_N`` as ``name``, with its interval as in :func:`slide_metrics`."""
    patient_N = np.unique(np.asarray(patients), return_inverse=True)[1]
    interval = ratio_interval(losses_N, patient_N)
    figures = {name: math.fsum(losses_N) / len(losses_N)}
    if interval is not None:
        figures |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return figures


def picked(probs_NC: FloatArray, labels_N: IntArray) -> npt.NDArray[np.float64]:
    """The probability of the true class of every slide."""
    return probs_NC[np.arange(len(labels_N)), labels_N].astype(np.float64)


def auc(probs_NC: FloatArray, labels_N: IntArray) -> float:
    """Area under the ROC curve; see :func:`slide_metrics` for more than two classes."""
    areas = [one_versus_rest(probs_NC, labels_N, c) for c in _compared(probs_NC, labels_N)]
    return float(np.mean(areas))


def _compared(probs_NC: FloatArray, labels_N: IntArray) -> list[int]:
    """The classes that are told apart from the rest."""
    return [1] if probs_NC.shape[1] == 2 else np.unique(labels_N).tolist()


def _score_interval_of_auc(
    probs_NC: FloatArray, labels_N: IntArray, patient_N: IntArray
) -> Interval:
    """Of one class, or as wide as the mean over several can be: that of their bounds."""
    return _mean_interval(
        [
            auc_interval(
                one_versus_rest(probs_NC, labels_N, c),
                len(np.unique(patient_N[labels_N == c])),
                len(np.unique(patient_N[labels_N != c])),
            )
            for c in _compared(probs_NC, labels_N)
        ]
    )


def _mean_interval(intervals: Sequence[Interval]) -> Interval:
    low, high = np.mean([(interval.low, interval.high) for interval in intervals], axis=0)
    return Interval(float(low), float(high))
