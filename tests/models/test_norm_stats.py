"""Statistics of batch norms: those of the sample, to the last digit, whatever norm it is."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from wsi_hr.models.encoder import Encoder, frozen
from wsi_hr.models.norm_stats import has_statistics, norms_of, recalibrate


def patches(num: int, px: int = 32) -> np.ndarray:
    """Patches of the colours of stained tissue, of several textures."""
    rng = np.random.default_rng(0)
    colour = np.array([190, 130, 180]) + rng.integers(-30, 30, (num, 1, 1, 3))
    contrast = rng.uniform(0.2, 1, (num, 1, 1, 1))
    return (colour + contrast * rng.integers(-60, 30, (num, px, px, 3))).astype(np.uint8)


def encoder(net: nn.Module, **settings) -> Encoder:
    return Encoder(net, dim=8, chunk=8, norm_stats="recalibrate", **settings)


def calibrated(model: Encoder, sample: np.ndarray, size: int = 8) -> Encoder:
    with frozen(model):
        chunks = [sample[first : first + size] for first in range(0, len(sample), size)]
        recalibrate(model.net, model.unfolded, chunks)
    return model


def mean_cosine(model: Encoder, sample: np.ndarray) -> float:
    with frozen(model):
        unit = nn.functional.normalize(model(sample))
    num = len(sample)
    return float(((unit @ unit.T).sum() - num) / (num * (num - 1)))


class Shared(nn.Module):
    """One norm that is called twice, a norm that is never called, and one of its own name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.more, self.idle = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.more(self.norm(self.conv(x)))).mean((2, 3))


NETS = {
    "test_resnet": lambda: timm.create_model("test_resnet", num_classes=0),
    "test_efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=0),
    "batch norm of vectors": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 8), nn.BatchNorm1d(8, affine=False),
    ),
    "many processes": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.SyncBatchNorm(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("size", [40, 7])
def test_every_norm_has_the_mean_and_variance_of_what_it_is_given(name: str, size: int) -> None:
    torch.manual_seed(0)
    model, sample = encoder(NETS[name]()).double(), patches(40)
    counters = [norm.num_batches_tracked.clone() for norm in norms_of(model.net).values()]
    calibrated(model, sample, size)
    given: dict[str, Tensor] = {}
    for key, norm in norms_of(model.net).items():
        norm.register_forward_pre_hook(
            lambda _, args, key=key: given.__setitem__(key, args[0].detach())
        )
    with frozen(model):
        model.unfolded(sample)
    assert given
    for key, x in given.items():
        norm = model.net.get_submodule(key)
        axes = [0, *range(2, x.ndim)]
        torch.testing.assert_close(norm.running_mean, x.mean(axes), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            norm.running_var, x.var(axes, correction=0), rtol=1e-9, atol=1e-12
        )
    assert counters == [norm.num_batches_tracked for norm in norms_of(model.net).values()]


@pytest.mark.parametrize("name", ["test_resnet", "a norm that is called twice"])
def test_what_was_there_before_leaves_no_trace(name: str) -> None:
    results = []
    for start in (0.0, 3.0):
        torch.manual_seed(0)
        model = encoder(NETS["test_resnet"]() if name == "test_resnet" else Shared())
        for key in _called(model):
            model.net.get_submodule(key).running_mean += start
        results.append(
            {k: t.clone() for k, t in calibrated(model, patches(20)).state_dict().items()}
        )
        again = calibrated(model, patches(20)).state_dict()
        assert all(torch.equal(results[-1][key], again[key]) for key in again)
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def _called(model: Encoder) -> list[str]:
    return [name for name in norms_of(model.net) if name != "idle"]


def test_blank_embeddings_are_all_alike_until_then() -> None:
    torch.manual_seed(0)
    model, others = encoder(timm.create_model("resnet18", num_classes=0)), patches(200)[100:]
    before = mean_cosine(model, others)
    after = mean_cosine(calibrated(model, patches(100)), others)
    assert before > 0.9
    assert after < 0.5


def test_the_copies_that_stand_for_the_network_follow() -> None:
    torch.manual_seed(0)
    model, sample = encoder(timm.create_model("test_resnet", num_classes=0)).double(), patches(16)
    with frozen(model):
        before = model(sample)  # the scan's copy is made
    with model.train().folded(lambda *_: None), torch.no_grad():
        model(sample)
    calibrated(model, sample)
    with frozen(model):
        expected = model.unfolded(sample)
        torch.testing.assert_close(model(sample), expected)
    assert not torch.allclose(expected, before)
    with model.train().folded(lambda *_: None):
        torch.testing.assert_close(model(sample), expected)


def test_a_norm_that_is_called_twice_and_one_that_is_not() -> None:
    model = calibrated(encoder(Shared()), patches(20))
    assert model.net.idle.running_mean.abs().sum() == 0
    assert model.net.norm.running_mean.abs().sum() > 0
    assert torch.isfinite(model.net.norm.running_var).all()


def test_dropout_plays_no_part_and_modes_come_back() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout(0.5), nn.BatchNorm2d(8),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten())  # fmt: skip
    model, randomness = encoder(net).train(), torch.get_rng_state()
    first = calibrated(model, patches(20)).state_dict()["net.2.running_var"].clone()
    assert torch.equal(first, calibrated(model, patches(20)).net[2].running_var)
    assert torch.equal(torch.get_rng_state(), randomness)
    assert [one.training for one in net] == [True, True, False, True, True]


def test_which_norms_look_at_other_patches() -> None:
    net = nn.Sequential(
        nn.BatchNorm2d(3), nn.BatchNorm1d(3, track_running_stats=False), nn.InstanceNorm2d(3),
        nn.GroupNorm(1, 3), nn.LayerNorm(3), nn.SyncBatchNorm(3),
    )  # fmt: skip
    assert [has_statistics(norm) for norm in norms_of(net).values()] == [True, False, True]
    assert list(norms_of(net)) == ["0", "1", "5"]
    evolved = nn.Sequential(timm.layers.EvoNorm2dB0(8))
    assert norms_of(evolved), "timm's evolved norms look at the batch too"
    assert not norms_of(timm.create_model("test_vit", num_classes=0))
