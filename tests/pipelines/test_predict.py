"""The predict stage: every slide a row, whatever became of it, and the same bytes every time."""

from __future__ import annotations

import csv
import io
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pipelines.predict import HEATMAPS, PATCHES, PREDICTIONS, predict_stage
from pipelines.tile import tile_stage
from pipelines.train import LabelsSource, train_stage
from wsi_hr.config import TileConfig
from wsi_hr.errors import CheckpointError, ConfigError, LabelError, StoreError
from wsi_hr.geometry import Size
from wsi_hr.prediction.heatmap import patch_boxes
from wsi_hr.runtime import sha256_file
from wsi_hr.slide_prediction import SlidePrediction
from wsi_hr.store.patch_store import PatchStore
from wsi_hr.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsi_hr.training.loop import BEST


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    by_id = {row["slide_id"]: row for row in rows}
    assert len(by_id) == len(rows), "every slide once"
    return by_id


def mtimes(out: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_mtime_ns
        for folder in (HEATMAPS, PATCHES)
        for path in (out / folder).iterdir()
    }


@pytest.fixture
def own_out(predicted, tmp_path) -> Path:
    return shutil.copytree(predicted, tmp_path / "own_out")


def test_what_comes_out(predicted, run, store):
    rows = rows_of(predicted / PREDICTIONS)
    assert sorted(rows) == [f"slide_00{n}" for n in range(1, 9)]
    assert list(next(iter(rows.values()))) == [
        "slide_id", "prob_lesion", "prob_normal", "predicted", "num_patches", "status", "reason",
    ]  # fmt: skip
    for slide_id, row in rows.items():
        probs = {name: float(row[f"prob_{name}"]) for name in ("lesion", "normal")}
        assert sum(probs.values()) == pytest.approx(1, abs=2e-6)
        assert row["predicted"] == max(probs, key=probs.__getitem__)
        assert (row["status"], row["reason"]) == ("done", "")
        patches = PatchStore.open(store / f"{slide_id}.zarr")
        with (predicted / PATCHES / f"{slide_id}.csv").open() as handle:
            scores = list(csv.DictReader(handle))
        assert int(row["num_patches"]) == len(scores) == len(patches)
        assert [[int(s["x0"]), int(s["y0"])] for s in scores] == patches.grid.coords.tolist()
        assert [s["role"] for s in scores].count("salient") == 4
        with Image.open(predicted / HEATMAPS / f"{slide_id}.png") as picture:
            assert max(picture.size) <= 300
            picture.load()
    record = json.loads((predicted / "run.json").read_text())
    assert record["states"] == dict.fromkeys(rows, "done")
    assert record["metrics"]["slides"] == 2
    assert record["jpeg_decoder"] == "libjpeg-turbo"
    assert record["model_sha256"] == load_checkpoint(run / BEST).digest
    assert sorted(path.name for path in predicted.iterdir()) == [
        "heatmaps", "patches", "predictions.csv", "run.json",
    ]  # fmt: skip


def test_the_test_metrics_are_those_that_training_reported(predicted, run):
    trained, now = (json.loads((f / "run.json").read_text()) for f in (run, predicted))
    for name, value in trained["test"].items():
        assert now["metrics"][name] == pytest.approx(value, abs=1e-6)


def test_again_nothing_is_made_anew_and_all_is_equal(own_out, predicted, run, store, tree):
    before = mtimes(own_out)
    report = predict_stage(run, [store], own_out, device="cpu")
    assert mtimes(own_out) == before
    assert tree(own_out) == tree(predicted)
    assert report.metrics == json.loads((predicted / "run.json").read_text())["metrics"]


