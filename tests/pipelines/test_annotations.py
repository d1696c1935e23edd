"""Annotations of planted lesions, from files to tables; and what does not fit is told."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pipelines.predict import CLASS_MAPS, HEATMAPS, PATCHES, predict_stage
from pipelines.run_folder import ANNOTATIONS
from pipelines.train import LabelsSource, train_stage
from wsi_hr.config import Config, resolve_config
from wsi_hr.errors import AnnotationError, ConfigError, WsiHrError
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.testing.lesions import Ellipse, load_lesions
from wsi_hr.training.loop import BEST, LAST, METRICS

DENSE = (
    "method.name=patchgd", "method.head=window", "method.heads=1", "method.sample=0.25",
    "train.epochs=2", "train.lr=0.003",
)  # fmt: skip


@pytest.fixture(scope="module")
def dense(settings) -> Config:
    """Settings that learn classes of patches; those of DBPS left out."""
    config = settings("method.name=dbps")
    recipe = config.model_dump(exclude_unset=True)
    recipe.pop("method")
    return resolve_config(recipe, {}, DENSE)


def outline(ellipse: Ellipse) -> list[list[float]]:
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    along, across = ellipse.a_px0 * np.cos(turn), ellipse.b_px0 * np.sin(turn)
    cos, sin = np.cos(ellipse.angle), np.sin(ellipse.angle)
    x, y = ellipse.x0 + along * cos - across * sin, ellipse.y0 + along * sin + across * cos
    ring = np.stack([x, y], 1).tolist()
    return [*ring, ring[0]]


def geojson(*rings: list, name: str = "Lesion") -> str:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for ring in rings
    ]
    return json.dumps({"type": "FeatureCollection", "features": features})


@pytest.fixture
def folder(cohort, tmp_path) -> Path:
    """Annotations of all slides but one of the train side."""
    path = tmp_path / "annotations"
    path.mkdir()
    for slide_id, planted in load_lesions(cohort).items():
        if slide_id != unannotated(cohort):
            text = geojson(*map(outline, planted.lesions))
            (path / f"{slide_id}.geojson").write_text(text)
    return path


def unannotated(cohort: Path) -> str:
    with (cohort / "labels.csv").open() as handle:
        rows = csv.DictReader(handle)
        return next(r["slide_id"] for r in rows if (r["label"], r["split"]) == ("normal", "train"))


def said_by(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def test_what_is_said_and_written_of_patches(store, cohort, labels, dense, folder, tmp_path):
    (folder / "elsewhere.xml").write_text("<ASAP_Annotations/>")
    to, run = Console(file=io.StringIO(), width=40), tmp_path / "run"
    report = train_stage(store, labels, run, dense, to, annotations=folder)
    said = said_by(to)
    assert "annotations of no labelled slide: 1 of 8: elsewhere.xml" in said
    bare = unannotated(cohort)
    assert f"slides without annotations, whose patches are not learned from: 1 of 8: '{bare}'" in (
        said
    )
    assert "annotation classes: Lesion" in said
    assert "val patch AUC" in said
    history = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    assert {"val_patch_auc", "val_patch_balanced_accuracy", "val_patch_loss"} <= history[0].keys()
    record = json.loads((run / "run.json").read_text())
    assert record["test"] == report.test
    assert record["config"]["dense"]["classes"] == ["Lesion"]
    with (run / ANNOTATIONS).open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["file"] for row in rows] == sorted(path.name for path in folder.glob("*.geojson"))

    predict_stage(run, [store], tmp_path / "out", split="test", device="cpu")
    maps = sorted((tmp_path / "out" / CLASS_MAPS).iterdir())
    assert [path.name for path in maps] == sorted(
        path.name for path in (tmp_path / "out" / HEATMAPS).iterdir()
    )
    as_made = maps[0].read_bytes()
    with Image.open(maps[0]) as picture:
        assert "background (" in picture.info["Description"]
        assert "Lesion (" in picture.info["Description"]
    maps[0].unlink()
    predict_stage(run, [store], tmp_path / "out", split="test", device="cpu")
    assert maps[0].read_bytes() == as_made, "a slide is not finished without it"
    truth, found = [], []
    for path in sorted((tmp_path / "out" / PATCHES).iterdir()):
        with path.open() as handle:
            table = list(csv.DictReader(handle))
        assert list(table[0])[-2:] == ["prob_background", "prob_Lesion"]
        for row in table:
            assert float(row["prob_background"]) + float(row["prob_Lesion"]) == pytest.approx(1)
        found += [float(row["prob_Lesion"]) for row in table]
        grid = PatchStore.open(store / f"{path.stem}.zarr").grid
        truth += load_lesions(cohort)[path.stem].overlaps(grid).tolist()
    lesion = np.array(truth) > 0.5
    sick, well = np.array(found)[lesion], np.array(found)[~lesion]
    pairs = sick[:, None] - well
    auc = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert report.test["patch_auc"] == pytest.approx(auc, abs=1e-6), "as the table has it"


def test_lesions_are_found_on_slides_that_were_held_out(store, cohort, dense, folder, tmp_path):
    """Two slides are too few to choose an epoch by, so the val side is learned from as well."""
    table = tmp_path / "labels.csv"
    table.write_text((cohort / "labels.csv").read_text().replace(",val\n", ",train\n"))
    train = dense.train.model_copy(update={"epochs": 8})
    config = dense.model_copy(update={"train": train})
    report = train_stage(
        store, LabelsSource(table), tmp_path / "run", config, None, annotations=folder
    )
    assert report.test["patch_auc"] > 0.9


@pytest.mark.fault("A2a")
def test_killed_and_started_again_ends_with_the_same_bytes(
    store, labels, dense, folder, tmp_path, monkeypatch
):
    config = dense.model_copy(update={"train": dense.train.model_copy(update={"epochs": 3})})
    train_stage(store, labels, tmp_path / "whole", config, None, annotations=folder)
    from wsi_hr.training import loop

    save, calls = loop.save_checkpoint, []

    def die(path: Path, checkpoint) -> None:
        save(path, checkpoint)
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", die)
    with pytest.raises(KeyboardInterrupt):
        train_stage(store, labels, tmp_path / "torn", config, None, annotations=folder)
    monkeypatch.undo()
    train_stage(store, labels, tmp_path / "torn", config, None, annotations=folder)
    for name in (BEST, LAST, METRICS, ANNOTATIONS):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "torn" / name).read_bytes()

    victim = sorted(folder.iterdir())[0]
    victim.write_text(geojson([[0, 0], [900, 0], [900, 900]]))
    with pytest.raises(ConfigError, match=r"annotations\.csv: the run was started with other anno"):
        train_stage(store, labels, tmp_path / "whole", config, None, annotations=folder)
    with pytest.raises(ConfigError, match="dense.classes: "):
        train_stage(store, labels, tmp_path / "whole", config, None)


def only_strangers(folder: Path) -> None:
    for path in folder.iterdir():
        path.rename(folder / f"other_{path.name}")


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def nothing_found(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_text(geojson())


def broken(folder: Path) -> None:
    for path in sorted(folder.iterdir())[:2]:
        path.write_text(geojson([[0, 0], [9, 9]]))


def off_the_slide(folder: Path) -> None:
    sorted(folder.iterdir())[0].write_text(geojson([[1e6, 0], [1.1e6, 0], [1e6, 900]]))


def tiny(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_text(geojson([[500, 500], [510, 500], [500, 510]], name="Mitosis"))


def twice(folder: Path) -> None:
    path = sorted(folder.iterdir())[0]
    path.with_suffix(".json").write_text(path.read_text())


@pytest.mark.parametrize(
    ("change", "assignments", "said"),
    [
        (only_strangers, (), "holds other_slide_001.geojson"),
        (empty, (), "holds no file of annotations; name files after the labelled slides"),
        (nothing_found, (), "show no polygon of any class"),
        (broken, (), "has fewer than 3 corners.*or take the file away .also: slide_"),
        (off_the_slide, (), "lies beside the slide, which is 2048 x 2048 px"),
        (tiny, (), "no patch of the train slides is 'Mitosis'.*lower dense.min_cover"),
        (twice, (), "are for the same slide; keep one"),
        (None, ("dense.classes=[Lesoin]",), "no polygon in .* is 'Lesoin'; the nearest is 'Lesio"),
        (None, ("method.name=dbps",), "learns from the labels of slides only"),
    ],
)
def test_annotations_that_cannot_be_learned_from(
    store, labels, settings, folder, tmp_path, change, assignments, said
):
    if change is not None:
        change(folder)
    config = settings(*assignments)
    with pytest.raises(WsiHrError, match=said) as caught:
        train_stage(store, labels, tmp_path / "run", config, None, annotations=folder)
    assert isinstance(caught.value, AnnotationError | ConfigError)
    assert not (tmp_path / "run" / BEST).exists()


def test_there_is_no_such_folder(store, labels, settings, tmp_path, cli):
    ended = cli("train", store, "--labels", labels.path, "-o", tmp_path / "run", "--annotations",
                tmp_path / "none", "--device", "cpu")  # fmt: skip
    assert ended.code == 2
    assert "no such folder" in ended.err
    with pytest.raises(ConfigError, match="dense.classes x: needs the annotations"):
        train_stage(store, labels, tmp_path / "run", settings("dense.classes=[x]"), None)
