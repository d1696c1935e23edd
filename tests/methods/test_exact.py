"""The exact gradient: equal to autograd through everything at once, or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import Recorder, context, pixel_encoder, random_bag
from torch import nn

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import ConfigError
from wsi_hr.method_config import PatchGDConfig
from wsi_hr.methods.patchgd import PatchGD, _block
from wsi_hr.models.encoder import Encoder
from wsi_hr.models.heads import HEADS

DIM = 8


def make(encoder: Encoder | None = None, **settings) -> PatchGD:
    torch.manual_seed(0)
    settings = {"exact": True, "dropout": 0.0} | settings
    encoder = encoder or pixel_encoder(4, DIM)
    return PatchGD(PatchGDConfig(**settings), encoder, [1.0] * 3).double().train()


def bags() -> list[Bag]:
    rng = np.random.default_rng(0)
    holes = np.array([[0, 0], [0, 3], [1, 1], [2, 0], [2, 2], [4, 3], [4, 1]], np.int32)
    return [
        random_bag(rng, 30, label=0, slide_id="full"),
        random_bag(rng, 7, label=2, slide_id="holes", cells=holes, shape=(6, 5)),
        random_bag(rng, 1, label=1, slide_id="one"),
    ]


def whole_slide_gradient(method: PatchGD, slides: list[Bag]) -> dict[str, torch.Tensor]:
    """Autograd through all patches, the pool, the head and the loss at once."""
    units = [method._units(bag) for bag in slides]
    z = [u.vectors(all_, method.encoder(u.read(all_)))[0]
         for u in units for all_ in [np.arange(len(u))]]  # fmt: skip
    method._loss(method.head(_block(units, z)), slides).backward()
    grads = {name: p.grad.clone() for name, p in method.named_parameters()}
    method.zero_grad(set_to_none=True)
    return grads


def exact_gradient(method: PatchGD, slides: list[Bag]) -> dict[str, torch.Tensor]:
    update = Recorder(method)
    method.train_bags(slides, update, context())
    (step,) = update.steps
    return step


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


@pytest.mark.parametrize("block", [None, 2, 100])
@pytest.mark.parametrize("head", HEADS)
def test_it_equals_autograd_through_the_whole_batch(head: str, block: int | None) -> None:
    method = make(head=head, block=block)
    slides = bags()
    expected = whole_slide_gradient(method, slides)
    for name, grad in exact_gradient(method, slides).items():
        assert relative_error(grad, expected[name]) < 1e-10, name


def test_ten_thousand_patches_in_the_memory_of_one_chunk() -> None:
    method = make()
    bag = random_bag(np.random.default_rng(1), 10_000, label=1)
    expected = whole_slide_gradient(method, [bag])
    at_a_time: list[int] = []
    method.encoder.net.register_forward_pre_hook(lambda _, x: at_a_time.append(len(x[0])))
    for name, grad in exact_gradient(method, [bag]).items():
        assert relative_error(grad, expected[name]) < 1e-10, name
    assert max(at_a_time) == method.encoder.chunk == 8
    assert len(at_a_time) == 2 * 10_000 / 8  # the fill and one more pass with gradient


@pytest.mark.parametrize("sample", [0.5, 0.1])
def test_the_sampled_gradient_is_the_exact_one_over_zeta(sample: float) -> None:
    slides = bags()[:1]
    exact = exact_gradient(make(), slides)
    sampled = make(exact=False, sample=sample, accumulate=None)
    update = Recorder(sampled)
    sampled.train_bags(slides, update, context())
    for name, grad in update.steps[0].items():
        zeta = len(update.losses) if name.startswith("encoder") else 1
        assert relative_error(zeta * grad, exact[name]) < 1e-10, name


def test_dropout_is_the_same_in_the_fill_and_in_the_gradient() -> None:
    """A step along the gradient lowers the very loss that the same randomness gives."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, DIM), nn.Dropout(0.5), nn.Tanh())
    method = make(Encoder(net, dim=DIM, chunk=8).double())
    slides = bags()

    def loss_at(move: float, along: dict[str, torch.Tensor] | None = None) -> float:
        update = Recorder(method)
        with torch.no_grad():
            for name, p in method.named_parameters():
                p += move * (along or {}).get(name, torch.zeros(()))
        torch.manual_seed(5)
        loss = method.train_bags(slides, update, context())
        with torch.no_grad():
            for name, p in method.named_parameters():
                p -= move * (along or {}).get(name, torch.zeros(()))
        return loss

    grads = exact_gradient(method, slides)
    assert grads["encoder.net.1.weight"].abs().sum() > 0
    squared = sum(float(g.square().sum()) for g in grads.values())
    step = 1e-5
    slope = (loss_at(step, grads) - loss_at(-step, grads)) / (2 * step)
    assert slope == pytest.approx(squared, rel=1e-6)


def batch_norm_encoder(**settings) -> Encoder:
    net = nn.Sequential(nn.Conv2d(3, DIM, 3), nn.BatchNorm2d(DIM), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten())  # fmt: skip
    return Encoder(net, dim=DIM, chunk=8, **settings).double()


def test_batch_norm_is_refused_unless_frozen() -> None:
    with pytest.raises(
        ConfigError, match=r"1 of the encoder is a batch norm.*norm_stats=recalibrate"
    ):
        make(batch_norm_encoder())
    method, slides = make(batch_norm_encoder(norm_stats="running")), bags()
    expected = whole_slide_gradient(method, slides)
    for name, grad in exact_gradient(method, slides).items():
        assert relative_error(grad, expected[name]) < 1e-10, name


@pytest.mark.parametrize("settings", [{"coverage": 0.5}, {"fill_mode": "train"}])
def test_what_would_make_it_inexact_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="exact visits every patch"):
        PatchGDConfig(exact=True, **settings)
