"""Predictions as CSV tables: one row per patch, one row per slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_hr.cohort.table import write_table
from wsi_hr.slide_prediction import Role, SlidePrediction

PATCH_COLUMNS: tuple[str, ...] = ("x0", "y0", "width0", "height0", "row", "col", "saliency", "role")


@dataclass(frozen=True)
class PredictionRow:
    """How one input slide ended.

    Attributes:
        slide_id: which slide.
        status: ``done``, or what else became of it.
        reason: why it is not done; empty otherwise.
        probs: probability of each class, in the order of the classes; empty when not predicted.
        predicted: name of the class that is predicted; empty when there is none.
        num_patches: patches the prediction is made of.
    """

    slide_id: str
    status: str
    reason: str
    probs: tuple[float, ...] = ()
    predicted: str = ""
    num_patches: int = 0


def write_patch_scores(
    path: Path, prediction: SlidePrediction, patch_classes: Sequence[str] = ()
) -> None:
    """Write a row per patch in store order; coordinates and sizes are level-0 px.

    Where the prediction has probabilities of the ``patch_classes``, each of these gets a column
    ``prob_<class>`` behind the others. Numbers are the shortest text that reads back as the same
    float, so nothing is lost.
    """
    grid = prediction.grid
    width0, height0 = (_shortest(edge) for edge in grid.patch_px0)
    role_names = {role.value: role.name.lower() for role in Role}
    probs_NK = prediction.patch_probs
    if probs_NK is None:
        probs_NK, patch_classes = np.zeros((len(grid), 0), np.float32), ()
    columns = (*PATCH_COLUMNS, *(f"prob_{name}" for name in patch_classes))
    rows = (
        dict(
            zip(
                columns,
                (
                    *(str(x0), str(y0), width0, height0, str(row), str(col), score),
                    role_names[role],
                    *map(str, probs_K),
                ),
                strict=True,
            )
        )
        for (x0, y0), (row, col), score, role, probs_K in zip(
            grid.coords.tolist(),
            grid.cells.tolist(),
            map(str, prediction.saliency),  # str of a float32 is shorter than of the float64
            prediction.role.tolist(),
            probs_NK,
            strict=True,
        )
    )
    write_table(path, columns, rows)


def write_predictions(path: Path, rows: Sequence[PredictionRow], classes: Sequence[str]) -> None:
    """Write a row per slide, those without a prediction included.

    Raises:
        ValueError: a row has another number of probabilities than there are classes.
    """
    prob_columns = [f"prob_{name}" for name in classes]
    columns = ["slide_id", *prob_columns, "predicted", "num_patches", "status", "reason"]
    write_table(path, columns, [_cells(row, prob_columns) for row in rows])


def _cells(row: PredictionRow, prob_columns: Sequence[str]) -> dict[str, str]:
    probs = [f"{prob:.6f}" for prob in row.probs] or [""] * len(prob_columns)
    if len(probs) != len(prob_columns):
        raise ValueError(
            f"{row.slide_id}: {len(probs)} probabilities for {len(prob_columns)} classes"
        )
    return {
        "slide_id": row.slide_id,
        **dict(zip(prob_columns, probs, strict=True)),
        "predicted": row.predicted,
        "num_patches": str(row.num_patches),
        "status": row.status,
        "reason": row.reason,
    }


def _shortest(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)
