"""Learning the classes of patches: the loss by hand, exact gradients, and who can do it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import Recorder, context, pixel_encoder, random_bag
from torch import nn

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import ConfigError
from wsi_hr.method_config import DBPSConfig, DenseConfig, GDConfig, PatchGDConfig
from wsi_hr.methods import build_method
from wsi_hr.methods.dense import patch_loss
from wsi_hr.methods.patchgd import PatchGD
from wsi_hr.models.z_block import ZBlock

DENSE = DenseConfig(classes=("a", "b"), weight=0.7, balanced=False)
HOLES = np.array([[0, 0], [0, 3], [1, 1], [2, 0], [2, 2], [4, 3], [4, 1]], np.int32)
LABELS = {
    "full": np.array([0, 0, 1, 2, -1, -1, 0, 1, 1, 2, 0, 0]),
    "holes": np.array([-1, -1, 2, -1, -1, -1, 0]),
    "unknown": np.full(3, -1),
}


def bag(slide_id: str, *, label: int, **facts) -> Bag:
    labels = LABELS.get(slide_id)
    source = random_bag(np.random.default_rng(label), facts.pop("num"), slide_id=slide_id, **facts)
    return Bag.of(source.source, label, None if labels is None else lambda: labels)


def bags() -> list[Bag]:
    return [
        bag("full", num=12, label=0),
        bag("holes", num=7, label=2, cells=HOLES, shape=(6, 5)),
        bag("unknown", num=3, label=1),
        bag("not annotated", num=2, label=0),
    ]


def make(head: str = "window", dense: DenseConfig | None = DENSE, **settings) -> PatchGD:
    torch.manual_seed(0)
    config = PatchGDConfig(
        head=head, dropout=0.0, **({"sample": 0.25, "accumulate": None} | settings)
    )
    method = build_method(config, pixel_encoder(4, 8), [1.0] * 3, dense)
    assert isinstance(method, PatchGD)
    return method.double()


def block_of(method: PatchGD, some: list[Bag]) -> ZBlock:
    embedded = [method.encoder(b.read(np.arange(len(b)))) for b in some]
    cells = [torch.from_numpy(b.grid.cells.astype(np.int64)) for b in some]
    shape = max(b.grid.shape[0] for b in some), max(b.grid.shape[1] for b in some)
    return ZBlock.of(embedded, cells, shape)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_patches_loss_by_hand(balanced: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 12, 3, dtype=torch.float64, requires_grad=True)
    found = patch_loss(logits, bags(), balanced=balanced)
    total = torch.zeros((), dtype=torch.float64)
    for b, slide_id in enumerate(("full", "holes")):
        of_class: dict[int, list[torch.Tensor]] = {}
        for n, label in enumerate(LABELS[slide_id]):
            if label >= 0:
                group = of_class.setdefault(int(label) if balanced else 0, [])
                group.append(-logits[b, n].log_softmax(0)[label])
        means = [torch.stack(group).mean() for group in of_class.values()]
        total = total + torch.stack(means).mean()
    assert torch.allclose(found, total / 4)
    found.backward()
    size = logits.grad.abs().sum(2)
    assert (size[0] > 0).tolist() == (LABELS["full"] >= 0).tolist()
    assert size[1].nonzero()[:, 0].tolist() == [2, 6]
    assert not size[2:].any(), "patches nobody has said anything about"


def test_without_a_known_patch_the_slides_are_learned_from_as_before() -> None:
    results = []
    for dense in (DENSE, None):
        method = make(dense=dense)
        some = [bag("unknown", num=3, label=1), bag("not annotated", num=2, label=0)]
        update = Recorder(method)
        method.train_bags(some, update, context())
        results.append(update)
    assert results[0].losses == pytest.approx(results[1].losses, rel=1e-12)
    for name, grad in results[1].steps[0].items():
        assert torch.allclose(results[0].steps[0][name], grad, rtol=1e-9, atol=1e-15), name


@pytest.mark.parametrize("head", ["window", "transformer"])
@pytest.mark.parametrize("sample", [1.0, 0.25])
def test_full_coverage_gives_the_gradient_of_both_losses_over_zeta(head, sample) -> None:
    method, some = make(head, sample=sample), bags()
    update = Recorder(method)
    method.train_bags(some, update, context())
    zeta = len(update.losses)
    assert zeta == round(1 / sample)
    block = block_of(method, some)
    reading = method.head.read(block)
    labels = torch.tensor([b.label for b in some])
    loss = nn.functional.cross_entropy(reading.slide_BC, labels)
    loss = loss + 0.7 * patch_loss(reading.patch_BNK, some)
    assert update.losses[0] == pytest.approx(loss.item() / zeta, rel=1e-9)
    loss.backward()
    for name, p in method.named_parameters():
        share = zeta if name.startswith("encoder") else 1
        assert torch.allclose(update.steps[0][name] * share, p.grad, rtol=1e-8, atol=1e-13), name


@pytest.mark.parametrize("head", ["window", "transformer", "cnn"])
def test_a_prediction_has_a_probability_for_every_patch_and_class(head) -> None:
    method = make(head).eval()
    some = bags()[1]
    prediction = method.predict_bag(some)
    assert prediction.patch_probs is not None
    with torch.no_grad():
        logits = method.head.dense(block_of(method, [some]))[0]
    assert prediction.patch_probs.shape == (7, 3)
    assert np.allclose(prediction.patch_probs, logits.softmax(1), atol=1e-6)
    assert np.array_equal(method.predict_bag(some).patch_probs, prediction.patch_probs)
    assert np.array_equal(method.judge_bag(some).patch_probs, prediction.patch_probs)
    assert make(head, None).predict_bag(some).patch_probs is None


@pytest.mark.parametrize("settings", [{}, {"micro_batch": 1}, {"memory": "checkpoint"}], ids=str)
@pytest.mark.parametrize("head", ["window", "transformer"])
def test_gd_learns_them_as_patchgd_does_in_one_step(head: str, settings: dict) -> None:
    torch.manual_seed(0)
    config = GDConfig(head=head, dropout=0.0, **settings)  # pyright: ignore
    gd = build_method(config, pixel_encoder(4, 8), [1.0] * 3, DENSE).double()
    patchgd, some = make(head, sample=1.0), bags()
    said = []
    for method in (gd, patchgd):
        update = Recorder(method)
        method.train_bags(some, update, context())
        said.append((sum(update.losses), update.steps[0], method.eval().predict_bag(some[1])))
    assert said[0][0] == pytest.approx(said[1][0], rel=1e-9)
    for name, grad in said[1][1].items():
        assert torch.allclose(said[0][1][name], grad, rtol=1e-8, atol=1e-13), name
    found, expected = (prediction.patch_probs for _, _, prediction in said)
    assert np.allclose(found, expected, atol=1e-6)
    assert np.array_equal(gd.judge_bag(some[1]).patch_probs, found)


def test_windows_are_learned_from_by_their_own_patches() -> None:
    method = make(sample=1.0)
    whole = bag("full", num=12, label=0)
    update = Recorder(method)
    method.train_bags([whole.subset(np.array([2, 3, 9]))], update, context())
    block = block_of(method, [whole.subset(np.array([2, 3, 9]))])
    logits = method.head.dense(block)[0]
    slide = nn.functional.cross_entropy(method.head(block), torch.tensor([0]))
    patches = nn.functional.cross_entropy(logits, torch.tensor([1, 2, 2]))
    assert update.losses[0] == pytest.approx((slide + 0.7 * patches).item(), rel=1e-9)


def test_who_cannot_do_it_says_so_and_who_can() -> None:
    encoder = pixel_encoder(4, 8)
    with pytest.raises(ConfigError, match=r"labels of slides only.*--method patchgd or gd"):
        build_method(DBPSConfig(heads=2), encoder, [1.0] * 3, DENSE)
    with pytest.raises(ConfigError, match=r"method\.head=cnn or transformer or window"):
        build_method(PatchGDConfig(head="attention"), encoder, [1.0] * 3, DENSE)
    with pytest.raises(ConfigError, match=r"one picture, which has no patches; use method"):
        build_method(GDConfig(input="image", image_px=9), encoder, [1.0] * 3, DENSE)
    build_method(DBPSConfig(heads=2), encoder, [1.0] * 3, DenseConfig())
