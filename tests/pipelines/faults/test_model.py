"""Section D of docs/faults.md: checkpoints, settings and numbers that cannot be used."""

from __future__ import annotations

import csv
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.command_runs import read_rows, tree
from wsi_hr.methods.dbps import DBPS
from wsi_hr.models.encoder import Encoder
from wsi_hr.training.loop import BEST, LAST
from wsi_hr.training.update import AdamWUpdate

from .oracle import Ended, fault, timed, wrong_ending, wrong_table, wrong_tree

Damage = Callable[[Path], None]


@pytest.fixture
def train(cli, store, labels, run) -> Callable[..., Ended]:
    """The command of the undisturbed run; ``more`` comes after it."""
    given = ("train", store, "--recipe", run / "config.yaml")
    return lambda out, *more, labels=labels.path: timed(
        cli, *given, "--labels", labels, "-o", out, *more
    )


@pytest.fixture
def predict(cli, store, tmp_path) -> Callable[..., Ended]:
    """Predict a store by a run into ``out``."""
    out = ("-o", tmp_path / "out", "--device", "cpu")
    return lambda run, given=store: timed(cli, "predict", run, given, *out)


class Payload:
    """What a pickle may do: here it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> object:
        return Path.mkdir, (self.folder,)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(path.parent.with_name("was_run"))))


def torch_pickled(path: Path) -> None:
    torch.save(Payload(path.parent.with_name("was_run")), path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_by_one(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(share: float) -> Damage:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(share * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return damage


CHECKPOINTS: tuple[object, ...] = (
    fault("D1", pickled),
    fault("D1", torch_pickled),
    fault("D2", cut),
    fault("D2", cut_by_one),
    fault("D3", flipped(0)),
    fault("D3", flipped(0.01)),
    fault("D3", flipped(0.5)),
    fault("D3", flipped(1)),
)


@pytest.mark.parametrize("damage", CHECKPOINTS)
def test_a_damaged_checkpoint_is_refused_by_name(own_run, train, predict, tmp_path, damage):
    damage(own_run / BEST)
    ended = predict(own_run)
    assert wrong_ending(ended, 2) == []
    assert f"{own_run / BEST}: " in ended.err
    assert not (tmp_path / "out").exists()
    damage(own_run / LAST)
    before = tree(own_run)
    ended = train(own_run)
    assert wrong_ending(ended, 2) == []
    assert f"{own_run / LAST}: " in ended.err
    assert tree(own_run) == before
    assert not (tmp_path / "was_run").exists()


@pytest.mark.fault("D1")
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_are_never_run(train, tmp_path, suffix):
    weights = tmp_path / f"given/weights.{suffix}"
    weights.parent.mkdir()
    torch_pickled(weights)
    ended = train(tmp_path / "run", "--set", f"encoder.weights={weights}")
    assert wrong_ending(ended, 2) == []
    assert str(weights) in ended.err
    assert not (tmp_path / "was_run").exists()


def test_the_payload_would_be_run(tmp_path):
    """The oracle's own proof."""
    (tmp_path / "given").mkdir()
    pickled(tmp_path / "given/a")
    pickle.loads((tmp_path / "given/a").read_bytes())
    assert (tmp_path / "was_run").is_dir()


def renamed(names: dict[str, str], source: Path, to: Path) -> Path:
    """The table with other names of classes."""
    with source.open(newline="", encoding="utf-8") as handle:
        header, *rows = csv.reader(handle)
    place = header.index("label")
    with to.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(
            [header, *([*r[:place], names[r[place]], *r[place + 1 :]] for r in rows)]
        )
    return to


@pytest.mark.fault("D4")
def test_other_classes_are_refused_with_both(own_run, train, predict, labels, tmp_path):
    names = {"lesion": "tumour", "normal": "normal"}
    other, before = renamed(names, labels.path, tmp_path / "other.csv"), tree(own_run)
    ended = train(own_run, labels=other)
    assert wrong_ending(ended, 2) == []
    assert re.search("label of slide .*'lesion' there, 'tumour' now", ended.err)
    assert tree(own_run) == before
    splits = (own_run / "splits.csv").read_text()
    (own_run / "splits.csv").write_text(splits.replace("lesion", "tumour"))
    ended = predict(own_run)
    assert wrong_ending(ended, 2) == []
    assert "has the class 'tumour'" in ended.err
    assert "lesion" in ended.err


@pytest.mark.fault("D5")
def test_the_order_of_classes_is_that_of_their_names(own_run, run, train, labels, tmp_path):
    header, *rows = labels.path.read_text().splitlines()
    (tmp_path / "reversed.csv").write_text("\n".join([header, *reversed(rows)]) + "\n")
    assert wrong_ending(train(own_run, labels=tmp_path / "reversed.csv"), 0) == []
    assert wrong_tree(own_run, run) == []
    names = {"lesion": "normal", "normal": "lesion"}
    ended = train(own_run, labels=renamed(names, labels.path, tmp_path / "exchanged.csv"))
    assert wrong_ending(ended, 2) == []
    assert re.search("label of slide .* there, .* now", ended.err)
    assert wrong_tree(own_run, run) == []


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        fault("D6", ("tile.mpp=4.0",), "mpp is 4.0 in the store, 2.0 in the run"),
        fault("D7", ("tile.patch_size=32",), "patch_size is 32 in the store, 64 in the run"),
        fault("D8", ("tile.stain=reinhard",), "stain is reinhard in the store, none in the run"),
        fault("D8", ("tile.icc=srgb",), "icc is srgb in the store, keep in the run"),
    ],
)
def test_patches_of_another_kind_are_refused(
    run, predict, cli, cohort, tmp_path, sets: tuple[str, ...], told: str
):
    slide, other = cohort / "slides/slide_001.svs", tmp_path / "other"
    given = [part for text in sets for part in ("--set", text)]
    assert timed(cli, "tile", slide, "-o", other, "--recipe", "demo", *given).code == 0
    ended = predict(run, other)
    assert wrong_ending(ended, 2) == []
    assert told in ended.err
    assert not (tmp_path / "out/predictions.csv").exists()


