"""A weights file fits exactly or is refused, by what it is and by what it lacks."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import timm
import torch

from wsi_hr.encoder_args import EncoderArgs, choices_of
from wsi_hr.errors import ConfigError
from wsi_hr.method_config import EncoderConfig
from wsi_hr.models.encoder import Encoder, build_encoder
from wsi_hr.models.thumbnail_vit import build_thumbnail_vit
from wsi_hr.models.timm_nets import _ENCODER, _Plan
from wsi_hr.models.weight_fit import HARMLESS, TimmsOwn, fit
from wsi_hr.models.weight_wrappers import TIERS
from wsi_hr.models.weights_file import identify

from .weights_files import CASES, LOADED, REFUSED, TABLE, WeightsCase

DOCS = Path(__file__).parents[2] / "docs/encoders.md"


def encoder_of(case: WeightsCase, path: Path) -> Encoder:
    settings = {"name": case.name, "weights": str(path), "args": case.args}
    return build_encoder(EncoderConfig.model_validate(settings), case.patch_px)


@pytest.mark.parametrize("case", LOADED, ids=lambda case: case.file)
def test_a_file_that_fits_gives_the_embeddings_of_its_network(case: WeightsCase, tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    case.write(path)
    encoder = encoder_of(case, path).eval()
    assert case.twin is not None
    twin = case.twin().to(memory_format=torch.channels_last)  # pyright: ignore
    x = torch.randn(2, 3, case.patch_px, case.patch_px, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = encoder.net(x), twin(x)
    assert not torch.equal(found[0], found[1])
    if "cls_token" in case.file or "DINOv2" in case.file:  # a sum is taken back: not to the bit
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(found, expected)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.99999
    weights = encoder.origin.weights
    assert weights is not None
    assert case.said in weights.in_words()
    assert weights.identity.bytes == path.stat().st_size
    assert weights.identity.sha256 in weights.in_words()


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.file)
def test_a_file_that_does_not_fit_is_refused_and_told(case: WeightsCase, tmp_path) -> None:
    path = tmp_path / "w.pt"
    case.write(path)
    with pytest.raises(ConfigError) as caught:
        encoder_of(case, path)
    told = str(caught.value)
    assert told.startswith(f"encoder.weights {path}: ")
    assert re.search(case.said, told), told
    assert "\n" not in told
    assert "weights_only" not in told


def test_advice_is_right(tmp_path) -> None:
    """What a refused file is said to need makes it fit."""
    tried = 0
    for case in REFUSED:
        path = tmp_path / "w.pt"
        case.write(path)
        with pytest.raises(ConfigError) as caught:
            encoder_of(case, path)
        advised = re.search(r"--set 'encoder\.args=\{(.*)\}'", str(caught.value))
        if advised is None:
            continue
        pairs = dict(pair.split(": ") for pair in advised[1].split(", "))
        settings = {"name": case.name, "weights": str(path), "args": {**case.args, **pairs}}
        build_encoder(EncoderConfig.model_validate(settings), case.patch_px)
        tried += 1
    assert tried >= 4


def test_the_docs_have_the_table_and_the_lists() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert len(CASES) >= 25
    assert TABLE in text
    for what, names in HARMLESS.items():
        assert f"- {what}: {names}" in " ".join(text.split()).replace(" - ", "\n- ")
    flat = " ".join(text.split())
    for number, tier in enumerate(TIERS, start=1):
        assert f" {number}. {', '.join(f'`{name}`' for name in tier)}" in flat
    rows = [
        f"| `{name}` | {choices_of(name)} | {field.description} |"
        for name, field in EncoderArgs.model_fields.items()
    ]
    assert "\n".join(rows) in text


@pytest.mark.parametrize(
    ("extra", "harmless"),
    [
        ("fc.0.weight", True),
        ("dino_head.mlp.0.weight", True),
        ("head.last_layer.weight", True),
        ("bn1.num_batches_tracked_too", False),
        ("fc_norm.weight", False),
        ("header.weight", False),
        ("rope.periods", False),
        ("layer1.0.adapter.bias", False),
    ],
)
def test_only_listed_tensors_may_be_left_over(extra: str, harmless: bool) -> None:
    net = timm.create_model("test_resnet", num_classes=0)
    found = fit({**net.state_dict(), extra: torch.ones(3)}, net, TimmsOwn())
    assert found.exact == harmless
    assert (found.left_out, found.surplus) == (((extra,), ()) if harmless else ((), (extra,)))


def test_a_bias_is_left_over_only_if_it_is_zero() -> None:
    """DINOv3 has biases of zeros, which timm's network has not; others would be missed."""
    name = "vit_small_patch16_dinov3"
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    net = timm.create_model(name, num_classes=0, **options)
    tensors = dict(net.state_dict())
    tensors["storage_tokens"] = tensors.pop("reg_token")
    for number in (1, 2):
        tensors[f"blocks.0.ls{number}.gamma"] = tensors.pop(f"blocks.0.gamma_{number}")
    tensors["rope_embed.periods"] = torch.ones(4)
    own = _Plan(name, _ENCODER, EncoderArgs.model_validate(options), {}).timms_own()
    for bias, exact in ((torch.zeros(96), True), (torch.ones(96), False)):
        found = fit({**tensors, "blocks.0.attn.qkv.bias": bias}, net, own)
        assert found.exact == exact
        assert ("blocks.0.attn.qkv.bias" in found.surplus) != exact


def test_a_vit_of_a_sampler_is_held_to_its_file_too(tmp_path) -> None:
    path = tmp_path / "w.pt"
    torch.save(timm.create_model("test_vit", init_values=1e-5).state_dict(), path)
    with pytest.raises(ConfigError, match=r"^sampler\.vit_weights .*ls1\.gamma"):
        build_thumbnail_vit("test_vit", str(path))


def test_a_file_is_hashed_once_and_again_when_it_has_changed(tmp_path, monkeypatch) -> None:
    path = tmp_path / "w.pt"
    LOADED[0].write(path)
    hashed: list[int] = []
    real = hashlib.sha256
    monkeypatch.setattr(
        "wsi_hr.models.weights_file.hashlib.sha256", lambda: hashed.append(1) or real()
    )
    first = identify(path, "encoder.weights")
    assert encoder_of(LOADED[0], path).origin.weights.identity == first  # pyright: ignore
    assert len(hashed) == 1
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert identify(path, "encoder.weights") != first
    assert first.sha256 != real(content).hexdigest()


@pytest.mark.parametrize("mlp", ["GluMlp", "SwiGLU", "SwiGLUPacked"])
def test_the_activation_of_a_gated_mlp_is_said(mlp: str) -> None:
    with pytest.raises(ValueError, match="set act_layer too; without it timm takes gelu"):
        EncoderArgs.model_validate({"mlp_layer": mlp})
    assert EncoderArgs.model_validate({"mlp_layer": mlp, "act_layer": "silu"}).act_layer == "silu"
    assert EncoderArgs.model_validate({"mlp_layer": "Mlp"}).act_layer is None
