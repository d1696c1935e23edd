"""Slides are told apart by what they hold: copies are found, and a name alone proves nothing."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from pipelines import copies
from pipelines.predict import predict_stage
from pipelines.settings import resolve
from pipelines.tile import tile_stage
from pipelines.train import LabelsSource, train_stage
from pipelines.verify import verify_stage
from wsi_hr.errors import LabelError, StoreReadError

HELD_OUT = ("slide_005", "slide_007")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture
def to() -> Console:
    return Console(file=io.StringIO(), width=40)


def said(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def tiled(slides: Path, store: Path) -> None:
    rows = tile_stage([slides], store, resolve("demo", {}, ()).tile, workers=1)
    assert {row["status"] for row in rows} == {"done"}


@pytest.fixture
def with_copy(own_store, cohort, tmp_path) -> Path:
    """The store, with a copy of slide_001 that a later run tiled under another name."""
    slides = tmp_path / "slides"
    slides.mkdir()
    shutil.copy(cohort / "slides/slide_001.svs", slides / "copy.svs")
    tiled(slides, own_store)
    return own_store


def test_copies_are_found_over_several_runs(own_store, cohort, tmp_path, caplog):
    slides = tmp_path / "slides"
    slides.mkdir()
    content = (cohort / "slides/slide_001.svs").read_bytes()
    (slides / "copy.svs").write_bytes(content)
    (slides / "other_metadata.svs").write_bytes(content + b"\0")
    with caplog.at_level(logging.WARNING):
        tiled(slides, own_store)
    assert "copy and other_metadata and slide_001 have identical content" in caplog.text
    reasons = {row["slide_id"]: row["reason"] for row in rows_of(own_store / "status.csv")}
    assert reasons["copy"] == "identical content as other_metadata and slide_001"
    assert reasons["slide_001"] == "identical content as copy and other_metadata"
    assert reasons["slide_002"] == ""

    shutil.rmtree(own_store / "copy.zarr")
    shutil.rmtree(own_store / "other_metadata.zarr")
    caplog.clear()
    tiled(cohort / "slides", own_store)
    assert "identical" not in caplog.text
    assert {row["reason"] for row in rows_of(own_store / "status.csv")} == {""}


def test_a_slide_that_cannot_be_compared_is_told(own_store, cohort, tmp_path, caplog, monkeypatch):
    read = copies.read_digests

    def failing(path: Path):
        if path.name == "slide_002.zarr":
            raise StoreReadError(f"{path}: cannot be read (Input/output error)")
        return read(path)

    monkeypatch.setattr(copies, "read_digests", failing)
    with caplog.at_level(logging.WARNING):
        tiled(cohort / "slides", own_store)
    assert "slide_002.zarr: cannot be read" in caplog.text
    assert "its content is not compared" in caplog.text


def test_another_slide_of_the_same_name_does_not_take_a_place_unseen(
    cohort, own_store, tmp_path, caplog
):
    for folder, content in (("moved", "slide_001"), ("elsewhere", "slide_002")):
        (tmp_path / folder).mkdir()
        shutil.copy(cohort / f"slides/{content}.svs", tmp_path / folder / "slide_001.svs")
    with caplog.at_level(logging.WARNING):
        tiled(tmp_path / "moved", own_store)
    assert caplog.text == "", "the same file, somewhere else"
    with caplog.at_level(logging.WARNING):
        tiled(tmp_path / "elsewhere", own_store)
    assert "slide_001: the slide of this name is another file now" in caplog.text
    assert "slide_001 and slide_002 have identical content" in caplog.text


def test_verify_names_both_of_a_folder_or_of_two(with_copy, store, tmp_path):
    (problem,) = verify_stage([with_copy]).problems
    assert "copy.zarr" in problem
    assert "slide_001.zarr: the same slide under several names" in problem
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copytree(with_copy / "copy.zarr", lone / "copy.zarr")
    (problem,) = verify_stage([lone / "copy.zarr", store / "slide_001.zarr"]).problems
    assert "the same slide under several names" in problem
    both = verify_stage([store / "slide_001.zarr", with_copy / "slide_001.zarr"])
    assert both.problems == (), "one name in two folders is one slide"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"label": "other"}, "label "),
        ({"patient_id": "somebody"}, "patient "),
        ({"split": "other"}, "split "),
    ],
)
def test_training_refuses_one_slide_as_two(with_copy, labels, settings, tmp_path, change, why):
    rows = rows_of(labels.path)
    first = next(row for row in rows if row["slide_id"] == "slide_001")
    values = {row[name] for row in rows for name in change} - set(first.values())
    other = {name: min(values) if value == "other" else value for name, value in change.items()}
    if "split" in change:  # the patient of both is the same, so the table must name none
        rows, first = ([{**row, "patient_id": ""} for row in rows], first | {"patient_id": ""})
    table = write(tmp_path / "labels.csv", [*rows, first | {"slide_id": "copy"} | other])
    with pytest.raises(LabelError) as caught:
        train_stage(with_copy, LabelsSource(table), tmp_path / "run", settings(), None)
    assert f"'copy' and 'slide_001' ({why}" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_training_tells_of_one_slide_that_counts_twice(with_copy, labels, settings, tmp_path, to):
    rows = rows_of(labels.path)
    first = next(row for row in rows if row["slide_id"] == "slide_001")
    table = write(tmp_path / "labels.csv", [*rows, first | {"slide_id": "copy"}])
    config = settings("train.epochs=1")
    train_stage(with_copy, LabelsSource(table), tmp_path / "run", config, to)
    assert "warning: 'copy' and 'slide_001' have the same content" in said(to)
    stores = {row["slide_id"]: row for row in rows_of(tmp_path / "run/stores.csv")}
    assert stores["copy"]["source_sha256"] == stores["slide_001"]["source_sha256"] != ""
    assert stores["copy"]["pixels_sha256"] == stores["slide_001"]["pixels_sha256"] != ""


def test_another_slide_of_the_same_name_is_not_scored(run, cohort, tmp_path, to):
    """Another hospital's 1.svs: here slides of train under the names of those held out."""
    slides = tmp_path / "slides"
    slides.mkdir()
    for name, content in zip(HELD_OUT, ("slide_001", "slide_002"), strict=True):
        shutil.copy(cohort / f"slides/{content}.svs", slides / f"{name}.svs")
    report = predict_stage(run, [slides], tmp_path / "out", device="cpu", console=to)
    assert [row.status for row in report.rows] == ["done", "done"]
    assert report.metrics == {}
    splits = {row["slide_id"]: row["split"] for row in rows_of(run / "splits.csv")}
    assert {splits["slide_001"], splits["slide_002"]} != {"test"}
    assert "'slide_005' is 'slide_001'" in said(to)


