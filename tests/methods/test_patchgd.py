"""PatchGD: the identities of METHODS.md section 3 and the paper's own gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import Recorder, context, numbered_bag, pixel_encoder, random_bag
from torch import nn

from benchmarks.check_golden import check_golden
from wsi_hr.bags.bag import Bag
from wsi_hr.method_config import PatchGDConfig
from wsi_hr.methods.patchgd import PatchGD
from wsi_hr.models.encoder import Encoder
from wsi_hr.models.z_block import ZBlock
from wsi_hr.slide_prediction import Role
from wsi_hr.testing.memory_patches import MemoryPatches


class SmoothHead(nn.Module):
    """A head without batch norm or dropout that mixes neighbouring cells."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(dim, 5, 3, padding=1)
        self.out = nn.Linear(5, 3)

    def forward(self, block: ZBlock) -> torch.Tensor:
        z, mask = block.grid()
        x = torch.tanh(self.mix(z)) * mask[:, None]
        return self.out(x.sum((2, 3)) / mask.sum((1, 2), keepdim=True)[:, 0])


def make(head: nn.Module | None = None, **settings) -> PatchGD:
    torch.manual_seed(0)
    settings = {"sample": 0.25, "accumulate": None, "dropout": 0.0} | settings
    method = PatchGD(
        PatchGDConfig(**settings), pixel_encoder(4, 6), [1.0] * 3, head=head or SmoothHead(6)
    )
    return method.double()


def whole_slide_gradient(method: PatchGD, bags: list[Bag]) -> dict[str, torch.Tensor]:
    """Autograd through everything at once: what PatchGD is to approximate."""
    rows = max(bag.grid.shape[0] for bag in bags)
    cols = max(bag.grid.shape[1] for bag in bags)
    embedded = [method.encoder(bag.read(np.arange(len(bag)))) for bag in bags]
    cells = [torch.from_numpy(bag.grid.cells.astype(np.int64)) for bag in bags]
    logits = method.head(ZBlock.of(embedded, cells, (rows, cols)))
    labels = torch.tensor([bag.label for bag in bags])
    nn.functional.cross_entropy(logits, labels).backward()
    grads = {name: p.grad.clone() for name, p in method.named_parameters()}
    method.zero_grad(set_to_none=True)
    return grads


def ragged_bags() -> list[Bag]:
    rng = np.random.default_rng(0)
    holes = np.array([[0, 0], [0, 3], [1, 1], [2, 0], [2, 2], [4, 3], [4, 1]], np.int32)
    return [
        random_bag(rng, 12, label=0, slide_id="full"),
        random_bag(rng, 7, label=2, slide_id="holes", cells=holes, shape=(6, 5)),
        random_bag(rng, 1, label=1, slide_id="one"),
    ]


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def test_all_patches_in_one_inner_step_is_plain_gradient_descent() -> None:
    method, bags = make(sample=1.0), ragged_bags()
    update = Recorder(method)
    method.train_bags(bags, update, context())
    assert len(update.steps) == 1
    for name, grad in whole_slide_gradient(method, bags).items():
        assert relative_error(update.steps[0][name], grad) < 1e-10, name


@pytest.mark.parametrize("sample", [0.5, 0.25, 0.1])
def test_full_coverage_gives_the_whole_gradient_over_zeta(sample: float) -> None:
    method, bags = make(sample=sample), ragged_bags()
    update = Recorder(method)
    method.train_bags(bags, update, context())
    zeta = len(update.losses)
    assert zeta == {0.5: 2, 0.25: 4, 0.1: 7}[sample]  # at .1: 12 in draws of 2, 7 in draws of 1
    assert len(update.steps) == 1
    for name, grad in whole_slide_gradient(method, bags).items():
        share = zeta if name.startswith("encoder") else 1
        assert relative_error(update.steps[0][name] * share, grad) < 1e-10, name


def test_accumulation_steps_every_epsilon_and_at_the_end() -> None:
    bags = ragged_bags()
    for accumulate, steps in ((1, 4), (2, 2), (3, 2), (4, 1), (9, 1)):
        method = make(accumulate=accumulate)
        update = Recorder(method)
        method.train_bags(bags, update, context())
        assert (len(update.losses), len(update.steps)) == (4, steps)
    # nothing is really updated, so all inner losses are equal; the last group of epsilon = 3 holds
    # one inner step, and is scaled by its real count
    update = Recorder(method := make(accumulate=3))
    method.train_bags(bags, update, context())
    assert update.losses[3] == pytest.approx(3 * update.losses[0], rel=1e-9)