def test_what_was_lost_or_changed_is_made_anew(own_out, predicted, run, store, tree):
    def heatmap(number: int) -> Path:
        return own_out / HEATMAPS / f"slide_00{number}.png"

    def scores(number: int) -> Path:
        return own_out / PATCHES / f"slide_00{number}.csv"

    content = heatmap(1).read_bytes()
    heatmap(1).write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    heatmap(2).write_bytes(content[: len(content) // 2])
    heatmap(3).write_bytes(b"")
    heatmap(4).unlink()
    Image.new("RGB", (9, 9)).save(heatmap(5))
    scores(6).unlink()
    scores(7).write_text(scores(7).read_text().replace("salient", "insipid"))
    before = mtimes(own_out)
    predict_stage(run, [store], own_out, device="cpu")
    assert tree(own_out) == tree(predicted)
    kept = {name for name, when in mtimes(own_out).items() if before.get(name) == when}
    assert kept == {"slide_008.png", "slide_008.csv"}


def test_another_model_or_another_size_is_not_taken_for_the_same(
    own_out, predicted, own_run, run, store, tree
):
    before = mtimes(own_out)
    predict_stage(run, [store], own_out, device="cpu", heatmap_px=200)
    after = mtimes(own_out)
    assert not any(before[name] == after[name] for name in before)
    with Image.open(own_out / HEATMAPS / "slide_001.png") as picture:
        assert max(picture.size) <= 200
    assert tree(own_out / PATCHES) == tree(predicted / PATCHES)

    best = load_checkpoint(own_run / BEST)
    bias = next(name for name in best.tensors if name.endswith("classifier.bias"))
    changed = best.tensors | {bias: best.tensors[bias] + torch.tensor([5.0, 0.0])}
    save_checkpoint(own_run / BEST, Checkpoint(changed, best.meta))
    predict_stage(own_run, [store], own_out, device="cpu", heatmap_px=200)
    rows = rows_of(own_out / PREDICTIONS)
    assert {row["predicted"] for row in rows.values()} == {"lesion"}
    assert rows != rows_of(predicted / PREDICTIONS)


def test_a_slide_that_was_tiled_anew_is_not_taken_for_the_same(
    own_out, run, cohort, own_store, predicted
):
    shutil.rmtree(own_store / "slide_001.zarr")
    tile = json.loads((own_store / "tile.json").read_text())
    (own_store / "tile.json").unlink()
    fewer = TileConfig(**(tile | {"min_tissue": 0.9}))
    tile_stage([cohort / "slides/slide_001.svs"], own_store, fewer)
    before = mtimes(own_out)
    predict_stage(run, [own_store], own_out, device="cpu")
    changed = {name for name, when in mtimes(own_out).items() if when != before[name]}
    assert changed == {"slide_001.png", "slide_001.csv"}
    now, then = (rows_of(out / PREDICTIONS) for out in (own_out, predicted))
    assert int(now["slide_001"]["num_patches"]) < int(then["slide_001"]["num_patches"])


def test_a_slide_is_predicted_alike_alone_and_in_company(predicted, run, store, tmp_path):
    together = rows_of(predicted / PREDICTIONS)
    for slide_id in ("slide_003", "slide_008"):
        out = tmp_path / slide_id
        predict_stage(run, [store / f"{slide_id}.zarr"], out, device="cpu")
        assert rows_of(out / PREDICTIONS) == {slide_id: together[slide_id]}
        for name in (f"{PATCHES}/{slide_id}.csv", f"{HEATMAPS}/{slide_id}.png"):
            assert (out / name).read_bytes() == (predicted / name).read_bytes()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda text: text.replace("status,", "state,", 1), "has no column status"),
        (lambda text: text.replace("slide_id", "id", 1), "has no column slide_id"),
        (lambda text: text + text.splitlines()[1] + "\n", "has 2 rows of slide 'slide_001'"),
    ],
)
def test_a_table_that_is_no_status_table_is_told(cli, run, own_store, tmp_path, spoil, why):
    table = own_store / "status.csv"
    table.write_text(spoil(table.read_text()))
    ended = cli("predict", run, own_store, "-o", tmp_path / "out")
    assert ended.code == 2
    assert why in ended.err
    assert "run the same wsi-hr tile again" in ended.err
    verified = cli("verify", own_store)
    assert verified.code == 1
    assert "no status table" in verified.out or why in verified.out


