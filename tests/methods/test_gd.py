"""Plain gradient descent: whatever saves memory, the gradient is autograd's through it all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import Recorder, context, pixel_encoder, random_bag
from torch import Tensor, nn

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.slide_picture import slide_picture
from wsi_hr.errors import TrainingError
from wsi_hr.method_config import GDConfig, PatchGDConfig
from wsi_hr.methods.gd import GD
from wsi_hr.methods.patchgd import PatchGD
from wsi_hr.methods.recomputed import embed_checkpointed
from wsi_hr.models.encoder import Encoder
from wsi_hr.models.heads import HEADS
from wsi_hr.models.z_block import ZBlock
from wsi_hr.slide_prediction import Role
from wsi_hr.testing.memory_patches import MemoryPatches

HOLES = np.array([[0, 0], [0, 3], [1, 1], [2, 0], [2, 2], [4, 3], [4, 1]], np.int32)


def bags() -> list[Bag]:
    rng = np.random.default_rng(0)
    return [
        random_bag(rng, 12, label=0, slide_id="full"),
        random_bag(rng, 7, label=2, slide_id="holes", cells=HOLES, shape=(6, 5)),
        random_bag(rng, 1, label=1, slide_id="one"),
    ]


def make(dropout: float = 0.0, **settings) -> GD:
    torch.manual_seed(0)
    config = GDConfig(dropout=dropout, **settings)
    return GD(config, pixel_encoder(4, 8), [1.0, 2.0, 3.0]).double().train()


def gradient(method: GD | PatchGD, given: list[Bag]) -> dict[str, Tensor]:
    update = Recorder(method)
    torch.manual_seed(1)
    method.train_bags(given, update, context())
    (step,) = update.steps
    return step


def close(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float = 1e-10) -> bool:
    assert first.keys() == second.keys()
    size = max(float(grad.norm()) for grad in second.values())
    return all(
        float((grad - second[name]).norm()) <= tolerance * max(float(grad.norm()), 1e-3 * size)
        for name, grad in first.items()
    )


@pytest.mark.parametrize("head", sorted(HEADS.keys() - {"cnn"}))  # which has batch norm
def test_it_is_autograd_through_the_whole_slide(head: str) -> None:
    method, given = make(head=head), bags()
    found = gradient(method, given)
    embedded = [method.encoder(bag.read(np.arange(len(bag)))) for bag in given]
    cells = [torch.from_numpy(bag.grid.cells.astype(np.int64)) for bag in given]
    logits = method.head(ZBlock.of(embedded, cells, (6, 5)))
    labels = torch.tensor([0, 2, 1])
    each = nn.functional.cross_entropy(logits, labels, reduction="none")
    (each * torch.tensor([1.0, 3.0, 2.0])).mean().backward()
    expected = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    assert close(found, expected)


@pytest.mark.parametrize("head", ["abmil", "abmilx"])
def test_patchgd_gives_the_same_gradient_a_chunk_at_a_time(head: str) -> None:
    torch.manual_seed(0)
    config = PatchGDConfig(exact=True, head=head, dropout=0.0)  # pyright: ignore
    exact = PatchGD(config, pixel_encoder(4, 8, chunk=3), [1.0, 2.0, 3.0]).double().train()
    assert close(gradient(exact, bags()), gradient(make(head=head), bags()))


@pytest.mark.parametrize("settings", [
    {"memory": "checkpoint"}, {"memory": "checkpoint", "segments": 1},
    {"memory": "checkpoint", "segments": 99}, {"memory": "offload"},
    {"micro_batch": 1}, {"micro_batch": 2}, {"micro_batch": 9},
    {"memory": "checkpoint", "segments": 3, "micro_batch": 2},
], ids=str)  # fmt: skip
def test_what_saves_memory_changes_no_gradient(settings: dict) -> None:
    plain = gradient(make(), bags())
    assert close(gradient(make(**settings), bags()), plain)


@pytest.mark.parametrize("settings", [{"micro_batch": 2}, {"memory": "offload"}], ids=str)
def test_nor_that_of_a_picture(settings: dict) -> None:
    """The one difference that micro batches make is dropout, of which a picture has none."""
    plain = gradient(make(input="image", image_px=9), bags())
    assert close(gradient(make(input="image", image_px=9, **settings), bags()), plain)


@pytest.mark.parametrize("memory", ["checkpoint", "offload"])
def test_dropout_is_the_same_the_second_time(memory: str) -> None:
    def noisy(**settings) -> GD:
        method = make(dropout=0.3, **settings)
        method.encoder.net.append(nn.Dropout(0.5))
        return method

    given = bags()
    one_chunk = {"memory": memory} | ({"segments": 1} if memory == "checkpoint" else {})
    assert close(gradient(noisy(**one_chunk), given), gradient(noisy(), given))


def test_batch_norm_counts_a_chunk_once() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    patches = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), np.uint8)
    encoder = Encoder(net, dim=6).train()
    with torch.no_grad():
        encoder(patches[:4])
        encoder(patches[4:])
    once = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    net[1].reset_running_stats()
    embed_checkpointed(encoder, patches, 2).square().sum().backward()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, once[name]), name
    assert net[1].momentum == 0.1


def test_too_many_patches_are_refused_before_any_is_learned_from() -> None:
    method = make(max_patches=11)
    with pytest.raises(TrainingError, match="full: has 12 patches, .* raise method.max_patches"):
        gradient(method, bags())
    assert make(max_patches=11).predict_bag(bags()[0]).role.shape == (12,), "prediction streams"
    gradient(make(max_patches=1, input="image", image_px=9), bags())


def test_a_picture_is_what_the_encoder_sees() -> None:
    method, given = make(input="image", image_px=11), bags()
    seen: list[Tensor] = []
    method.encoder.register_forward_pre_hook(lambda _, args: seen.append(torch.as_tensor(args[0])))
    gradient(method, given)
    for picture, bag in zip(seen[0], given, strict=True):
        assert np.array_equal(picture.numpy(), slide_picture(bag, 11)[0])


@pytest.mark.parametrize(
    "settings", [{"head": "abmil"}, {"input": "image", "image_px": 24}], ids=str
)
def test_the_patch_that_decides_is_the_salient_one(settings: dict) -> None:
    """A network that answers by the brightest red it sees: one patch decides."""
    patches = np.full((30, 4, 4, 3), 90, np.uint8)
    patches[17] = 250

    class Brightest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :1].amax((2, 3)) * 20

    class MaxHead(nn.Module):
        def forward(self, block: ZBlock | Tensor) -> Tensor:
            best = block if isinstance(block, Tensor) else block.emb_BND.amax(1)
            return torch.cat([best, -best], 1)

    cells = np.stack(np.divmod(np.arange(30), 6), 1).astype(np.int32)
    cells = np.concatenate([cells, [[5, c] for c in range(6)]]).astype(np.int32)
    patches = np.concatenate([patches, np.full((6, 4, 4, 3), 90, np.uint8)])
    bag = Bag.of(MemoryPatches(patches, cells=cells, shape=(6, 6)), 0)
    method = GD(
        GDConfig(num_salient=2, num_sub_salient=3, **settings),
        Encoder(Brightest(), dim=1, chunk=8),
        [1.0, 1.0],
        head=MaxHead(),
    )
    if settings.get("input") == "image":
        method.head = MaxHead()
    prediction = method.predict_bag(bag)
    assert prediction.most_salient == 17
    assert prediction.probs[0] > 0.5
    assert (prediction.role == Role.SALIENT).sum() == 2
