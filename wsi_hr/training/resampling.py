"""Figures over draws of patients with replacement (the bootstrap), many draws at a time.

Letters: N slides or patches, C classes, B draws, G groups of equal scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from wsi_hr.runtime import rng_for
from wsi_hr.training.intervals import Interval

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

NUM_DRAWS = 1000
_MANY_SCORES = 4096  # of more different ones, neighbours are taken together for the draws
_LEVELS = 256  # so many are then left, each of as many slides
_TAILS = (0.025, 0.975)


class Resampled:
    """How a figure varies over draws of patients; a patient's slides are drawn together.

    The draws depend on the number of patients alone.

    Args:
        patient_N: whose each slide is, numbered from 0.
    """

    def __init__(self, patient_N: IntArray) -> None:
        num = int(patient_N.max()) + 1
        self._patient_N = patient_N
        draws_BP = rng_for("patients", num).multinomial(num, np.full(num, 1 / num), NUM_DRAWS)
        self._draws_BP = draws_BP.astype(np.float64)

    def of_mean(self, values_N: FloatArray) -> Interval:
        """Of a mean over slides."""
        return self._middle(self._sums(values_N) / self._sums(np.ones(len(values_N))))

    def of_class_mean(self, values_N: FloatArray, labels_N: IntArray) -> Interval:
        """Of the mean over the classes that occur of their means over slides."""
        with np.errstate(invalid="ignore"):  # a draw may lack a class
            means = [
                self._sums(values_N * (labels_N == c)) / self._sums(labels_N == c)
                for c in np.unique(labels_N)
            ]
        return self._middle(np.mean(means, axis=0))

    def of_auc(self, probs_NC: FloatArray, labels_N: IntArray, classes: Sequence[int]) -> Interval:
        """Of the mean area under the ROC curves of ``classes``, each against the rest."""
        areas_BC = [self._areas(probs_NC[:, c], labels_N == c) for c in classes]
        return self._middle(np.mean(areas_BC, axis=0))

    def _areas(
        self, score_N: FloatArray, inside_N: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        """Area under the ROC curve of every draw; NaN where a draw has one side only."""
        group_N = np.unique(score_N, return_inverse=True)[1]
        if int(group_N.max()) >= _MANY_SCORES:
            num_upto_G = np.cumsum(np.bincount(group_N))
            group_N = (num_upto_G[group_N] - 1) * _LEVELS // len(group_N)
        shape = int(group_N.max()) + 1, self._draws_BP.shape[1]
        inside_GB, outside_GB = (
            csr_array((side_N.astype(np.float64), (group_N, self._patient_N)), shape)
            @ self._draws_BP.T
            for side_N in (inside_N, ~inside_N)
        )
        below_GB = np.cumsum(outside_GB, axis=0) - outside_GB / 2
        pairs_B = inside_GB.sum(0) * outside_GB.sum(0)
        with np.errstate(invalid="ignore"):
            return (inside_GB * below_GB).sum(0) / pairs_B

    def _sums(self, values_N: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        """Of every draw, the sum over its slides."""
        return self._draws_BP @ np.bincount(
            self._patient_N, values_N.astype(np.float64), self._draws_BP.shape[1]
        )

    def _middle(self, figures_B: npt.NDArray[np.float64]) -> Interval:
        low, high = np.nanquantile(figures_B, _TAILS)
        return Interval(float(low), float(high))


def one_versus_rest(probs_NC: FloatArray, labels_N: IntArray, c: int) -> float:
    """Area under the ROC curve of class ``c`` against all others; ties count half."""
    _, group_N = np.unique(probs_NC[:, c], return_inverse=True)
    inside = labels_N == c
    inside_G = np.bincount(group_N[inside], minlength=int(group_N.max()) + 1)
    outside_G = np.bincount(group_N[~inside], minlength=int(group_N.max()) + 1)
    below_G = np.cumsum(outside_G) - outside_G / 2
    return float((inside_G * below_G).sum() / (inside_G.sum() * outside_G.sum()))
