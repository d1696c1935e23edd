"""Encoders that end early, and encoders whose batch norms are group norms."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from wsi_hr.errors import ConfigError
from wsi_hr.method_config import EncoderConfig
from wsi_hr.models.encoder import build_encoder, frozen
from wsi_hr.models.encoder_cut import CutNet
from wsi_hr.models.group_norm import to_group_norm

PATCHES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def config(name: str = "test_resnet", **more) -> EncoderConfig:
    return EncoderConfig(name=name, **more)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("name", "stage", "dim"),
    [
        ("test_resnet", "layer3", 192),
        ("test_resnet", "layer1", 32),
        ("test_vit", "blocks.2", 64),
        ("test_convnext", "stages.1", 32),
    ],
)
def test_a_cut_encoder_gives_the_mean_of_its_stage(name: str, stage: str, dim: int) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=0).eval()
    px = whole.pretrained_cfg["input_size"][1]
    image = torch.randn(2, 3, px, px)
    with frozen(whole):
        maps = []
        whole.get_submodule(stage).register_forward_hook(lambda *args: maps.append(args[2]))
        whole(image)
    spatial = maps[0][:, whole.num_prefix_tokens :].mean(1) if maps[0].ndim == 3 else None
    expected = maps[0].mean((2, 3)) if spatial is None else spatial
    num_whole = sum(p.numel() for p in whole.parameters())
    cut = CutNet(copy.deepcopy(whole), stage, name).eval()
    assert cut.dim == dim
    with frozen(cut):
        assert torch.allclose(cut(image), expected, atol=1e-6)
    assert sum(p.numel() for p in cut.parameters()) < num_whole, "what is behind is gone"


def test_the_encoder_is_cut_after_its_weights_are_loaded(tmp_path) -> None:
    torch.manual_seed(3)
    state = timm.create_model("test_resnet").state_dict()
    save_file({k: t.contiguous() for k, t in state.items()}, tmp_path / "w.safetensors")
    encoder = build_encoder(config(cut="layer2", weights=str(tmp_path / "w.safetensors")), 64)
    assert encoder.dim == 48
    assert encoder(PATCHES).shape == (3, 48)
    kept = encoder.net.state_dict()
    assert torch.equal(kept["net.layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert not any("layer3" in key for key in kept)


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"encoder.cut layer9: test_resnet has no such stage; its"
                       r" stages are act1, layer1"):  # fmt: skip
        build_encoder(config(cut="layer9"), 64)
    with pytest.raises(ConfigError, match="it names no stages"):
        CutNet(nn.Linear(1, 1), "layer1", "mine")


def test_group_norm_takes_the_place_and_the_weights_of_batch_norm() -> None:
    net = nn.Sequential(nn.Conv2d(3, 48, 1), nn.BatchNorm2d(48, eps=1e-3), nn.Sequential(
        nn.BatchNorm2d(5), nn.BatchNorm1d(5), nn.BatchNorm2d(4, affine=False)))  # fmt: skip
    with torch.no_grad():
        net[1].weight.uniform_()
        net[1].bias.normal_()
    weight, bias = net[1].weight.clone(), net[1].bias.clone()
    assert to_group_norm(net) == 3
    norm = net[1]
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.num_groups, norm.eps) == (16, 1e-3)
    assert torch.equal(norm.weight, weight)
    assert torch.equal(norm.bias, bias)
    assert net[2][0].num_groups == 1
    assert isinstance(net[2][1], nn.BatchNorm1d), "of vectors, not of images"
    assert net[2][2].weight is None


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_with_group_norm_an_embedding_is_the_patchs_own(name: str) -> None:
    """The second has timm's norms with an activation inside, which must stay."""
    torch.manual_seed(0)
    encoder = build_encoder(config(name, norm="group"), 64).train()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in encoder.modules())
    with torch.no_grad():
        together, alone = encoder(PATCHES), encoder(PATCHES[:1])
    assert torch.allclose(together[:1], alone, atol=1e-5)
    before = timm.create_model(name, num_classes=0)
    acts = [
        sum(isinstance(m, (nn.ReLU, nn.SiLU)) for m in net.modules()) for net in (before, encoder)
    ]
    assert acts[0] == acts[1] > 0


def test_group_norm_where_there_is_nothing_to_replace() -> None:
    with pytest.raises(ConfigError, match="encoder.norm group: test_vit has no batch norm"):
        build_encoder(config("test_vit", norm="group"), 64)
