from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    roc_auc_score,
)

from wsi_hr.training import resampling
from wsi_hr.training.intervals import auc_interval, proportion_interval
from wsi_hr.training.metrics import FEW_PATIENTS, auc, loss_metrics, slide_metrics
from wsi_hr.training.resampling import Resampled

FIGURES = ("loss", "accuracy", "balanced_accuracy", "auc")


def predictions(
    seed: int, num: int, num_classes: int, steps: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that know something of the labels; in few steps, so that many are equal."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num)
    score = rng.normal(size=(num, num_classes))
    score[np.arange(num), labels] += 1
    if steps is not None:
        score = np.round(score * steps) / steps
    return np.exp(score) / np.exp(score).sum(1, keepdims=True), labels


def interval(metrics: dict[str, float], name: str) -> tuple[float, float]:
    return metrics[f"{name}_low"], metrics[f"{name}_high"]


def test_two_classes() -> None:
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    metrics = slide_metrics(probs, np.array([0, 0, 1, 1]))
    assert metrics["auc"] == pytest.approx(0.75)
    assert metrics["accuracy"] == pytest.approx(0.5)
    assert metrics["loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.3]).mean())
    assert (metrics["slides"], metrics["patients"]) == (4, 4)


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
    assert "auc_low" not in metrics


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steps", [None, 2, 1], ids=["no ties", "ties", "many ties"])
@pytest.mark.parametrize("num_classes", [2, 3, 6])
def test_figures_are_those_of_scikit_learn(seed: int, steps: int | None, num_classes: int) -> None:
    probs, labels = predictions(seed, 40, num_classes, steps)
    if num_classes > 2:
        labels[labels == 1] = 0  # a class that does not occur among the slides
    metrics = slide_metrics(probs, labels)
    expected = log_loss(labels, probs, labels=range(num_classes))
    assert metrics["loss"] == pytest.approx(expected)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, probs.argmax(1)))
    expected = balanced_accuracy_score(labels, probs.argmax(1))
    assert metrics["balanced_accuracy"] == pytest.approx(expected)
    areas = [roc_auc_score(labels == c, probs[:, c]) for c in np.unique(labels)]
    assert metrics["auc"] == pytest.approx(areas[1] if num_classes == 2 else np.mean(areas))


# intervals


def test_what_counts_in_an_interval_is_patients() -> None:
    """Eight slides of two patients say what two slides do, not what eight do."""
    probs, labels = predictions(0, 8, 2)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    patients = [*"aaaabbbb"]
    metrics = slide_metrics(probs, labels, patients)
    assert (metrics["slides"], metrics["patients"]) == (8, 2)
    of_two = auc_interval(metrics["auc"], 1, 1)
    assert interval(metrics, "auc") == pytest.approx((of_two.low, of_two.high))
    of_two = proportion_interval(metrics["accuracy"], 2)
    assert interval(metrics, "accuracy") == pytest.approx((of_two.low, of_two.high))
    alone = slide_metrics(probs, labels)
    for name in FIGURES:
        assert metrics[name] == alone[name]
        narrow, wide = np.diff(interval(alone, name)), np.diff(interval(metrics, name))
        assert narrow < wide


@pytest.mark.parametrize("num", [6, 60], ids=["few patients", "many patients"])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_more_slides_of_the_same_patients_say_no_more(num: int, num_classes: int) -> None:
    probs, labels = predictions(1, num * num_classes, num_classes)
    labels = np.arange(len(labels)) % num_classes
    once = slide_metrics(probs, labels, np.arange(len(labels)))
    again = slide_metrics(
        np.repeat(probs, 5, 0), np.repeat(labels, 5), np.repeat(np.arange(len(labels)), 5)
    )
    for name in FIGURES:
        assert again[name] == pytest.approx(once[name])
        assert interval(again, name) == pytest.approx(interval(once, name), abs=1e-6)
    assert again["patients"] == once["patients"]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_many_patients_are_drawn_again_and_again(monkeypatch, num_classes: int) -> None:
    """The same draws, one by one, with scikit-learn."""
    monkeypatch.setattr(resampling, "NUM_DRAWS", 60)
    probs, labels = predictions(2, 200, num_classes, steps=3)
    patients = np.random.default_rng(3).integers(0, 90, 200)
    metrics = slide_metrics(probs, labels, patients)
    _, patient = np.unique(patients, return_inverse=True)
    draws = Resampled(patient)._draws_BP
    assert draws.shape == (60, patient.max() + 1)
    assert (draws.sum(1) == patient.max() + 1).all()
    picked = probs[np.arange(200), labels]
    figures = []
    for draw in draws[:, patient]:
        drawn = draw > 0
        areas = [
            roc_auc_score(labels[drawn] == c, probs[drawn, c], sample_weight=draw[drawn])
            for c in ([1] if num_classes == 2 else range(num_classes))
        ]
        balanced = balanced_accuracy_score(labels, probs.argmax(1), sample_weight=draw)
        accuracy = accuracy_score(labels, probs.argmax(1), sample_weight=draw)
        loss = np.average(-np.log(picked), weights=draw)
        figures.append((loss, accuracy, balanced, np.mean(areas)))
    bounds = np.quantile(figures, [0.025, 0.975], axis=0)
    for name, low, high in zip(FIGURES, *bounds, strict=True):
        assert interval(metrics, name) == pytest.approx((low, high), abs=1e-9)
        assert low < metrics[name] < high