def test_one_side_of_the_split(predicted, run, store, own_store, tmp_path):
    together = rows_of(predicted / PREDICTIONS)
    test_slides = {"slide_005", "slide_007"}
    predict_stage(run, [store], tmp_path / "out", split="test", device="cpu")
    assert rows_of(tmp_path / "out" / PREDICTIONS) == {s: together[s] for s in test_slides}
    with pytest.raises(ConfigError, match="--split tset: the splits of a run are train, val, test"):
        predict_stage(run, [store], tmp_path / "out", split="tset")
    to = Console(file=io.StringIO())
    (own_store / "status.csv").unlink()
    shutil.rmtree(own_store / "slide_005.zarr")
    predict_stage(run, [own_store], tmp_path / "less", split="test", device="cpu", console=to)
    assert set(rows_of(tmp_path / "less" / PREDICTIONS)) == {"slide_007"}
    assert isinstance(to.file, io.StringIO)
    assert "warning: 1 of the 2 test slides of the run are not given" in to.file.getvalue()
    with pytest.raises(ConfigError, match="none of the given slides"):
        predict_stage(run, [store / "slide_001.zarr"], tmp_path / "none", split="test")


def test_slides_are_tiled_on_the_way_and_every_one_has_a_row(
    predicted, run, odd_slides, tmp_path, cli, tree
):
    out = tmp_path / "out"
    ended = cli("predict", run, odd_slides, "-o", out, "--device", "cpu", "--workers", 2)
    assert ended.code == 1, "one is broken"
    rows = rows_of(out / PREDICTIONS)
    assert {slide_id: row["status"] for slide_id, row in rows.items()} == {
        "'=cmd": "done",  # no spreadsheet takes it for a formula
        "a b ü😐": "done",
        "007": "done",
        "blank": "no_tissue",
        "broken": "failed",
        "link": "skipped",
    }
    together = rows_of(predicted / PREDICTIONS)
    for slide_id, twin in (("'=cmd", "slide_001"), ("a b ü😐", "slide_002"), ("007", "slide_003")):
        assert rows[slide_id] == together[twin] | {"slide_id": slide_id}
    for slide_id in ("blank", "broken", "link"):
        assert rows[slide_id]["reason"]
        assert rows[slide_id]["prob_lesion"] == rows[slide_id]["predicted"] == ""
        assert f"{slide_id}: {rows[slide_id]['reason']}" in ended.out
    names = {"=cmd", "a b ü😐", "007"}
    assert {path.stem for path in (out / HEATMAPS).iterdir()} == names
    assert {path.stem for path in (out / PATCHES).iterdir()} == names
    assert "6 slides: 3 done, 1 failed, 1 no_tissue, 1 skipped; see " in ended.out
    assert "For Research Use Only" in ended.out
    assert "Traceback" not in ended.err

    before = tree(out)
    assert cli("predict", run, odd_slides, "-o", out, "--device", "cpu").code == 1
    assert tree(out, "status.csv") == {
        name: digest for name, digest in before.items() if not name.endswith("status.csv")
    }
    from_store = tmp_path / "from_store"
    predict_stage(run, [out / "store"], from_store, device="cpu")
    assert sha256_file(from_store / PREDICTIONS) == sha256_file(out / PREDICTIONS)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"slide,mpp\n{odd_slides / '007.svs'},0.5\n{odd_slides / 'gone.svs'},\n")
    predict_stage(run, [manifest], tmp_path / "listed", device="cpu")
    listed = rows_of(tmp_path / "listed" / PREDICTIONS)
    assert listed["007"] == rows["007"]
    assert (listed["gone"]["status"], listed["gone"]["reason"]) == ("failed", "no such file")


def test_slides_without_tissue_are_no_failure(run, odd_slides, tmp_path):
    (tmp_path / "slides").mkdir()
    shutil.copy(odd_slides / "blank.svs", tmp_path / "slides")
    for inputs in (tmp_path / "slides", tmp_path / "out/store"):
        report = predict_stage(run, [inputs], tmp_path / "out", device="cpu")
        assert [(row.slide_id, row.status) for row in report.rows] == [("blank", "no_tissue")]
        assert report.metrics == {}


