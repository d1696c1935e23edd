"""What the train command makes of tables whose names hardly differ, and of what are no classes."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

import pytest

from wsi_hr.training.intervals import auc_interval


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


QUICK = (
    *("--set", "encoder.name=test_resnet", "--set", "method.num_salient=4"),
    *("--set", "method.num_sub_salient=4", "--set", "method.explore_patches=6"),
    *("--epochs", 1, "--device", "cpu", "--seed", 3),
)


@pytest.fixture
def with_twins(labels, tmp_path) -> Path:
    """The cohort's labels, with a patient of train and one of test who may be the same."""
    rows = rows_of(labels.path)
    for side, name in (("train", "Pat\u00a0007"), ("test", "PAT-7")):
        next(row for row in rows if row["split"] == side)["patient_id"] = name
    return write(tmp_path / "twins.csv", rows)


def test_patients_who_may_be_one_stop_training_until_they_are_told_apart(
    cli, store, with_twins, tmp_path
):
    command = ("train", store, "--labels", with_twins, "-o", tmp_path / "run", *QUICK)
    ended = cli(*command)
    assert ended.code == 2
    for clue in ("'Pat\\xa0007' (train, slide ", "'PAT-7' (test, slide ", "--distinct-patients"):
        assert clue in ended.err
    assert "warning: " in ended.out
    assert "patients that may be meant for the same" in ended.out
    assert not (tmp_path / "run").exists()

    (tmp_path / "distinct.csv").write_text("patient,other\nPat 007,PAT-7\n")
    ended = cli(*command, "--distinct-patients", tmp_path / "distinct.csv")
    assert (ended.code, ended.err) == (0, "")
    patients = {row["patient_id"]: row["split"] for row in rows_of(tmp_path / "run/splits.csv")}
    assert (patients["Pat\u00a0007"], patients["PAT-7"]) == ("train", "test")


def test_measurements_are_not_made_classes(cli, store, labels, tmp_path):
    rows = [row | {"label": str(61 + n)} for n, row in enumerate(rows_of(labels.path))]
    table = write(tmp_path / "ages.csv", rows)
    ended = cli("train", store, "--labels", table, "-o", tmp_path / "run", *QUICK)
    assert ended.code == 2
    assert "holds measurements, not classes: 8 different values on 8 slides" in ended.err
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_where_its_tables_were_written_in_another_form(cli, store, labels, tmp_path):
    rows = [row | {"patient_id": f"Grüße {n}"} for n, row in enumerate(rows_of(labels.path))]
    table = write(tmp_path / "labels.csv", rows)
    command = ("train", store, "--labels", table, "-o", tmp_path / "run", *QUICK)
    assert cli(*command).code == 0
    splits = tmp_path / "run/splits.csv"
    other = unicodedata.normalize("NFD", splits.read_text(encoding="utf-8"))
    splits.write_text(other.replace("e 3", "e  3"), encoding="utf-8")  # as wsi-hr once wrote it
    assert cli(*command).code == 0


def test_figures_count_the_patients_of_their_slides(cli, store, labels, tmp_path):
    rows = [row | {"patient_id": f"of {row['split']}"} for row in rows_of(labels.path)]
    table = write(tmp_path / "labels.csv", rows)
    trained = cli("train", store, "--labels", table, "-o", tmp_path / "run", *QUICK)
    assert trained.code == 0
    for line in ("best: epoch 1: loss ", "held-out slides: loss "):
        (said,) = [text for text in trained.out.splitlines() if text.startswith(line)]
        assert said.endswith(", of 2 slides of 1 patient")
    assert "of 4 slides of 1 patient; val loss " in trained.out
    out = tmp_path / "out"
    assert cli("predict", tmp_path / "run", store, "-o", out, "--device", "cpu").code == 0
    metrics = json.loads((out / "run.json").read_text())["metrics"]
    assert (metrics["slides"], metrics["patients"]) == (2, 1)
    of_two = auc_interval(metrics["auc"], 1, 1)
    assert (metrics["auc_low"], metrics["auc_high"]) == pytest.approx((of_two.low, of_two.high))
