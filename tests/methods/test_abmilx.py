"""End-to-end ABMILX: what is sampled, at which magnification, and what is predicted from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import Recorder, TableEncoder, context, numbered_bag
from torch import Tensor, nn

from wsi_hr.bags.bag import Bag
from wsi_hr.method_config import ABMILXConfig
from wsi_hr.methods.abmilx import E2EABMILX
from wsi_hr.models.z_block import pad_ragged


def make(**settings) -> E2EABMILX:
    torch.manual_seed(0)
    config = ABMILXConfig(**{"sample": 12, "width": 12, "heads": 3, "dropout": 0.0} | settings)
    encoder = TableEncoder(torch.randn(600, 6, dtype=torch.float64), chunk=16)
    return E2EABMILX(config, encoder, [1.0] * 3).double().train()


def bag(num_high: int, num_low: int | None, *, label: int = 0, slide_id: str = "slide") -> Bag:
    """High patches are numbered from 0, low ones from 300."""
    low = None if num_low is None else numbered_bag(300 + np.arange(num_low), slide_id=slide_id)
    return replace(numbered_bag(np.arange(num_high), label=label, slide_id=slide_id), low=low)


@pytest.mark.parametrize(
    ("high", "low", "sample", "ratio", "expected"),
    [
        (100, 40, 12, 4, (9, 3)),
        (100, 40, 13, 4, (10, 3)),  # floor(s / rho)
        (100, None, 12, 4, (12, 0)),
        (100, 0, 12, 4, (12, 0)),
        (100, 2, 12, 4, (10, 2)),  # too few low ones: high ones take their places
        (5, 40, 12, 4, (5, 3)),  # N < s
        (1, None, 12, 4, (1, 0)),
        (1, 1, 12, 4, (1, 1)),
        (100, 40, 1, 4, (1, 0)),
        (100, 40, 10, 1, (1, 10)),  # at least one of those that are predicted from
    ],
)
def test_how_many_of_which(high: int, low: int | None, sample: int, ratio: float, expected) -> None:
    method = make(sample=sample, ratio=ratio)
    drawn = method.draw(bag(high, low), np.random.default_rng(0))
    assert tuple(len(positions) for positions in drawn) == expected
    for positions, most in zip(drawn, (high, low or 0), strict=True):
        assert len(np.unique(positions)) == len(positions)
        assert ((positions >= 0) & (positions < most)).all()


def test_every_patch_is_as_likely() -> None:
    method, given = make(), bag(30, 10)
    seen_high, seen_low = np.zeros(30), np.zeros(10)
    for seed in range(2000):
        high, low = method.draw(given, np.random.default_rng(seed))
        seen_high[high] += 1
        seen_low[low] += 1
    for seen, p in ((seen_high, 9 / 30), (seen_low, 3 / 10)):
        assert np.abs(seen / 2000 - p).max() < 5 * (p * (1 - p) / 2000) ** 0.5


def test_one_bag_of_both_magnifications_learns() -> None:
    """The step's gradient is autograd's through the drawn patches, and reaches no other."""
    method = make()
    given = [bag(40, 20, label=2, slide_id="a"), bag(5, None, label=1, slide_id="bb"),
             bag(1, 7, label=0, slide_id="ccc")]  # fmt: skip
    update = Recorder(method)
    method.train_bags(given, update, context())
    (step,) = update.steps
    samples = []
    for each in given:
        high, low = method.draw(each, np.random.default_rng(len(each.slide_id)))
        samples.append(method.encoder.table[np.concatenate([high, 300 + low])])
    emb, mask = pad_ragged(samples)
    logits = method.head.classifier(method.head.aggregate.pool(emb, mask))
    nn.functional.cross_entropy(logits, torch.tensor([2, 1, 0])).backward()
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(step[name], parameter.grad, rtol=1e-9, atol=1e-12), name
    learned = step["encoder.table"].abs().sum(1).nonzero()[:, 0]
    assert (learned >= 300).any()
    assert len(learned) <= 12 + 5 + 4


def test_all_high_patches_are_predicted_from_and_no_low_one() -> None:
    method, given = make(), bag(100, 20)
    prediction = method.predict_bag(given)
    table: Tensor = method.encoder.table
    with torch.no_grad():
        seen = method.head.aggregate.attend(table[:100][None], None)
        probs = method.head.classifier(seen.vector).softmax(1)[0]
    assert prediction.probs == pytest.approx(probs.numpy(), abs=1e-9)
    assert prediction.saliency == pytest.approx(seen.weights[0].mean(0).numpy(), abs=1e-9)
    assert prediction.saliency.sum() == pytest.approx(1)
    alone = method.predict_bag(replace(given, low=None))
    assert np.array_equal(alone.probs, prediction.probs)


def test_a_sampler_drops_high_patches_only() -> None:
    given = bag(40, 20).subset(np.arange(3))
    high, low = make().draw(given, np.random.default_rng(0))
    assert (len(high), len(low)) == (3, 3)
    assert given.low is not None
    assert len(given.low) == 20