def test_patches_of_another_kind_are_refused_with_both_values(run, cohort, own_store, tmp_path):
    slide = cohort / "slides/slide_001.svs"
    other = TileConfig(mpp=4.0, patch_size=32, stain="reinhard")  # pyright: ignore[reportCallIssue]
    tile_stage([slide], tmp_path / "store", other)
    for given in (tmp_path / "store", tmp_path / "store/slide_001.zarr"):
        with pytest.raises(CheckpointError) as caught:
            predict_stage(run, [given], tmp_path / "out")
        assert "mpp is 4.0 in the store, 2.0 in the run" in str(caught.value)
        assert "patch_size is 32 in the store, 64 in the run" in str(caught.value)
        assert "stain is reinhard in the store, none in the run" in str(caught.value)
    assert not (tmp_path / "out" / PREDICTIONS).exists()
    tile_stage([cohort / "slides/slide_004.svs"], tmp_path / "store", other)
    shutil.rmtree(own_store / "slide_004.zarr")
    shutil.copytree(tmp_path / "store/slide_004.zarr", own_store / "slide_004.zarr")
    shutil.move(own_store / "slide_008.zarr", own_store / "slide_000.zarr")
    report = predict_stage(run, [own_store], tmp_path / "mixed", device="cpu")
    failed = {row.slide_id: row.reason for row in report.rows if row.status == "failed"}
    assert set(failed) == {"slide_000", "slide_004", "slide_008"}, "by name, not all of them"
    assert "is the store of slide 'slide_008'" in failed["slide_000"]
    assert "mpp is 4.0" in failed["slide_004"]
    assert "its store is gone" in failed["slide_008"]


def test_slides_get_the_colours_that_the_run_learned_from(
    store, cohort, labels, settings, tmp_path
):
    tile = json.loads((store / "tile.json").read_text()) | {"icc": "srgb", "stain": "reinhard"}
    rows = tile_stage([cohort / "slides"], tmp_path / "store", TileConfig(**tile))
    assert {row["reason"] for row in rows} == {
        "colours not converted to sRGB: the slide has no ICC profile"
    }
    assert tile_stage([cohort / "slides"], tmp_path / "store", TileConfig(**tile)) == rows
    config = settings("train.epochs=1")
    train_stage(tmp_path / "store", labels, tmp_path / "run", config, None)
    slide = cohort / "slides/slide_001.svs"
    predict_stage(tmp_path / "run", [slide], tmp_path / "out", device="cpu")
    again, learned, plain = (
        PatchStore.open(folder / "slide_001.zarr")
        for folder in (tmp_path / "out/store", tmp_path / "store", store)
    )
    assert again.info == learned.info
    assert again.info.colour["stain"]["applied"] is True
    first = np.flatnonzero(learned.valid)[:4]
    assert np.array_equal(again.read(first), learned.read(first))
    assert np.abs(again.read(first).astype(int) - plain.read(first)).mean() > 5
    for mixed in (store, store / "slide_001.zarr"):
        with pytest.raises(
            CheckpointError, match="icc is keep in the store, srgb in the run; stain"
        ):
            predict_stage(tmp_path / "run", [mixed], tmp_path / "other", device="cpu")


def test_how_patches_were_stored_does_not_matter(run, cohort, settings, tmp_path):
    slide = cohort / "slides/slide_001.svs"
    tile = json.loads((run / "run.json").read_text())["config"]["tile"]
    raw = TileConfig(**(tile | {"codec": "raw", "jpeg_quality": 50, "min_tissue": 0.4}))
    tile_stage([slide], tmp_path / "store", raw)
    report = predict_stage(run, [tmp_path / "store"], tmp_path / "out", device="cpu")
    assert report.rows[0].status == "done"