def test_draws_are_disjoint_and_cover_what_is_asked() -> None:
    for num, sample, coverage, most, expected in [
        (100, 0.25, 1.0, 256, [25] * 4),
        (100, 0.07, 0.14, 256, [7, 7]),
        (100, 0.3, 1.0, 256, [30, 30, 30, 10]),
        (100, 0.25, 0.5, 256, [25, 25]),
        (1000, 0.5, 1.0, 300, [300, 300, 300, 100]),
        (1, 0.5, 0.1, 8, [1]),
        (3, 0.01, 1.0, 8, [1, 1, 1]),
        (100, 0.9, 0.3, 256, [30]),
    ]:
        method = make(sample=sample, coverage=coverage, max_sampled=most)
        draws = method._draw(method._units(numbered_bag(np.arange(num))), np.random.default_rng(1))
        assert [len(draw) for draw in draws] == expected
        seen = np.concatenate(draws)
        assert len(np.unique(seen)) == len(seen)
        assert seen.max() < num


def test_fresh_vectors_stay_in_z_for_later_inner_steps() -> None:
    """With an optimiser that really steps, the second inner step sees the first one's vectors."""
    method, bags = make(sample=0.5, accumulate=1), ragged_bags()
    seen: list[torch.Tensor] = []
    method.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].grid()[0].detach()))

    class Descend(Recorder):
        def step(self) -> None:
            with torch.no_grad():
                for p in self.model.parameters():
                    if p.grad is not None:
                        p -= 0.5 * p.grad
            super().step()

    method.train_bags(bags, Descend(method), context())
    first, second = method._draw(method._units(bags[0]), np.random.default_rng(len("full")))
    cells = bags[0].grid.cells
    for k in first:
        r, q = cells[k]
        assert torch.equal(seen[1][0, :, r, q], seen[0][0, :, r, q])
    moved = [not torch.equal(seen[1][0, :, r, q], seen[0][0, :, r, q]) for r, q in cells[second]]
    assert all(moved)


def test_the_patch_that_decides_is_the_salient_one() -> None:
    rng = np.random.default_rng(2)
    dull = rng.integers(100, 110, (30, 4, 4, 3), dtype=np.uint8)
    dull[17] = 255
    bag = Bag.of(MemoryPatches(dull), 0)
    encoder = Encoder(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), dim=3, chunk=8)

    class MaxHead(nn.Module):
        def forward(self, block: ZBlock) -> torch.Tensor:
            z, _ = block.grid()
            peak = z.flatten(2).max(2).values.mean(1)
            return torch.stack([peak, -peak], 1)

    config = PatchGDConfig(num_salient=2, num_sub_salient=3)
    prediction = PatchGD(config, encoder, [1.0, 1.0], head=MaxHead()).predict_bag(bag)
    assert prediction.most_salient == 17
    assert prediction.probs[0] > 0.5
    assert np.bincount(prediction.role, minlength=4).tolist() == [0, 25, 3, 2]
    assert prediction.role[17] == Role.SALIENT
    again = PatchGD(config, encoder, [1.0, 1.0], head=MaxHead()).predict_bag(bag)
    assert np.array_equal(again.saliency, prediction.saliency)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_fill_mode_decides_whether_batch_norm_learns(mode: str) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    encoder = Encoder(net, dim=6, chunk=8)
    method = PatchGD(PatchGDConfig(fill_mode=mode), encoder, [1.0] * 3, head=SmoothHead(6)).train()
    before = net[1].running_mean.clone()
    method._fill(method._units(random_bag(np.random.default_rng(0), 11)))
    assert torch.equal(net[1].running_mean, before) == (mode == "eval")


@pytest.mark.data
def test_the_papers_own_gradients_are_reproduced(shared_golden) -> None:
    """One outer step of the released code: 16 x 16 patches, 8 inner steps, float64."""
    found = check_golden(shared_golden / "patchgd.npz")
    assert sum(finding.quantity.startswith("grad.encoder.") for finding in found) == 6
    assert all(finding.agrees for finding in found), found
