"""Encoders: which names, weights and patch sizes are taken, and what stays fixed."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import ConfigError, DeviceMemoryError
from wsi_hr.method_config import EncoderConfig
from wsi_hr.models.encoder import (
    ChunkMemoryError,
    Encoder,
    build_encoder,
    embed_packed,
    frozen,
)
from wsi_hr.testing.memory_patches import MemoryPatches


def config(name: str = "test_resnet", **more) -> EncoderConfig:
    return EncoderConfig(name=name, **more)  # pyright: ignore[reportCallIssue]


def patches(num: int, px: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, px, px, 3), np.uint8)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """A state dict as timm saves it: with the classifier."""
    torch.manual_seed(5)
    return {k: t.contiguous() for k, t in timm.create_model("test_resnet").state_dict().items()}


def same_as(weights: dict[str, torch.Tensor], encoder: Encoder) -> bool:
    return all(
        torch.equal(tensor, weights[key]) for key, tensor in encoder.net.state_dict().items()
    )


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"encoder.name resnt18: timm has no such model; near: .*resnet18"
    ):
        build_encoder(config("resnt18"), 64)
    with pytest.raises(ConfigError, match="timm.list_models"):
        build_encoder(config("§"), 64)
    with pytest.raises(ConfigError, match="Invalid pretrained tag"):
        build_encoder(config("resnet18.nonsense"), 64)
    assert build_encoder(config("resnet18.a1_in1k"), 64).dim == 512


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.bin"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_local_weights_are_loaded(tmp_path, weights, caplog, name: str, wrapped: bool) -> None:
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(weights, path)
    else:
        prefixed = {f"module.{key}": tensor for key, tensor in weights.items()}
        torch.save({"epoch": 3, "state_dict": prefixed} if wrapped else weights, path)
    encoder = build_encoder(config(weights=str(path)), 64)
    assert same_as(weights, encoder)
    assert not caplog.records, "the classifier is left out without a word"
    fresh = build_encoder(config(weights=str(path)), 64, load_weights=False)
    assert not same_as(weights, fresh)


def test_pickled_code_is_never_run(tmp_path) -> None:
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    for name, content, why in (
        ("a.pt", pickle.dumps(Payload()), "cut short or damaged"),
        ("b.bin", b"not weights", "no weights file: it begins with 'not weights'"),
        ("c.safetensors", b"not weights", "no weights file"),
        ("d.pt", b"", "is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=why) as caught:
            build_encoder(config(weights=str(tmp_path / name)), 64)
        assert "\n" not in str(caught.value)
    torch.save({"net": Payload()}, tmp_path / "e.pt")
    with pytest.raises(ConfigError, match="to read it would be to run it"):
        build_encoder(config(weights=str(tmp_path / "e.pt")), 64)
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_refused(tmp_path, weights) -> None:
    path = tmp_path / "w.pt"
    key = "layer1.0.conv1.weight"
    for found, sentence in (
        (weights | {key: torch.zeros(1)}, rf"{key} is \(1,\) there, \("),
        (
            {k: t for k, t in weights.items() if k != key},
            f"it lacks 1 tensors: `{key}`",
        ),
        ([1, 2], "holds a list, not tensors by name"),
        ({"epoch": 3}, "holds no tensors by name, only `epoch`"),
    ):
        torch.save(found, path)
        with pytest.raises(ConfigError, match=sentence):
            build_encoder(config(weights=str(path)), 64)
    with pytest.raises(ConfigError, match="no such file"):
        build_encoder(config(weights=str(tmp_path / "none.pt")), 64)
    torch.save(weights | {"layer9.weight": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match="1 of its tensors have no place here: `layer9.weight`"):
        build_encoder(config(weights=str(path)), 64)


def test_weights_from_the_net_that_cannot_be_had(monkeypatch) -> None:
    def unreachable(*_: object, **options: object) -> nn.Module:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ConfigError, match="no route to host\\); on a machine without internet"):
        build_encoder(config(weights="pretrained"), 64)


def test_a_transformer_is_fitted_to_the_patch(tmp_path) -> None:
    torch.manual_seed(0)
    own = timm.create_model("test_vit", num_classes=0)
    path = tmp_path / "vit.pt"
    torch.save(own.state_dict(), path)
    encoder = build_encoder(config("test_vit", weights=str(path)), 64)
    with frozen(encoder):
        assert encoder(patches(2)).shape == (2, encoder.dim)
    assert encoder.net.pos_embed.shape[1] == 64 // 16 * 64 // 16 + 1
    assert torch.equal(encoder.net.blocks[0].attn.qkv.weight, own.blocks[0].attn.qkv.weight)
    native = build_encoder(config("test_vit", weights=str(path)), 160)
    assert torch.equal(native.net.pos_embed, own.pos_embed)


@pytest.mark.parametrize(
    ("name", "px", "why"),
    [
        ("test_convnext", 8, "cannot take patches of 8 px"),
        ("test_vit", 8, "reads squares of 16 px"),
        ("vit_tiny_patch16_224", 100, "would not see all of a patch of 100 px"),
    ],
)
def test_patches_an_encoder_cannot_take(name: str, px: int, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        build_encoder(config(name), px)
    assert "--patch-size" in str(caught.value)


def test_frozen_batch_norm_keeps_its_statistics_and_learns_the_rest() -> None:
    for stats in ("batch", "running", "recalibrate"):
        freeze = stats != "batch"
        encoder = build_encoder(config(norm_stats=stats), 64)
        before = {k: t.clone() for k, t in encoder.state_dict().items()}
        optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0)
        encoder.train()
        with frozen(encoder):  # leaving it must not thaw anything
            pass
        encoder(patches(4)).square().sum().backward()
        optimizer.step()
        moved = {k for k, t in encoder.state_dict().items() if not torch.equal(t, before[k])}
        statistics = {k for k in before if "running_" in k or "num_batches" in k}
        assert statistics
        assert (not moved & statistics) == freeze
        assert moved - statistics


def test_the_normalisation_goes_into_the_checkpoint_and_comes_back() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    learned = Encoder(net, dim=3, mean=(0.2, 0.3, 0.4), std=(0.1, 0.2, 0.3))
    other = Encoder(net, dim=3)
    other.load_state_dict(learned.state_dict())
    white = np.full((1, 8, 8, 3), 255, np.uint8)
    assert torch.equal(other(white), learned(white))
    assert other(white)[0].tolist() == pytest.approx([8.0, 3.5, 2.0])


class Small(nn.Module):
    """Runs out of memory above ``most`` patches at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.mean((2, 3))