def test_a_damaged_slide_fails_by_name_and_the_others_come_out(
    own_out, predicted, run, own_store, shard, cli, tree
):
    for number, damage in ((1, "cut"), (2, "emptied"), (3, "deleted"), (4, "flipped")):
        part = shard(own_store, f"slide_00{number}")
        sound = part.read_bytes()
        content = {
            "cut": sound[:-1],
            "emptied": b"",
            "flipped": sound[:700] + bytes([sound[700] ^ 1]) + sound[701:],
        }.get(damage)
        part.unlink()
        if content is not None:
            part.write_bytes(content)
    shutil.rmtree(own_store / "slide_005.zarr")
    shutil.rmtree(own_store / "slide_006.zarr")
    (own_store / "slide_006.zarr").mkdir()
    (own_store / "slide_006.zarr/zarr.json").write_text("{}")
    # the flipped bit shows only where pixels are read, so not where an earlier result is kept
    (own_out / HEATMAPS / "slide_004.png").unlink()

    ended = cli("predict", run, own_store, "-o", own_out, "--device", "cpu")
    assert ended.code == 1
    rows, before = rows_of(own_out / PREDICTIONS), rows_of(predicted / PREDICTIONS)
    for number, reason in (
        (1, "bytes instead of"),
        (2, "has 0 bytes"),
        (3, "missing"),
        (4, "cannot be read (its checksum does not fit its bytes)"),
        (5, "its store is gone"),
        (6, "a zarr of another program"),
    ):
        slide_id = f"slide_00{number}"
        assert rows[slide_id]["status"] == "failed"
        assert reason in rows[slide_id]["reason"]
        assert f"failed: {slide_id}: " in ended.out
        assert not list(own_out.rglob(f"{slide_id}.*")), "nothing old beside a failure"
    assert rows["slide_007"] == before["slide_007"]
    assert rows["slide_008"] == before["slide_008"]
    for slide_id in ("slide_007", "slide_008"):
        name = f"{HEATMAPS}/{slide_id}.png"
        assert (own_out / name).read_bytes() == (predicted / name).read_bytes()
    assert "8 slides: 2 done, 6 failed" in ended.out
    assert "Traceback" not in ended.err


def test_class_names_may_be_anything(store, cohort, settings, tmp_path):
    names = {"lesion": '=ill, "very"', "normal": "fine\nand [bold]well"}
    with (cohort / "labels.csv").open(newline="") as handle:
        table = [row | {"label": names[row["label"]]} for row in csv.DictReader(handle)]
    with (tmp_path / "l.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    labels = LabelsSource(tmp_path / "l.csv")
    to = Console(file=io.StringIO())
    train_stage(store, labels, tmp_path / "run", settings("train.epochs=1"), to)
    assert isinstance(to.file, io.StringIO)
    assert "[bold]" in to.file.getvalue()
    report = predict_stage(tmp_path / "run", [store], tmp_path / "out", device="cpu")
    rows = rows_of(tmp_path / "out" / PREDICTIONS)
    assert report.metrics["slides"] == 2
    for row in rows.values():
        assert set(row) == {"slide_id", "predicted", "num_patches", "status", "reason"} | {
            f"prob_{name}" for name in names.values()
        }
        assert row["predicted"] in ("'" + names["lesion"], names["normal"])


def test_runs_that_cannot_be_used(own_run, store, tmp_path):
    for damage, sentence in (
        (lambda path: path.unlink(), "no such checkpoint; was this run folder trained?"),
        (lambda path: path.write_bytes(b"\x80\x04."), "damaged or not a checkpoint"),
        (flip, "checksum|damaged"),
    ):
        good = (own_run / BEST).read_bytes()
        damage(own_run / BEST)
        with pytest.raises(CheckpointError, match=sentence):
            predict_stage(own_run, [store], tmp_path / "out")
        (own_run / BEST).write_bytes(good)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="device gpu: unknown"):
        predict_stage(own_run, [store], tmp_path / "out", device="gpu")
    with pytest.raises(ConfigError, match="not several inputs"):
        predict_stage(own_run, [store, store], tmp_path / "out", device="cpu")
    splits = (own_run / "splits.csv").read_text()
    (own_run / "splits.csv").write_text(splits.replace("normal", "other"))
    with pytest.raises(LabelError, match=r"splits.csv: has the class 'other'"):
        predict_stage(own_run, [store / "slide_007.zarr"], tmp_path / "out", device="cpu")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="a file, not a folder"):
        predict_stage(own_run, [store], tmp_path / "file", device="cpu")