def test_a_slide_that_the_run_never_saw_is_told_by_its_name(run, cohort, tmp_path, to):
    slides = tmp_path / "slides"
    slides.mkdir()
    other = cohort / "slides/slide_001.svs"
    (slides / "slide_005.svs").write_bytes(other.read_bytes())
    run = shutil.copytree(run, tmp_path / "run")
    stores = rows_of(run / "stores.csv")
    write(run / "stores.csv", [row for row in stores if row["slide_id"] != "slide_001"])
    report = predict_stage(run, [slides], tmp_path / "out", device="cpu", console=to)
    assert report.metrics == {}
    assert "called like one of the run and are another" in said(to)
    assert ": 1: 'slide_005'" in said(to)


def test_held_out_slides_are_scored_under_any_name_and_once(run, predicted, cohort, tmp_path, to):
    slides = tmp_path / "slides"
    slides.mkdir()
    for name, content in (("x", "slide_005"), ("y", "slide_007"), ("z", "slide_007")):
        shutil.copy(cohort / f"slides/{content}.svs", slides / f"{name}.svs")
    content = (cohort / "slides/slide_005.svs").read_bytes()
    (slides / "x.svs").write_bytes(content + b"\0")  # as metadata that somebody took away
    report = predict_stage(run, [slides], tmp_path / "out", split="test", device="cpu", console=to)
    assert [row.slide_id for row in report.rows] == ["x", "y"]
    before = json.loads((predicted / "run.json").read_text())["metrics"]
    assert report.metrics == pytest.approx(before)
    assert "slides of the run under another name: 2: 'x' is 'slide_005', 'y' is" in said(to)
    assert "given twice, and count once: 1: 'z' is 'y'" in said(to)


@pytest.mark.parametrize(
    ("columns", "warning"),
    [
        (("slide_id", "patches", "sha256"), "without the SHA-256 of slides"),
        ((), "known by their names only"),
    ],
)
def test_runs_of_earlier_builds_are_scored_and_what_they_lack_is_said(
    own_run, store, predicted, tmp_path, to, columns, warning
):
    stores = own_run / "stores.csv"
    rows = [{column: row[column] for column in columns} for row in rows_of(stores)]
    stores.unlink() if not columns else write(stores, rows)
    report = predict_stage(own_run, [store], tmp_path / "out", device="cpu", console=to)
    assert report.metrics == json.loads((predicted / "run.json").read_text())["metrics"]
    assert f"warning: {own_run}" in said(to)
    assert warning in said(to)


def test_a_run_of_an_earlier_build_is_resumed_and_then_knows_its_slides(
    own_run, run, store, labels, settings
):
    stores = own_run / "stores.csv"
    columns = ("slide_id", "patches", "sha256")
    write(stores, [{column: row[column] for column in columns} for row in rows_of(stores)])
    train_stage(store, labels, own_run, settings(), None)
    assert stores.read_bytes() == (run / "stores.csv").read_bytes()
