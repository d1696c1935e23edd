"""Networks are tried with the patches they are for, whatever their stem is called."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from wsi_hr.errors import ConfigError
from wsi_hr.method_config import EncoderConfig
from wsi_hr.models.encoder import build_encoder, frozen


def config(name: str, **more) -> EncoderConfig:
    return EncoderConfig.model_validate({"name": name, **more})


@pytest.mark.parametrize(
    ("name", "px", "takes_half"),
    [
        ("xcit_nano_12_p16_224", 64, True),  # patch_size is a number
        ("efficientvit_m0", 96, True),  # a stem of strided convolutions
        ("pvt_v2_b0", 64, True),  # tokens of 7 px that overlap
        ("levit_128s", 64, False),  # one size, which only its making can set
        ("hiera_tiny_224", 64, False),
        ("mvitv2_tiny", 64, True),
        ("test_vit", 64, True),  # of any size, timm says
        ("deit_tiny_patch16_224", 64, False),
        ("test_resnet", 50, True),
    ],
)
def test_any_stem_embeds_patches(name: str, px: int, takes_half: bool) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(config(name), px)
    patches = np.random.default_rng(0).integers(0, 256, (2, px, px, 3), np.uint8)
    with frozen(encoder):
        embedded = encoder(patches)
    assert embedded.shape == (2, encoder.dim)
    assert encoder.takes_at(0.5) == takes_half


def test_a_transformer_for_any_size_takes_the_half_too() -> None:
    encoder = build_encoder(config("test_vit", args={"dynamic_img_size": True}), 64)
    assert encoder.takes_at(0.5)
    assert not encoder.takes_at(0.4), "its tokens would not cover the picture"


def test_an_overlapping_stem_is_not_taken_for_squares_that_miss_the_edge() -> None:
    """64 is no multiple of 7, and yet every pixel is seen; 72 of tokens of 16 px are not."""
    build_encoder(config("pvt_v2_b0"), 64)
    with pytest.raises(ConfigError, match="reads squares of 16 px, and would not see all"):
        build_encoder(config("test_vit", args={"dynamic_img_size": False}), 72)


def test_trying_changes_nothing_of_the_network() -> None:
    torch.manual_seed(3)
    built = build_encoder(config("test_resnet"), 64).net
    torch.manual_seed(3)
    bare = timm.create_model("test_resnet", num_classes=0)
    for key, one in bare.state_dict().items():
        assert torch.equal(one, built.state_dict()[key])
    assert all(module.training for module in built.modules())


def test_codes_that_timm_does_not_resample_are_said_to_be_for_another_size(tmp_path) -> None:
    path = tmp_path / "w.pt"
    torch.save(timm.create_model("levit_128s").state_dict(), path)
    with pytest.raises(ConfigError, match="timm resamples no position codes of this architecture"):
        build_encoder(config("levit_128s", weights=str(path)), 64)
    assert build_encoder(config("levit_128s", weights=str(path)), 224).dim == 384