def test_too_large_a_chunk_is_halved_and_said(caplog) -> None:
    roomy, tight, none = (Encoder(Small(most), dim=3, chunk=32) for most in (64, 9, 0))
    given = patches(27, 8)
    with caplog.at_level(logging.WARNING), frozen(roomy, tight, none):
        embedded = tight.embed_padded(given)
        assert torch.equal(embedded, roomy.embed_padded(given))
        assert tight.chunk == 8
        assert "going on with 8" in caplog.text
        with pytest.raises(DeviceMemoryError, match="encoder.chunk is 1 already"):
            none.embed_padded(given)
        assert roomy.embed_padded(given[:0]).shape == (0, 3)


def test_where_activations_are_kept_a_smaller_chunk_is_for_whoever_asked() -> None:
    tight = Encoder(Small(9), dim=3, chunk=32)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(ChunkMemoryError):
            tight.embed_padded(patches(27, 8))
    assert tight.chunk == 32


def test_bags_are_embedded_in_eval_mode_and_the_modes_come_back() -> None:
    """Also of who asks for no more; gradients are the caller's own affair meanwhile."""
    torch.manual_seed(0)
    encoder = Encoder(timm.create_model("test_resnet", num_classes=0), dim=0, chunk=4)
    norms = [one for one in encoder.modules() if isinstance(one, nn.BatchNorm2d)]
    encoder.train()
    norms[0].eval()
    modes = [one.training for one in encoder.modules()]
    given = patches(10)
    bags = [Bag.of(MemoryPatches(given[:6]), 0), Bag.of(MemoryPatches(given[6:]), 1)]
    embedded = torch.empty(10, encoder(given).shape[1])
    with frozen(encoder):
        alone = encoder.embed_padded(given)
    for number, at, part in embed_packed(encoder, bags):
        assert not any(one.training for one in encoder.modules())
        assert torch.is_grad_enabled()
        embedded[at + 6 * number] = part
    assert torch.equal(embedded, alone)
    assert [one.training for one in encoder.modules()] == modes
    some = embed_packed(encoder, bags)
    next(some)
    some.close()
    assert [one.training for one in encoder.modules()] == modes
