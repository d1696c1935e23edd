"""Training as a whole: it learns, it resumes to the same bits, it refuses nonsense."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wsi_hr.bags.bag import Bag
from wsi_hr.config import Config, TrainConfig, resolve_config
from wsi_hr.errors import CheckpointError, TrainingError
from wsi_hr.methods import build_method
from wsi_hr.models.encoder import Encoder
from wsi_hr.testing.memory_patches import MemoryPatches
from wsi_hr.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    restore_model,
    save_checkpoint,
)
from wsi_hr.training.loop import BEST, LAST, METRICS, TrainingSet, best_epoch, evaluate, fit
from wsi_hr.training.update import AdamWUpdate, learning_rate


class MemoryBags:
    """Bags by slide id: class 1 has a few bright patches among the dull ones.

    With ``annotated`` the classes of patches are known, but for every fourth slide.
    """

    def __init__(self, num_slides: int, *, annotated: bool = False) -> None:
        self.bags = {}
        for number in range(num_slides):
            rng = np.random.default_rng(number)
            patches = rng.integers(60, 120, (20 + number % 5, 4, 4, 3), dtype=np.uint8)
            if number % 2:
                patches[rng.integers(0, 20, 4)] = 230
            slide_id = f"s{number:02}"
            bright = (patches.mean((1, 2, 3)) > 200).astype(np.int64)
            of_patches = partial(np.copy, bright if number % 4 else np.full(len(bright), -1))
            self.bags[slide_id] = Bag.of(
                MemoryPatches(patches, slide_id=slide_id),
                number % 2,
                of_patches if annotated else None,
            )

    def open(self, slide_id: str) -> Bag:
        return self.bags[slide_id]


def data(num_slides: int = 12, *, annotated: bool = False) -> TrainingSet:
    bags = MemoryBags(num_slides, annotated=annotated)
    ids = tuple(bags.bags)
    cut = num_slides * 2 // 3
    return TrainingSet(bags, ids[:cut], ids[cut:], {s: b.label for s, b in bags.bags.items()})


def config(method: str = "dbps", more: Sequence[str] = (), **train) -> Config:
    settings = {"epochs": 4, "batch_size": 3, "lr": 0.01} | train
    small = {
        "dbps": ["method.num_salient=4", "method.num_sub_salient=4", "method.heads=2"],
        "patchgd": ["method.head=attention"],
        "gd": ["method.memory=checkpoint"],
        "abmil": ["method.width=16", "train.ema=0.9"],
        "abmilx": ["method.width=16", "method.sample=16", "train.ema=0.9"],
        "dense": ["method.head=window", "method.heads=1", "dense.classes=[bright]"],
    }
    text = [*small[method], *more]
    method = "patchgd" if method == "dense" else method
    return resolve_config({"method": {"name": method}, "train": settings}, {"seed": 5}, text)


def method_for(cfg: Config) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten())  # fmt: skip
    frozen = getattr(cfg.method, "exact", False)
    encoder = Encoder(net, dim=8, chunk=8, norm_stats="recalibrate" if frozen else "batch")
    return build_method(cfg.method, encoder, [1.0, 1.0], cfg.dense)


# Twice what each needs on one machine: on another, rounding sends the same seed another way.
@pytest.mark.parametrize(("name", "epochs"), [("dbps", 25), ("patchgd", 50), ("abmilx", 25)])
def test_it_learns_what_can_be_learned(tmp_path, name: str, epochs: int) -> None:
    cfg = config(name, epochs=epochs)
    history = fit(method_for(cfg), data(), cfg, tmp_path, {})
    assert min(row["train_loss"] for row in history) < 0.7 * history[0]["train_loss"]
    assert history[best_epoch(history)]["val_auc"] == 1.0
    rows = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert rows == history
    best = load_checkpoint(tmp_path / BEST).meta
    assert best["epoch"] == best_epoch(history)


def test_the_averaged_weights_are_judged_and_saved_as_best(tmp_path) -> None:
    cfg = config(epochs=3, ema=0.99)
    method = method_for(cfg)
    history = fit(method, data(), cfg, tmp_path, {})
    last, best = load_checkpoint(tmp_path / LAST), load_checkpoint(tmp_path / BEST)
    names = {name.removeprefix("model.") for name in best.tensors}
    assert {name.removeprefix("average.") for name in last.tensors} >= names
    assert not any(name.startswith("average") for name in best.tensors)
    if best.meta["epoch"] == 2:
        for name in names:
            assert torch.equal(best.tensors[f"model.{name}"], last.tensors[f"average.{name}"])
    judged = method_for(cfg)
    restore_model(judged, best, tmp_path)
    expected = evaluate(judged, data(), data().val, cfg.dense)
    row = history[best_epoch(history)]
    assert {name: row[f"val_{name}"] for name in expected} == expected
    moved = [
        n for n in names if not torch.equal(last.tensors[f"model.{n}"], best.tensors[f"model.{n}"])
    ]
    assert moved, "the weights that learn are others"
    assert torch.equal(
        method.state_dict()["classifier.weight"], last.tensors["model.classifier.weight"]
    )


def test_it_learns_the_classes_of_patches(tmp_path) -> None:
    cfg = config("dense", epochs=8, batch_size=2)
    history = fit(method_for(cfg), data(annotated=True), cfg, tmp_path, {})
    assert history[-1]["val_patch_auc"] > 0.99
    totals = [row["val_loss"] + row["val_patch_loss"] for row in history]
    assert best_epoch(history) == int(np.argmin(totals)), "both losses choose"
    (tmp_path / "unknown").mkdir()
    unknown = fit(method_for(config("dense", epochs=1)), data(), config("dense", epochs=1),
                  tmp_path / "unknown", {})  # fmt: skip
    assert not any("patch" in name for name in unknown[0])


@pytest.mark.parametrize("balanced", [False, True])
def test_patches_are_judged_by_the_loss_that_they_are_learned_by(balanced: bool) -> None:
    cfg = config("dense", [f"dense.balanced={balanced}"])
    method, given = method_for(cfg), data(annotated=True)
    found = evaluate(method, given, given.train, cfg.dense)["patch_loss"]
    losses = []
    for bag in map(given.bags.open, given.train):
        probs, labels = method.judge_bag(bag).patch_probs, bag.patch_labels
        each = -np.log(probs[np.arange(len(bag)), labels])
        classes = [labels == c for c in np.unique(labels[labels >= 0])]
        groups = classes if balanced else [labels >= 0]
        losses.append(np.mean([each[of].mean() for of in groups]) if classes else 0.0)
    assert 0.0 in losses, "a slide of which nobody said anything"
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


class _Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


VARIANTS = {
    "dbps": [],
    "dbps with a refreshed scan": [
        "method.score=global", "method.scan_refresh=0.3", "method.explore=none",
    ],
    "patchgd": [],
    "dense": [],
    "gd": [],
    "abmil": [],
    "abmilx": [],
    "patchgd exact": ["method.exact=true", "method.block=2"],
    "patchgd exact averaged": ["method.exact=true", "train.ema=0.9", "encoder.norm_patches=30"],
}  # fmt: skip


@pytest.mark.fault("A2b")
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("steps", [1, 7])
def test_interrupted_and_resumed_gives_the_same_bits(tmp_path, name: str, steps: int) -> None:
    cfg = config(name.split()[0], more=VARIANTS[name])
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    expected = fit(method_for(cfg), data(annotated=name == "dense"), cfg, whole, {})
    left = steps

    def die(_: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Killed

    with pytest.raises(_Killed):
        fit(method_for(cfg), data(annotated=name == "dense"), cfg, torn, {}, on_slides=die)
    assert fit(method_for(cfg), data(annotated=name == "dense"), cfg, torn, {}) == expected
    for name_ in (BEST, LAST, METRICS):
        assert (whole / name_).read_bytes() == (torn / name_).read_bytes()
    assert sorted(path.name for path in torn.iterdir()) == sorted((BEST, LAST, METRICS))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", ["dbps", "patchgd exact averaged"])
def test_dying_at_any_write_costs_nothing_but_time(
    tmp_path, monkeypatch, name: str, after: bool
) -> None:
    """Every rename that makes a file appear is a moment to die, just before and just after it."""
    cfg = config(name.split()[0], more=VARIANTS[name], epochs=3)
    whole = tmp_path / "whole"
    whole.mkdir()
    renames = Renames(monkeypatch, after)
    expected = fit(method_for(cfg), data(), cfg, whole, {})
    num_renames = renames.count
    assert num_renames >= 3 * 2, "last and metrics in every epoch, and best"
    for deadly in range(1, num_renames + 1):
        torn = tmp_path / f"torn{deadly}"
        torn.mkdir()
        renames.die_at(deadly)
        with pytest.raises(_Killed):
            fit(method_for(cfg), data(), cfg, torn, {})
        renames.die_at(None)
        assert fit(method_for(cfg), data(), cfg, torn, {}) == expected
        for name in (BEST, LAST, METRICS):
            assert (whole / name).read_bytes() == (torn / name).read_bytes(), (deadly, name)


class Renames:
    """Counts the renames of files, and dies at one of them."""

    def __init__(self, monkeypatch, after: bool) -> None:
        self.count = 0
        self._deadly: int | None = None
        replace = Path.replace

        def counted(path: Path, target: Path) -> Path:
            self.count += 1
            if self.count == self._deadly and not after:
                raise _Killed
            moved = replace(path, target)
            if self.count == self._deadly:
                raise _Killed
            return moved

        monkeypatch.setattr(Path, "replace", counted)

    def die_at(self, number: int | None) -> None:
        self.count, self._deadly = 0, number


def test_a_best_checkpoint_of_another_epoch_is_noticed_at_once(tmp_path) -> None:
    cfg = config(epochs=3)
    history = fit(method_for(cfg), data(), cfg, tmp_path, {})
    wrong = history[best_epoch(history)]["epoch"] + 1
    checkpoint = load_checkpoint(tmp_path / BEST)
    # the last checkpoint says so too, unless it is itself the best
    assert best_epoch(history) != 2, "the seed was chosen so"
    meta = {**checkpoint.meta, "epoch": wrong}
    save_checkpoint(tmp_path / BEST, Checkpoint(checkpoint.tensors, meta))
    with pytest.raises(CheckpointError, match="which was the best"):
        fit(method_for(cfg), data(), cfg, tmp_path, {})


def test_too_few_patches_for_batch_norm_are_one_sentence(tmp_path) -> None:
    one = data(2)
    one.bags.bags = {
        slide_id: bag.subset(np.zeros(1, np.int64)) for slide_id, bag in one.bags.bags.items()
    }
    alone = TrainingSet(one.bags, ("s00", "s01"), (), one.labels)
    cfg = config(epochs=1, batch_size=1)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 8), nn.BatchNorm1d(8))
    method = build_method(cfg.method, Encoder(net, dim=8, chunk=8), [1.0, 1.0])
    with pytest.raises(
        TrainingError, match=r"s0[01]: too few patches.*encoder.norm_stats=recalibrate"
    ):
        fit(method, alone, cfg, tmp_path, {})


def test_too_little_memory_to_learn_is_one_sentence(tmp_path) -> None:
    cfg = config(epochs=1)
    method = method_for(cfg)

    def starve(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    method.classifier.register_forward_hook(starve)
    with pytest.raises(TrainingError, match=r"3 slide\(s\) at a time; lower train.batch_size"):
        fit(method, data(), cfg, tmp_path, {})


def test_a_finished_run_trains_no_more(tmp_path) -> None:
    cfg = config()
    history = fit(method_for(cfg), data(), cfg, tmp_path, {})
    before = (tmp_path / LAST).read_bytes()
    assert fit(method_for(cfg), data(), cfg, tmp_path, {}) == history
    assert (tmp_path / LAST).read_bytes() == before


@pytest.mark.fault("D9")
def test_an_exploding_loss_stops_and_keeps_the_last_good_weights(tmp_path) -> None:
    cfg = config(epochs=3)
    fit(method_for(cfg), data(), cfg, tmp_path, {})
    good = (tmp_path / BEST).read_bytes(), (tmp_path / LAST).read_bytes()
    longer = config(epochs=6)
    poisoned = data()
    method = method_for(longer)
    method.classifier.register_forward_hook(lambda *args: args[2] * float("nan"))
    with pytest.raises(TrainingError, match="no longer a number|became nan"):
        fit(method, poisoned, longer, tmp_path, {})
    assert good == ((tmp_path / BEST).read_bytes(), (tmp_path / LAST).read_bytes())


def test_without_validation_the_last_epoch_is_best(tmp_path) -> None:
    everything = data()
    alone = TrainingSet(everything.bags, everything.train, (), everything.labels)
    cfg = config(epochs=2)
    history = fit(method_for(cfg), alone, cfg, tmp_path, {})
    assert "val_loss" not in history[0]
    assert load_checkpoint(tmp_path / BEST).meta["epoch"] == 1


def test_seed_changes_the_run_and_nothing_else_does(tmp_path) -> None:
    cfg = config(epochs=1)
    losses = []
    for number, seed in enumerate((5, 5, 6)):
        folder = tmp_path / str(number)
        folder.mkdir()
        seeded = cfg.model_copy(update={"seed": seed})
        losses.append(fit(method_for(cfg), data(), seeded, folder, {})[0]["train_loss"])
    assert losses[0] == losses[1] != losses[2]


def test_learning_rate_warms_up_and_decays() -> None:
    cfg = TrainConfig(epochs=10, lr=1.0, warmup_epochs=2, final_lr=0.1)
    rates = [learning_rate(cfg, e) for e in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0, 0.5, 1.0, 0.55, 0.1])


def test_clipping_limits_the_gradient() -> None:
    layer = nn.Linear(1, 1, bias=False)
    update = AdamWUpdate(layer, TrainConfig(clip_norm=0.5))
    seen = []
    update.optimizer.register_step_pre_hook(lambda *_: seen.append(layer.weight.grad.clone()))
    update.backward(layer(torch.full((1, 1), 100.0)).sum())
    update.step()
    assert seen[0].abs().item() == pytest.approx(0.5, rel=1e-3)
    assert layer.weight.grad is None
