"""The moving average of weights: what it is, and that a kill changes nothing about it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsi_hr.config import TrainConfig
from wsi_hr.training.average import WeightAverage
from wsi_hr.training.checkpoint import Checkpoint
from wsi_hr.training.update import AdamWUpdate


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def walk(model: nn.Module, update: AdamWUpdate, num_steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        update.backward(model(x).square().sum())
        update.step()


def test_it_is_the_recursion() -> None:
    model = net()
    update = AdamWUpdate(model, TrainConfig(ema=0.5, lr=0.1, warmup_epochs=0))
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for step in range(1, 21):
        walk(model, update, 1, seed=step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with update.judged():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-14)
        assert model.state_dict()["1.num_batches_tracked"] == 20
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name]), name


def test_an_error_inside_leaves_the_models_own_weights() -> None:
    model = net()
    update = AdamWUpdate(model, TrainConfig(ema=0.9, lr=0.1, warmup_epochs=0))
    walk(model, update, 3)
    own = model[0].weight.clone()

    def fail() -> None:
        with update.judged():
            assert not torch.equal(model[0].weight, own)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(model[0].weight, own)


def test_what_never_changes_is_averaged_to_itself() -> None:
    """To the bit: a frozen encoder's features are kept under its digest."""
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average = WeightAverage(model, 0.9997)
    for _ in range(50):
        average.update()
    with average.in_place():
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), name


def test_it_takes_up_where_it_left_off() -> None:
    config = TrainConfig(ema=0.9, lr=0.1, warmup_epochs=0)
    whole, torn, again = net(), net(), net()
    one, two, three = (AdamWUpdate(model, config) for model in (whole, torn, again))
    walk(whole, one, 4, seed=1)
    walk(whole, one, 4, seed=2)
    walk(torn, two, 4, seed=1)
    again.load_state_dict(torn.state_dict())
    kept = {name: tensor.clone() for name, tensor in two.tensors().items()}
    three.restore(Checkpoint(kept, {}))
    walk(again, three, 4, seed=2)
    for name, tensor in one.tensors().items():
        assert torch.equal(three.tensors()[name], tensor), name


def test_none_is_kept_where_none_is_asked() -> None:
    model = net()
    update = AdamWUpdate(model, TrainConfig())
    walk(model, update, 1)
    assert update.average is None
    assert all(name.startswith("optimizer.") for name in update.tensors())
    with update.judged():
        pass
