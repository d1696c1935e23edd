"""Figures in words, and the figures of a run against an independent implementation."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, roc_auc_score

from pipelines.figures import epoch_in_words, in_words, slides_of_patients
from wsi_hr.training.metrics import slide_metrics


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return {row["slide_id"]: row for row in csv.DictReader(handle)}


def test_no_figure_is_without_its_slides_patients_and_interval() -> None:
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    metrics = slide_metrics(probs, np.array([0, 0, 1, 1]), [*"abca"])
    said = in_words(metrics)
    for name in ("loss", "accuracy", "balanced accuracy", "AUC"):
        assert f"{name} 0." in said
    assert said.count(" (95 % 0.") == 4
    assert said.endswith("), of 4 slides of 3 patients")
    row = {"epoch": 6, "train_loss": 0.4} | {f"val_{name}": v for name, v in metrics.items()}
    line = epoch_in_words(row, slides_of_patients(9, 1))
    assert line.startswith("epoch 7: loss 0.400 of 9 slides of 1 patient; val loss 0.")
    assert "val AUC 0.750 (95 % 0." in line
    assert line.count("(95 % ") == 2
    assert line.endswith(", of 4 slides of 3 patients")


def test_those_of_patches_have_their_own_counts() -> None:
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    of_patches = slide_metrics(probs, np.array([0, 0, 1, 1]), [*"aabb"])
    metrics = slide_metrics(probs[:2], np.array([0, 1]), [*"ab"])
    metrics["patch_count"] = of_patches.pop("slides")
    metrics |= {f"patch_{name}": value for name, value in of_patches.items()}
    slides, patches = in_words(metrics).split("; ")
    assert slides.endswith(", of 2 slides of 2 patients")
    assert patches.startswith("patch loss 0.")
    assert patches.count(" (95 % ") == 4
    assert patches.endswith(", of 4 patches of 2 patients")


def test_what_has_no_interval_says_so() -> None:
    metrics = slide_metrics(np.array([[0.9, 0.1]]), np.array([0]))
    assert in_words(metrics).startswith("loss 0.105 (no interval), accuracy 1.000 (95 % 0.2")
    assert in_words(metrics).endswith("of 1 slide of 1 patient")


def test_an_epoch_that_an_earlier_build_judged_is_said_as_it_was() -> None:
    row = {"epoch": 0, "train_loss": 0.7, "val_loss": 0.9, "val_auc": 1.0}
    assert epoch_in_words(row, "4 slides of 4 patients") == (
        "epoch 1: loss 0.700 of 4 slides of 4 patients; "
        "val loss 0.900 (no interval), val AUC 1.000 (no interval)"
    )


@pytest.mark.parametrize(
    ("side", "prefix", "part"), [("test", "", "test"), ("val", "val_", "best")]
)
def test_the_figures_of_a_run_are_those_of_scikit_learn(run, predicted, side, prefix, part) -> None:
    record = json.loads((run / "run.json").read_text())
    splits, predictions = rows_of(run / "splits.csv"), rows_of(predicted / "predictions.csv")
    slides = [slide_id for slide_id, row in splits.items() if row["split"] == side]
    assert slides
    classes = record["classes"]
    probs = np.array([[float(predictions[s][f"prob_{c}"]) for c in classes] for s in slides])
    probs /= probs.sum(1, keepdims=True)  # of the rounding in the table
    labels = np.array([classes.index(splits[s]["label"]) for s in slides])
    expected = {
        "loss": log_loss(labels, probs, labels=range(len(classes))),
        "accuracy": accuracy_score(labels, probs.argmax(1)),
        "balanced_accuracy": balanced_accuracy_score(labels, probs.argmax(1)),
        "auc": roc_auc_score(labels, probs[:, 1]),
        "slides": len(slides),
        "patients": len({splits[s]["patient_id"] for s in slides}),
    }
    found = {name: record[part][f"{prefix}{name}"] for name in expected}
    assert found == pytest.approx(expected, abs=1e-5)
    if side == "test":
        metrics = json.loads((predicted / "run.json").read_text())["metrics"]
        assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        assert metrics["auc_low"] <= metrics["auc"] <= metrics["auc_high"]
