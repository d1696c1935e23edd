"""Tables read back to exactly what was predicted, and open harmlessly in a spreadsheet."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from wsi_hr.geometry import Pair, PatchGrid
from wsi_hr.prediction.exports.tables import (
    PATCH_COLUMNS,
    PredictionRow,
    write_patch_scores,
    write_predictions,
)
from wsi_hr.slide_prediction import Role, SlidePrediction


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def predict(num_patches: int, patch_px0: Pair) -> SlidePrediction:
    rng = np.random.default_rng(0)
    grid = PatchGrid(
        coords=rng.integers(0, 100_000, (num_patches, 2)).astype(np.int32),
        cells=rng.integers(0, 400, (num_patches, 2)).astype(np.int32),
        shape=(400, 400),
        tissue=np.ones(num_patches, np.float32),
        patch_px0=patch_px0,
    )
    saliency = (10 ** rng.uniform(-30, 0, num_patches)).astype(np.float32)
    role = rng.integers(0, 4, num_patches).astype(np.uint8)
    return SlidePrediction("s", np.array([0.5, 0.5], np.float32), saliency, role, grid)


@pytest.mark.parametrize(
    ("patch_px0", "shown"),
    [(Pair(512.0, 512.0), ("512", "512")), (Pair(447.9, 448.25), ("447.9", "448.25"))],
)
def test_patch_scores_read_back_exactly(patch_px0, shown, tmp_path: Path):
    prediction = predict(500, patch_px0)
    write_patch_scores(tmp_path / "s.csv", prediction)
    rows = read(tmp_path / "s.csv")
    assert tuple(rows[0]) == PATCH_COLUMNS
    coords = np.array([(int(row["x0"]), int(row["y0"])) for row in rows])
    cells = np.array([(int(row["row"]), int(row["col"])) for row in rows])
    saliency = np.array([row["saliency"] for row in rows]).astype(np.float32)
    assert (coords == prediction.grid.coords).all()
    assert (cells == prediction.grid.cells).all()
    assert (saliency == prediction.saliency).all()
    assert [Role[row["role"].upper()] for row in rows] == prediction.role.tolist()
    assert {(row["width0"], row["height0"]) for row in rows} == {shown}


def test_a_slide_without_patches_is_a_table_without_rows(tmp_path: Path):
    write_patch_scores(tmp_path / "s.csv", predict(0, Pair(1.0, 1.0)))
    assert (tmp_path / "s.csv").read_text() == ",".join(PATCH_COLUMNS) + "\n"


def test_every_slide_is_in_the_table_predicted_or_not(tmp_path: Path):
    rows = [
        PredictionRow("a", "done", "", probs=(0.25, 0.75), predicted="lesion", num_patches=7),
        PredictionRow("b", "failed", "b.svs: no mpp, give --mpp-override\nor a manifest"),
    ]
    write_predictions(tmp_path / "p.csv", rows, ["normal", "lesion"])
    done, failed = read(tmp_path / "p.csv")
    assert list(done) == [
        "slide_id", "prob_normal", "prob_lesion", "predicted", "num_patches", "status", "reason",
    ]  # fmt: skip
    assert (float(done["prob_normal"]), float(done["prob_lesion"])) == (0.25, 0.75)
    assert (done["predicted"], done["num_patches"], done["status"]) == ("lesion", "7", "done")
    assert (failed["prob_normal"], failed["predicted"], failed["num_patches"]) == ("", "", "0")
    assert failed["reason"] == rows[1].reason


def test_cells_cannot_be_formulas(tmp_path: Path):
    rows = [PredictionRow("=cmd|' /C calc'!A0", "done", "", (1.0,), predicted="@SUM(1)")]
    write_predictions(tmp_path / "p.csv", rows, ["@SUM(1)"])
    cells = [cell for row in read(tmp_path / "p.csv") for cell in row.values()]
    assert [cell for cell in cells if cell.startswith(("=", "@", "+", "-"))] == []


def test_probabilities_must_fit_the_classes(tmp_path: Path):
    rows = [PredictionRow("a", "done", "", probs=(0.2, 0.3, 0.5), predicted="x")]
    with pytest.raises(ValueError, match="3 probabilities for 2 classes"):
        write_predictions(tmp_path / "p.csv", rows, ["x", "y"])
    assert list(tmp_path.iterdir()) == []
