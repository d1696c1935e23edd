"""Training as a whole: it learns, it resumes to the same bits, it refuses nonsense."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from wsi_hr.bags.bag import Bag
from wsi_hr.config import Config, TrainConfig, resolve_config
from wsi_hr.errors import TrainingError
from wsi_hr.methods import build_method
from wsi_hr.models.encoder import Encoder
from wsi_hr.testing.memory_patches import MemoryPatches
from wsi_hr.training.checkpoint import load_checkpoint
from wsi_hr.training.loop import BEST, LAST, METRICS, TrainingSet, best_epoch, fit
from wsi_hr.training.update import AdamWUpdate, learning_rate


class MemoryBags:
    """Bags by slide id: class 1 has a few bright patches among the dull ones."""

    def __init__(self, num_slides: int) -> None:
        self.bags = {}
        for number in range(num_slides):
            rng = np.random.default_rng(number)
            patches = rng.integers(60, 120, (20 + number % 5, 4, 4, 3), dtype=np.uint8)
            if number % 2:
                patches[rng.integers(0, 20, 4)] = 230
            slide_id = f"s{number:02}"
            self.bags[slide_id] = Bag.of(MemoryPatches(patches, slide_id=slide_id), number % 2)

    def open(self, slide_id: str) -> Bag:
        return self.bags[slide_id]


def data(num_slides: int = 12) -> TrainingSet:
    bags = MemoryBags(num_slides)
    ids = tuple(bags.bags)
    cut = num_slides * 2 // 3
    return TrainingSet(bags, ids[:cut], ids[cut:], {s: b.label for s, b in bags.bags.items()})


def config(method: str = "dbps", **train) -> Config:
    settings = {"epochs": 4, "batch_size": 3, "lr": 0.01} | train
    small = {
        "dbps": ["method.num_salient=4", "method.num_sub_salient=4", "method.heads=2"],
        "patchgd": ["method.head=attention"],
    }
    return resolve_config(
        {"method": {"name": method}, "train": settings}, {"seed": 5}, small[method]
    )


def method_for(cfg: Config) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten())  # fmt: skip
    return build_method(cfg.method, Encoder(net, dim=8, chunk=8), [1.0, 1.0])


@pytest.mark.parametrize("name", ["dbps", "patchgd"])
def test_it_learns_what_can_be_learned(tmp_path, name: str) -> None:
    cfg = config(name, epochs=25)
    history = fit(method_for(cfg), data(), cfg, tmp_path, {})
    assert min(row["train_loss"] for row in history) < 0.7 * history[0]["train_loss"]
    assert history[best_epoch(history)]["val_auc"] == 1.0
    rows = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert rows == history
    best = load_checkpoint(tmp_path / BEST).meta
    assert best["epoch"] == best_epoch(history)


class _Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


@pytest.mark.parametrize("name", ["dbps", "patchgd"])
@pytest.mark.parametrize("steps", [1, 4, 7, 11])
def test_interrupted_and_resumed_gives_the_same_bits(tmp_path, name: str, steps: int) -> None:
    cfg = config(name)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    expected = fit(method_for(cfg), data(), cfg, whole, {})
    left = steps

    def die(_: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Killed

    with pytest.raises(_Killed):
        fit(method_for(cfg), data(), cfg, torn, {}, on_slides=die)
    assert fit(method_for(cfg), data(), cfg, torn, {}) == expected
    for name_ in (BEST, LAST, METRICS):
        assert (whole / name_).read_bytes() == (torn / name_).read_bytes()


def test_a_finished_run_trains_no_more(tmp_path) -> None:
    cfg = config()
    history = fit(method_for(cfg), data(), cfg, tmp_path, {})
    before = (tmp_path / LAST).read_bytes()
    assert fit(method_for(cfg), data(), cfg, tmp_path, {}) == history
    assert (tmp_path / LAST).read_bytes() == before


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