def spoilt(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, at: int, spoil) -> None:
    """What a function of the program gives is spoilt from one call on."""
    sound, calls = getattr(owner, name), 0

    def called(*given: object) -> object:
        nonlocal calls
        calls += 1
        return spoil(sound, *given) if calls >= at else sound(*given)

    monkeypatch.setattr(owner, name, called)


@pytest.mark.parametrize("factor", [fault("D9", "nan"), fault("D10", "inf")])
@pytest.mark.parametrize("step", [2, 3])  # there are two in an epoch
def test_a_loss_that_is_no_number_costs_nothing_that_was_good(
    train, tmp_path, monkeypatch, factor, step
):
    out = tmp_path / "run"

    def no_number(backward, update, loss):
        return backward(update, loss * float(factor))

    spoilt(monkeypatch, AdamWUpdate, "backward", step, no_number)
    ended = train(out)
    assert wrong_ending(ended, 1) == []
    assert "the last good checkpoint is kept" in ended.err
    assert sorted(path.name for path in out.glob("*.safetensors")) == [BEST, LAST] * (step > 2)


@pytest.mark.parametrize("factor", [fault("D9", "nan"), fault("D10", "inf")])
def test_after_a_loss_that_was_no_number_the_run_goes_on_from_the_last_good_weights(
    train, run, tmp_path, factor
):
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        spoilt(
            patch,
            AdamWUpdate,
            "backward",
            4,
            lambda backward, update, loss: backward(update, loss * float(factor)),
        )
        assert wrong_ending(train(out), 1) == []
    assert wrong_ending(train(out), 0) == []
    assert wrong_tree(out, run) == []


@pytest.mark.fault("D11")
def test_validation_without_numbers_is_never_the_best(train, run, tmp_path):
    out = tmp_path / "run"

    def no_number(judge, method, bag):
        prediction = judge(method, bag)
        prediction.probs[:] = float("nan")
        return prediction

    with pytest.MonkeyPatch.context() as patch:
        spoilt(patch, DBPS, "judge_bag", 3, no_number)  # two slides an epoch
        ended = train(out)
    assert wrong_ending(ended, 1) == []
    assert "no numbers" in ended.err
    history = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(history) == 1
    assert wrong_ending(train(out), 0) == []
    assert wrong_tree(out, run) == []


@pytest.mark.fault("D12")
@pytest.mark.parametrize("chunk", [1, 3])
def test_a_chunk_for_which_there_is_no_memory_is_halved(
    run, predict, predicted, tmp_path, monkeypatch, chunk
):
    """The last bits of a sum depend on how many patches go through the encoder at a time."""
    embed, num_chunks = Encoder.forward, 0

    def starved(encoder: Encoder, pixels: torch.Tensor, *given: object, **named: object):
        nonlocal num_chunks
        num_chunks += 1
        if num_chunks >= chunk and len(pixels) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(encoder, pixels, *given, **named)

    monkeypatch.setattr(Encoder, "forward", starved)
    ended = predict(run)
    assert wrong_ending(ended, 0) == []
    assert ended.err.count("encoder.chunk 32; going on with 16") == 1
    assert ended.err.count("encoder.chunk 16; going on with 8") == 1
    assert json.loads((tmp_path / "out/run.json").read_text())["chunk"] == 8
    table = tmp_path / "out/predictions.csv"
    wanted = read_rows(predicted / "predictions.csv")
    assert wrong_table(table, [row["slide_id"] for row in wanted]) == []
    for row, one in zip(read_rows(table), wanted, strict=True):
        assert float(row["prob_lesion"]) == pytest.approx(float(one["prob_lesion"]), abs=1e-5)


@pytest.mark.fault("D12")
def test_where_not_one_patch_fits_it_is_one_sentence(run, predict, monkeypatch):
    def starved(*_: object, **__: object):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Encoder, "forward", starved)
    ended = predict(run)
    assert wrong_ending(ended, 1) == []
    assert (
        "failed: slide_001: the device's memory is too small for one patch at a time" in ended.out
    )


@pytest.mark.fault("D13")
def test_without_a_gpu_the_cpu_is_taken_and_said_once(
    train, cli, run, store, predicted, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = train(tmp_path / "run", "--device", "auto")
    assert wrong_ending(ended, 0) == []
    assert (ended.out + ended.err).count("no CUDA GPU found") == 1
    assert (tmp_path / "run/metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    ended = timed(cli, "predict", run, store, "-o", tmp_path / "out")
    assert wrong_ending(ended, 0) == []
    assert wrong_tree(tmp_path / "out", predicted) == []