def flip(path: Path) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def test_the_run_folder_is_not_needed_whole(predicted, own_run, store, tmp_path):
    for path in own_run.iterdir():
        if path.name != BEST:
            path.unlink()
    report = predict_stage(own_run, [store], tmp_path / "out", device="cpu")
    assert report.metrics == {}, "nobody knows which slides were held out"
    assert rows_of(tmp_path / "out" / PREDICTIONS) == rows_of(predicted / PREDICTIONS)


def test_a_model_that_gives_no_numbers_is_said_per_slide(own_run, store, tmp_path):
    best = load_checkpoint(own_run / BEST)
    bias = next(name for name in best.tensors if name.endswith("classifier.bias"))
    save_checkpoint(
        own_run / BEST,
        Checkpoint(best.tensors | {bias: torch.tensor([float("inf")] * 2)}, best.meta),
    )
    report = predict_stage(own_run, [store / "slide_001.zarr"], tmp_path / "out", device="cpu")
    assert report.rows[0].status == "failed"
    assert "the model gives no numbers" in report.rows[0].reason


def test_what_nobody_foresaw_costs_one_slide(run, store, tmp_path, monkeypatch, predicted):
    draw = predict_stage.__globals__["draw_heatmap"]

    def stumble(prediction: SlidePrediction, *args: object, **options: object) -> Image.Image:
        if prediction.slide_id == "slide_002":
            raise ZeroDivisionError("surprise")
        return draw(prediction, *args, **options)

    monkeypatch.setitem(predict_stage.__globals__, "draw_heatmap", stumble)
    report = predict_stage(run, [store], tmp_path / "out", device="cpu")
    states = {row.slide_id: (row.status, row.reason) for row in report.rows}
    assert states.pop("slide_002") == (
        "failed",
        "unexpected ZeroDivisionError (surprise); please report it",
    )
    assert set(states.values()) == {("done", "")}
    assert not (tmp_path / "out" / PATCHES / "slide_002.csv").exists()


def test_predictions_are_shown_once_and_not_kept(own_out, run, store):
    seen: dict[str, weakref.ref[SlidePrediction]] = {}

    def look(prediction: SlidePrediction) -> None:
        alive = [slide_id for slide_id, ref in seen.items() if ref() is not None]
        assert alive == [], "patch scores of one slide at a time"
        assert prediction.grid.coords.shape == (len(prediction.saliency), 2)
        seen[prediction.slide_id] = weakref.ref(prediction)

    report = predict_stage(run, [store], own_out, device="cpu", on_prediction=look)
    assert sorted(seen) == [row.slide_id for row in report.rows]


def test_a_transformer_from_end_to_end(store, labels, settings, tmp_path):
    config = settings("encoder.name=test_vit", "train.epochs=1")
    train_stage(store, labels, tmp_path / "run", config, None)
    report = predict_stage(tmp_path / "run", [store], tmp_path / "out", device="cpu")
    assert {row.status for row in report.rows} == {"done"}


@pytest.mark.data
def test_a_real_slide_has_its_boxes_on_its_tissue(run, shared_data, tmp_path):
    slide = shared_data / "slides/aperio/CMU-1-Small-Region.svs"
    report = predict_stage(run, [slide], tmp_path / "out", device="cpu")
    assert [row.status for row in report.rows] == ["done"]
    store = PatchStore.open(tmp_path / "out/store/CMU-1-Small-Region.zarr")
    thumbnail = store.thumbnail
    boxes = patch_boxes(
        store.grid, store.info.level0_size, Size(thumbnail.shape[1], thumbnail.shape[0])
    )
    patches = store.read(np.arange(len(store)))
    below = [thumbnail[top:bottom, left:right] for left, top, right, bottom in boxes]
    colours = np.array([part.mean((0, 1)) for part in below])
    truth = patches.mean((1, 2))
    assert np.abs(colours - truth).max() < 12, "each box lies on its own patch"
    shifted = np.roll(truth, 1, axis=0)
    assert np.abs(colours - shifted).max() > 25, "which a neighbour's would not pass"
    with Image.open(tmp_path / "out" / HEATMAPS / "CMU-1-Small-Region.png") as picture:
        assert max(picture.size) <= 300
