"""A thumbnail transformer's attention, against what its own layers compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsi_hr.errors import ConfigError
from wsi_hr.geometry import Pair, PatchGrid, Size
from wsi_hr.models.thumbnail_vit import (
    MAX_TOKENS,
    ThumbnailViT,
    at_patches,
    build_thumbnail_vit,
    token_grid,
)
from wsi_hr.models.timm_nets import load_net

NAME = "test_vit"  # timm's own tiny one: 16 px tokens, 2 heads, a class token


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A small random transformer, as somebody would have saved it."""
    torch.manual_seed(0)
    net = load_net(NAME, "none").net
    state = {name: t.clone() for name, t in net.state_dict().items()}
    for name in state:  # larger than at the start, so that attention is not flat
        if name.endswith("qkv.weight"):
            state[name] *= 20
    path = tmp_path / "vit.safetensors"
    save_file(state, path)
    return path


def picture(height: int = 70, width: int = 90) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grid_of(coords: np.ndarray, patch_px0: float = 100.0) -> PatchGrid:
    cells = (coords[:, ::-1] // patch_px0).astype(np.int32)
    return PatchGrid(
        coords.astype(np.int32), cells, (50, 50), np.ones(len(coords), np.float32),
        Pair(patch_px0, patch_px0),
    )  # fmt: skip


def test_the_logits_are_those_of_the_last_block(weights: Path) -> None:
    """A softmax over them and the prefix is what the block itself hands to its dropout."""
    vit = build_thumbnail_vit(NAME, str(weights))
    attention = vit.net.blocks[-1].attn
    attention.fused_attn = False
    own = []
    attention.attn_drop.register_forward_hook(lambda module, inputs, out: own.append(out))
    logits = vit.look(picture(), (3, 5))
    assert logits.shape == (attention.num_heads, 3, 5)
    assert logits.dtype == np.float32
    class_token = own[0][0, :, 0, vit.net.num_prefix_tokens :].detach().numpy()
    class_token /= class_token.sum(axis=1, keepdims=True)
    softmax = np.exp(logits.reshape(len(logits), -1))
    softmax /= softmax.sum(axis=1, keepdims=True)
    assert softmax == pytest.approx(class_token, rel=1e-4)
    assert softmax.max() > 2 / 15, "flat attention would prove nothing"


def test_it_looks_the_same_again_and_leaves_no_hook(weights: Path) -> None:
    vit = build_thumbnail_vit(NAME, str(weights))
    assert np.array_equal(vit.look(picture(), (4, 4)), vit.look(picture(), (4, 4)))
    assert not vit.net.blocks[-1].attn._forward_pre_hooks


@pytest.mark.parametrize(
    ("size", "patch_px0", "tokens"),
    [
        (Size(1000, 500), 100.0, (5, 10)),
        (Size(50, 40), 100.0, (1, 1)),
        (Size(100_000, 50_000), 256.0, (32, 64)),
        (Size(10_000_000, 200), 200.0, (1, MAX_TOKENS)),
    ],
)
def test_one_token_a_patch_while_they_are_few(size: Size, patch_px0: float, tokens) -> None:
    found = token_grid(grid_of(np.zeros((1, 2)), patch_px0), size)
    assert found[0] * found[1] <= MAX_TOKENS
    assert np.abs(np.log(np.array(found) / tokens)).max() < 0.05


def test_a_patch_gets_the_token_at_its_centre() -> None:
    logits = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    coords = np.array([[0, 0], [300, 0], [0, 200], [250, 60], [149, 99], [390, 290]])
    found = at_patches(logits, grid_of(coords), Size(400, 300))
    places = [(0, 0), (0, 3), (2, 0), (1, 3), (1, 1), (2, 3)]  # the last one's is off the slide
    assert found.tolist() == [[float(head[place]) for place in places] for head in logits]


def test_places_that_look_different_get_other_logits_in_their_place(weights: Path) -> None:
    """Whatever random weights make of it: the bright corner of a slide is told from the rest."""
    vit = build_thumbnail_vit(NAME, str(weights))
    thumbnail = np.full((64, 64, 3), 30, np.uint8)
    thumbnail[40:, 40:] = 250
    logits = vit.look(thumbnail, (8, 8))
    bright = np.zeros((8, 8), bool)
    bright[5:, 5:] = True
    contrast = logits[:, bright].mean(1) - logits[:, ~bright].mean(1)
    assert (np.abs(contrast) > 0.1).all()


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("test_vit", "none.safetensors", "sampler.vit_weights none.safetensors: no such file"),
        ("vit_nosuch", "pretrained", "sampler.vit vit_nosuch: timm has no such model; near:"),
        ("resnet18", "pretrained", "sampler.vit resnet18: is no vision transformer"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(name: str, given: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_thumbnail_vit(name, given)
    assert str(caught.value).startswith(said)


def test_a_transformer_without_a_class_token_is_refused() -> None:
    net = load_net("vit_tiny_patch16_224", "none", class_token=False, global_pool="avg").net
    with pytest.raises(ConfigError, match="no vision transformer with a class token"):
        ThumbnailViT(net, "vit_tiny_patch16_224")