def test_intervals_are_the_same_each_time_and_whatever_patients_are_called() -> None:
    probs, labels = predictions(4, 120, 2)
    patients = [f"p{number % 60:02}" for number in range(120)]
    first = slide_metrics(probs, labels, patients)
    assert slide_metrics(probs, labels, patients) == first
    assert slide_metrics(probs, labels, [f"Q{name}" for name in patients]) == first


@pytest.mark.parametrize("sign", [1, -1])
def test_at_the_ends_the_interval_is_that_of_the_formula(sign: int) -> None:
    """Drawing patients of a perfect result gives perfect results: no doubt where there is some."""
    labels = np.arange(100) % 2
    second = np.where(labels == 1, 0.7, 0.3) if sign > 0 else np.where(labels == 1, 0.3, 0.7)
    metrics = slide_metrics(np.stack([1 - second, second], 1), labels)
    assert metrics["auc"] == metrics["accuracy"] == (1.0 if sign > 0 else 0.0)
    of_formula = auc_interval(metrics["auc"], 50, 50)
    assert interval(metrics, "auc") == pytest.approx((of_formula.low, of_formula.high))
    of_formula = proportion_interval(metrics["accuracy"], 100)
    assert interval(metrics, "accuracy") == pytest.approx((of_formula.low, of_formula.high))


@pytest.mark.parametrize("num_classes", [2, 4])
def test_every_figure_lies_in_its_interval(num_classes: int) -> None:
    for seed in range(30):
        probs, labels = predictions(seed, 7 + 9 * seed, num_classes, steps=2)
        patients = np.random.default_rng(seed).integers(0, 4 + 6 * seed, len(labels))
        metrics = slide_metrics(probs, labels, patients)
        for name in FIGURES:
            if name in metrics and f"{name}_low" in metrics:
                low, high = interval(metrics, name)
                assert 0 <= low <= metrics[name] + 1e-9
                assert metrics[name] - 1e-9 <= high
                assert name == "loss" or high <= 1


def test_intervals_hold_what_they_promise_where_patients_have_several_slides(monkeypatch) -> None:
    """95 of 100 hold the truth; those that take slides for patients do not."""
    monkeypatch.setattr(resampling, "NUM_DRAWS", 200)
    rng = np.random.default_rng(5)
    num_patients, each, truth = 60, 6, 0.760  # of two normal scores one deviation apart
    assert num_patients // 2 >= FEW_PATIENTS
    held = {"patients": 0, "slides": 0}
    for _ in range(60):
        labels = np.repeat(np.arange(num_patients) % 2, each)
        score = np.repeat(rng.normal(size=num_patients), each) + labels
        second = 1 / (1 + np.exp(-score))
        probs = np.stack([1 - second, second], 1)
        for name, patients in (("patients", np.repeat(np.arange(num_patients), each)),
                               ("slides", None)):  # fmt: skip
            low, high = interval(slide_metrics(probs, labels, patients), "auc")
            held[name] += low <= truth <= high
    assert held["patients"] >= 52
    assert held["slides"] <= 45


def test_of_very_many_scores_neighbours_are_taken_together() -> None:
    probs, labels = predictions(6, 20_000, 2)
    patients = np.arange(20_000) % 50
    few = Resampled(patients).of_auc(np.round(probs, 3), labels, [1])
    many = Resampled(patients).of_auc(probs, labels, [1])
    assert (many.low, many.high) == pytest.approx((few.low, few.high), abs=2e-3)
    assert slide_metrics(probs, labels, patients)["auc"] == pytest.approx(
        roc_auc_score(labels, probs[:, 1])
    )


def test_one_patient_alone_gives_no_interval_of_the_loss() -> None:
    probs, labels = predictions(7, 6, 2)
    metrics = slide_metrics(probs, labels, ["p"] * 6)
    assert "loss_low" not in metrics
    assert interval(metrics, "accuracy")[1] - interval(metrics, "accuracy")[0] > 0.7
    assert loss_metrics(np.array([1.0, 2.0]), ["p", "p"], "patch_loss") == {"patch_loss": 1.5}
    of_two = loss_metrics(np.array([1.0, 2.0]), ["p", "q"], "patch_loss")
    assert of_two["patch_loss"] == 1.5
    assert of_two["patch_loss_low"] == 0 < 1.5 < of_two["patch_loss_high"]
