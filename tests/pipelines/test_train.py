"""The train stage: what it writes, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from pipelines.lock import LOCK_FILE, run_lock
from pipelines.settings import resolve
from pipelines.tile import tile_stage
from pipelines.train import LabelsSource, train_stage
from wsi_hr.config import TileConfig
from wsi_hr.errors import CheckpointError, ConfigError, LabelError, StoreError, WsiHrError
from wsi_hr.models.encoder import build_encoder
from wsi_hr.training.checkpoint import load_checkpoint
from wsi_hr.training.loop import BEST, LAST, METRICS

LEARNED = (BEST, LAST, METRICS)


def console() -> Console:
    return Console(file=io.StringIO(), width=40)


def printed(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def write_labels(path: Path, rows: list[dict[str, str]]) -> LabelsSource:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return LabelsSource(path)


def files(run: Path, names: tuple[str, ...] = LEARNED) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in names}


def test_what_is_said_and_written(store, cohort, settings, tmp_path):
    rows = rows_of(cohort / "labels.csv")
    stranger = {"slide_id": "elsewhere", "label": "normal", "patient_id": "x", "split": "train"}
    labels = write_labels(tmp_path / "labels.csv", [*rows, stranger])
    to = console()
    report = train_stage(store, labels, tmp_path / "run", settings(), to)

    said = printed(to).splitlines()
    assert said[0] == (
        f"{labels.path}: slide = column 'slide_id', label = column 'label', "
        "patient = column 'patient_id', split = column 'split'."
    ), "whole lines, however narrow"
    assert any(line.startswith("warning: ") and "elsewhere" in line for line in said)
    assert "slides: train 4 (lesion 2, normal 2); val 2 (lesion 1, normal 1)" in printed(to)
    assert "patches: 64 px at 2.0 um/px" in said
    assert "device: cpu" in said
    assert [line[:7] for line in said if line.startswith("epoch")] == ["epoch 1", "epoch 2"]

    run = tmp_path / "run"
    assert rows_of(run / "splits.csv") == [
        {key: row[key] for key in ("slide_id", "patient_id", "label", "split")}
        for row in sorted(rows, key=lambda row: row["slide_id"])
    ]
    assert report.classes == ("lesion", "normal")
    meta = load_checkpoint(run / BEST).meta
    assert meta["classes"] == ["lesion", "normal"]
    assert meta["config"]["tile"]["patch_size"] == 64, "as the store, not as the default"
    history = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    assert [row["epoch"] for row in history] == [0, 1]
    record = json.loads((run / "run.json").read_text())
    assert record["best"] == report.best == min(history, key=lambda row: row["val_loss"])
    assert record["test"] == report.test
    assert record["slides"] == {"train": 4, "val": 2, "test": 2}
    assert not (run / LOCK_FILE).exists()


def test_patients_stay_together_where_the_table_does_not_divide(store, cohort, settings, tmp_path):
    rows = rows_of(cohort / "labels.csv")
    patients: dict[str, list[str]] = {
        "lesion": ["a", "a", "b", "c"],
        "normal": ["d", "d", "e", "f"],
    }
    table = [
        {"slide": r["slide_id"], "class": r["label"], "patient": patients[r["label"]].pop()}
        for r in rows
    ]
    config = settings("train.epochs=1", "split.val=0.3", "split.test=0.3")
    labels = write_labels(tmp_path / "labels.csv", table)
    train_stage(store, labels, tmp_path / "run", config, None)
    sides: dict[str, set[str]] = {}
    for row in rows_of(tmp_path / "run/splits.csv"):
        sides.setdefault(row["patient_id"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert set.union(*sides.values()) == {"train", "val", "test"}


def test_classes_are_in_order_and_keep_their_zeros(store, cohort, settings, tmp_path):
    rows = rows_of(cohort / "labels.csv")
    names = {"lesion": "007", "normal": "10"}
    labels = write_labels(tmp_path / "l.csv", [r | {"label": names[r["label"]]} for r in rows])
    report = train_stage(store, labels, tmp_path / "run", settings("train.epochs=1"), None)
    assert report.classes == ("007", "10"), "by number, as text"
    assert {row["label"] for row in rows_of(tmp_path / "run/splits.csv")} == {"007", "10"}


def straddle(rows):
    return [row | {"patient_id": "p"} for row in rows]


def one_class(rows):
    return [row | {"label": "normal"} for row in rows]


def strangers(rows):
    return [row | {"slide_id": f"other_{row['slide_id']}x"} for row in rows]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (straddle, "patient 'p' is in"),
        (one_class, "only the class 'normal'"),
        (strangers, "no row fits a slide"),
    ],
)
def test_labels_that_cannot_be_learned_from(store, cohort, settings, tmp_path, change, sentence):
    labels = write_labels(tmp_path / "labels.csv", change(rows_of(cohort / "labels.csv")))
    with pytest.raises(LabelError, match=sentence):
        train_stage(store, labels, tmp_path / "run", settings(), None)
    assert not (tmp_path / "run").exists()


def test_stores_that_are_not_there(store, labels, settings, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished/a.zarr.tmp").mkdir(parents=True)
    for folder, sentence in (
        (tmp_path / "none", "no such folder"),
        (tmp_path / "empty", "no finished patch store"),
        (tmp_path / "unfinished", "no finished patch store"),
        (store / "slide_001.zarr", "give the folder it lies in"),
    ):
        with pytest.raises(StoreError, match=sentence):
            train_stage(folder, labels, tmp_path / "run", settings(), None)
    assert not (tmp_path / "run").exists()


def test_a_damaged_store_stops_training_before_it_starts(
    own_store, labels, settings, tmp_path, shard, tree
):
    part = shard(own_store, "slide_006")
    part.write_bytes(part.read_bytes()[:-1])
    shutil.rmtree(own_store / "slide_005.zarr")
    (own_store / "slide_005.zarr").mkdir()
    (own_store / "slide_005.zarr/.zgroup").write_text("{}")
    before = tree(own_store)
    with pytest.raises(StoreError) as caught:
        train_stage(own_store, labels, tmp_path / "run", settings(), None)
    sentence = str(caught.value)
    assert "slide_005.zarr: a zarr of another program" in sentence
    assert "wsi-hr tile" in sentence
    assert "take the slide out of the labels" in sentence
    assert "2 of 8 labelled slides cannot be trained on (also: slide_006)" in sentence
    assert not (tmp_path / "run").exists()
    assert tree(own_store) == before, "nothing is lost"

    rest = [r for r in rows_of(labels.path) if r["slide_id"] not in ("slide_005", "slide_006")]
    report = train_stage(
        own_store,
        write_labels(tmp_path / "rest.csv", rest),
        tmp_path / "run",
        settings("train.epochs=1"),
        None,
    )
    assert report.test, "unlabelled slides need not be sound"


def test_a_copied_store_does_not_count_twice(own_store, labels, settings, tmp_path):
    shutil.copytree(own_store / "slide_002.zarr", own_store / "copy.zarr")
    rows = rows_of(labels.path)
    twin = rows[1] | {"slide_id": "copy"}
    with pytest.raises(StoreError, match="copy.zarr: is the store of slide 'slide_002'"):
        train_stage(
            own_store,
            write_labels(tmp_path / "l.csv", [*rows, twin]),
            tmp_path / "r",
            settings(),
            None,
        )


def test_pixels_that_change_under_training_stop_it_and_cost_nothing(
    own_store, run, labels, settings, tmp_path, shard
):
    part = shard(own_store, "slide_008")
    sound = part.read_bytes()
    train_stage(own_store, labels, tmp_path / "run", settings(), None)
    assert files(tmp_path / "run") == files(run), "the store's place does not matter"
    shutil.rmtree(tmp_path / "run")

    part.write_bytes(sound[:900] + bytes([sound[900] ^ 1]) + sound[901:])
    with pytest.raises(StoreError, match=r"slide_008\.zarr.*patch \d+ cannot be read"):
        train_stage(own_store, labels, tmp_path / "run", settings(), None)
    part.write_bytes(sound)
    train_stage(own_store, labels, tmp_path / "run", settings(), None)
    assert files(tmp_path / "run") == files(run)


@pytest.mark.fault("A11a", "A11b")
def test_a_finished_run_only_reports(own_run, store, labels, settings):
    record = json.loads((own_run / "run.json").read_text())
    before = files(own_run)
    for year in (-1, 1):  # clocks are wrong now and then
        for path in own_run.iterdir():
            os.utime(path, (time.time() + year * 365 * 86400,) * 2)
        to = console()
        report = train_stage(store, labels, own_run, settings(), to)
        assert report.best == record["best"]
        assert report.test == record["test"]
        assert files(own_run) == before
        assert "epoch 2: loss" in printed(to)


def test_other_settings_are_refused_with_both_values(own_run, store, labels, settings):
    before = {path.name: path.read_bytes() for path in own_run.iterdir()}
    with pytest.raises(ConfigError) as caught:
        train_stage(store, labels, own_run, settings("train.lr=0.5", "method.heads=4"), None)
    assert "train.lr: 0.001 there, 0.5 now" in str(caught.value)
    assert "method.heads: 8 there, 4 now" in str(caught.value)
    assert "weight_decay" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in own_run.iterdir()} == before
    train_stage(store, labels, own_run, settings("train.device=auto", "train.threads=null"), None)


def test_other_labels_are_refused_with_both_values(own_run, store, labels, settings, tmp_path):
    rows = rows_of(labels.path)
    other = [r | {"patient_id": "somebody"} if r is rows[0] else r for r in rows]
    for table, sentence in (
        (other, "patient_id of slide 'slide_001': 'patient_008' there, 'somebody' now"),
        (rows[1:], "slide 'slide_001' is gone"),
    ):
        with pytest.raises((ConfigError, LabelError)) as caught:
            train_stage(
                store,
                write_labels(tmp_path / "l.csv", table),
                own_run,
                settings("split.val=0"),
                None,
            )
        assert "split.val: 0.15 there, 0.0 now" in str(caught.value), "settings first"
        with pytest.raises(ConfigError) as caught:
            train_stage(store, write_labels(tmp_path / "l.csv", table), own_run, settings(), None)
        assert sentence in str(caught.value)
        assert "splits.csv" in str(caught.value)


def test_slides_tiled_again_are_other_ones_if_their_patches_are(
    own_run, own_store, cohort, labels, settings, tmp_path
):
    slides = shutil.copytree(cohort / "slides", tmp_path / "slides")
    first, second = sorted(slides.iterdir())[:2]

    def tiled_again() -> None:
        shutil.rmtree(own_store / f"{first.stem}.zarr")
        tile_stage([slides], own_store, resolve("demo", {}, ()).tile)

    tiled_again()
    train_stage(own_store, labels, own_run, settings(), None)
    swapped = second.read_bytes(), first.read_bytes()
    for slide, content in zip((first, second), swapped, strict=True):
        slide.write_bytes(content)
    tiled_again()
    before = {path.name: path.read_bytes() for path in own_run.iterdir()}
    sentence = rf"stores\.csv: .*tiled again .*sha256 of slide '{first.stem}'"
    with pytest.raises(ConfigError, match=sentence):
        train_stage(own_store, labels, own_run, settings(), None)
    assert {path.name: path.read_bytes() for path in own_run.iterdir()} == before


def test_a_start_that_failed_does_not_bind_the_folder(store, labels, settings, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"test_resnt.*near: .*test_resnet"):
        train_stage(store, labels, run, settings("encoder.name=test_resnt"), None)
    assert not run.exists(), "nothing is left of it"
    run.mkdir()
    (run / "config.yaml").write_text("train: {lr: 9}")  # as if killed in the first epoch
    train_stage(store, labels, run, settings("train.epochs=1"), None)


def test_checkpoints_that_are_damaged_or_alone(own_run, store, labels, settings):
    history = [json.loads(line) for line in (own_run / METRICS).read_text().splitlines()]
    assert min(history, key=lambda row: row["val_loss"])["epoch"] == 0, "best is not last"
    best, last = files(own_run, (BEST, LAST)).values()
    flipped = best[:-1] + bytes([best[-1] ^ 1])
    for name, content, error, sentence in (
        (LAST, last[: len(last) // 2], CheckpointError, "damaged"),
        (LAST, None, ConfigError, "no last.safetensors, so it cannot be resumed"),
        (BEST, flipped, CheckpointError, "best.safetensors: its content does not match"),
        (BEST, None, CheckpointError, "best.safetensors: no such checkpoint"),
        (BEST, last, CheckpointError, "is not of epoch 1, which was the best"),
        ("config.yaml", None, ConfigError, "holds checkpoints but no config.yaml"),
        ("splits.csv", b"a,b\n1,2\n", LabelError, "no column 'slide_id'"),
    ):
        good = (own_run / name).read_bytes()
        (own_run / name).unlink()
        if content is not None:
            (own_run / name).write_bytes(content)
        with pytest.raises(error, match=sentence):
            train_stage(store, labels, own_run, settings(), None)
        (own_run / name).write_bytes(good)
    assert files(own_run, (BEST, LAST)) == {BEST: best, LAST: last}


@pytest.mark.fault("A12a")
def test_the_second_run_is_told_who_holds_the_folder(store, labels, settings, tmp_path):
    with run_lock(tmp_path / "run"), pytest.raises(StoreError) as caught:
        train_stage(store, labels, tmp_path / "run", settings(), None)
    assert f"pid {os.getpid()}" in str(caught.value)


def test_an_output_that_is_no_folder(store, labels, settings, tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(StoreError, match="a file, not a folder"):
        train_stage(store, labels, tmp_path / "run", settings(), None)


def test_settings_of_tiling_that_have_no_effect_are_told(store, labels, settings, tmp_path):
    to = console()
    train_stage(store, labels, tmp_path / "run", settings("tile.mpp=0.5", "train.epochs=1"), to)
    assert "warning: tile.mpp 0.5 has no effect here; 2.0 is how the slides were tiled" in printed(
        to
    )


def test_stores_cut_in_several_ways_are_not_mixed(own_store, cohort, labels, settings, tmp_path):
    from pipelines.tile import tile_stage
    from wsi_hr.config import TileConfig

    other = tmp_path / "other"
    slide = cohort / "slides/slide_004.svs"
    tile_stage([slide], other, TileConfig(mpp=2.0, patch_size=32, stain="macenko"))  # pyright: ignore
    shutil.rmtree(own_store / "slide_004.zarr")
    shutil.copytree(other / "slide_004.zarr", own_store / "slide_004.zarr")
    with pytest.raises(StoreError) as caught:
        train_stage(own_store, labels, tmp_path / "run", settings(), None)
    assert "slide_004.zarr" in str(caught.value)
    assert "patch_size is 32" in str(caught.value)
    assert "stain is macenko" in str(caught.value)


def test_a_scale_that_is_not_there_is_refused(two_scales, settings, cohort, tmp_path):
    few = write_labels(
        tmp_path / "labels.csv",
        [
            {"slide_id": f"slide_00{n}", "label": f"class {n}", "patient": f"{n}", "split": "train"}
            for n in (1, 2)
        ],
    )
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"--mpp 0\.7: .* but at 2 and 5 um/px"):
        train_stage(two_scales, few, run, settings("split.val=0", "split.test=0"), None, mpp=0.7)
    coarse = tmp_path / "coarse"
    config = TileConfig(mpp=2.0, more_mpp=(90.0,), patch_size=64)
    tile_stage([cohort / f"slides/slide_00{n}.svs" for n in (1, 2)], coarse, config)
    with pytest.raises(StoreError, match="tissue is too little for a patch at 90 um/px; or take"):
        train_stage(coarse, few, run, settings("split.val=0", "split.test=0"), None, mpp=90)
    assert not run.exists()


def test_class_weights_weigh(run, store, labels, settings, tmp_path):
    rows = [row for row in rows_of(labels.path) if row["slide_id"] != "slide_002"]
    table = write_labels(tmp_path / "labels.csv", rows)
    losses = [
        train_stage(
            store,
            table,
            tmp_path / value,
            settings(f"train.class_weights={value}", "train.epochs=1", "train.batch_size=4"),
            None,
        ).best["train_loss"]
        for value in ("false", "true")
    ]
    assert losses[0] != losses[1]


def test_frozen_batch_norm_stays_as_it_was(run, store, labels, settings, tmp_path):
    config = settings("encoder.norm_stats=running", "train.epochs=1")
    train_stage(store, labels, tmp_path / "run", config, None)
    frozen, moved = load_checkpoint(tmp_path / "run" / BEST), load_checkpoint(run / BEST)
    names = [name for name in frozen.tensors if name.endswith("running_mean")]
    assert names
    for name in names:
        assert torch.equal(frozen.tensors[name], torch.zeros_like(frozen.tensors[name]))
        assert not torch.equal(moved.tensors[name], frozen.tensors[name])


def test_local_weights_are_where_training_starts(store, labels, settings, tmp_path):
    config = settings(f"encoder.weights={tmp_path / 'w.safetensors'}", "train.epochs=1")
    torch.manual_seed(9)
    net = build_encoder(settings().encoder, 64).net
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file({**state, "fc.weight": torch.zeros(10, 96)}, tmp_path / "w.safetensors")
    train_stage(store, labels, tmp_path / "a", config, None)
    train_stage(store, labels, tmp_path / "b", settings("train.epochs=1"), None)
    assert files(tmp_path / "a")[LAST] != files(tmp_path / "b")[LAST]
    (tmp_path / "w.safetensors").unlink()
    train_stage(store, labels, tmp_path / "a", config, None)  # resuming needs the file no more


def test_an_error_of_the_request_is_no_traceback(store, labels, settings, tmp_path):
    with pytest.raises(WsiHrError, match="device cuda:99"):
        train_stage(store, labels, tmp_path / "run", settings("train.device=cuda:99"), None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("assignments", "said", "recorded"),
    [
        ([], ["batch norms: batch"], "batch"),
        (
            ["encoder.freeze_bn=true"],
            ["batch norms: recalibrate (by the statistics of 512", "freeze_bn is an old name"],
            "recalibrate",
        ),
        (
            ["encoder.norm_stats=running"],
            ["batch norms: running", "of a blank network normalise nothing"],
            "running",
        ),
        (
            ["method.name=patchgd", "method.exact=true"],
            ["batch norms: recalibrate"],
            "recalibrate",
        ),
        (
            ["method.name=abmil"],
            ["batch norms: recalibrate", "its features are those of random weights"],
            "recalibrate",
        ),
        (["encoder.norm=group", "encoder.norm_stats=recalibrate"], ["has no effect"], None),
    ],
)
def test_what_norms_normalise_by_is_said_and_recorded(
    store, labels, settings, tmp_path, assignments, said, recorded
):
    lines = io.StringIO()
    console = Console(file=lines, width=10_000)
    config = settings("train.epochs=1", *assignments)
    train_stage(store, labels, tmp_path / "run", config, console)
    for text in said:
        assert lines.getvalue().count(text) == 1, text
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["norm_stats"] == recorded
    assert record["config"]["encoder"]["norm_stats"] in ("batch", "running", "recalibrate")
    assert "freeze_bn" not in record["config"]["encoder"]
    again = settings("train.epochs=1", *assignments)
    train_stage(store, labels, tmp_path / "run", again, None)  # the same run, not another


def test_another_choice_of_norm_statistics_is_another_run(store, labels, settings, tmp_path):
    train_stage(store, labels, tmp_path / "run", settings("train.epochs=1"), None)
    other = settings("train.epochs=1", "encoder.norm_stats=recalibrate")
    with pytest.raises(ConfigError, match="norm_stats: batch there, recalibrate now"):
        train_stage(store, labels, tmp_path / "run", other, None)
