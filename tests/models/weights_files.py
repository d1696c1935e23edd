"""Weights files as they are published and as they go wrong, and what becomes of each."""

from __future__ import annotations

import argparse
import copy
import functools
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save, save_file
from timm.layers import SwiGLUPacked
from torch import Tensor, nn

State = dict[str, Tensor]
SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SMALL_VIT = "vit_tiny_patch16_224"
PACKED: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
PACKED_ARGS: dict[str, Any] = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}


@dataclass(frozen=True)
class WeightsCase:
    """A file, the encoder that it is given to, and what happens.

    Attributes:
        file: what it is, in words.
        outcome: what happens, in words.
        write: writes the file.
        name: of the encoder.
        args: ``encoder.args``.
        patch_px: edge of the patches.
        twin: timm's network with the file's weights, at that size; None: the file is refused.
        said: what is said of it must match, or what it is refused with.
    """

    file: str
    outcome: str
    write: Callable[[Path], None]
    name: str = "test_resnet"
    args: dict[str, Any] = field(default_factory=dict)
    patch_px: int = 64
    twin: Callable[[], nn.Module] | None = None
    said: str = ""


@functools.cache
def made(name: str, **options: Any) -> nn.Module:
    """One of timm's networks, each of its tensors random."""
    torch.manual_seed(7)
    net = timm.create_model(name, **options)
    for key, one in net.state_dict().items():
        if key.endswith("running_var"):
            one.uniform_(0.5, 2)
        elif one.is_floating_point():
            one.normal_(std=0.2)
    return net.eval()


def frozen_options(**options: Any) -> dict[str, Any]:
    return options


def bare(name: str, px: int | None = None, **options: Any) -> Callable[[], nn.Module]:
    """The network without its classifier, brought to ``px`` by timm."""

    def build() -> nn.Module:
        whole = made(name, **options)
        net = timm.create_model(name, **{**options, "num_classes": 0}).eval()
        own = net.state_dict()
        net.load_state_dict({k: t for k, t in whole.state_dict().items() if k in own})
        if px is not None:
            net.set_input_size(img_size=(px, px))
        return net

    return build


def state(name: str, **options: Any) -> State:
    return {key: one.clone() for key, one in made(name, **options).state_dict().items()}


def resnet() -> State:
    return state("test_resnet")


def to_torch(content: Callable[[], Any], **options: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content(), path, **options)


def to_safetensors(content: Callable[[], State]) -> Callable[[Path], None]:
    return lambda path: save_file({k: t.contiguous() for k, t in content().items()}, path)


def to_bytes(content: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda path: None if path.write_bytes(content()) else None


def under(prefix: str, tensors: State) -> State:
    return {f"{prefix}{key}": one for key, one in tensors.items()}


def other(tensors: State) -> State:
    """As many tensors with other values."""
    return {key: one + 1 if one.is_floating_point() else one for key, one in tensors.items()}


def trainers() -> dict[str, Any]:
    return {
        "state_dict": under("module.", resnet()),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []},
        "epoch": 3,
        "best": np.float64(0.5),
        "args": argparse.Namespace(lr=0.1),
    }


def lightning() -> dict[str, Any]:
    net = {key: one for key, one in resnet().items() if not key.startswith("fc.")}
    beside = {"criterion.weight": torch.ones(2), "head.weight": torch.ones(2, 2)}
    return {"state_dict": under("model.", net) | beside, "pytorch-lightning_version": "2"}


def teacher_and_student() -> dict[str, Any]:
    head = {"head.mlp.0.weight": torch.ones(3, 3), "head.last_layer.weight": torch.ones(3, 3)}
    return {
        "teacher": under("backbone.", resnet()) | head,
        "student": under("backbone.", other(resnet())) | head,
    }


def flat_teacher() -> State:
    return (
        under("teacher.backbone.", resnet())
        | under("student.backbone.", other(resnet()))
        | {"teacher.dino_head.mlp.0.weight": torch.ones(3), "dino_loss.center": torch.ones(1, 3)}
    )


def moco() -> dict[str, Any]:
    net = {key: one for key, one in resnet().items() if not key.startswith("fc.")}
    net["fc.0.weight"] = torch.ones(3, 3)
    both = under("module.encoder_q.", net) | under("module.encoder_k.", other(net))
    return {"state_dict": both | {"module.queue": torch.ones(2, 2)}}


DINOV2 = frozen_options(img_size=224, num_classes=0, **SMALL)


def dinov2() -> State:
    """As its makers write it: other names, a class token with a position code of its own."""
    names = {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"}
    found: State = {}
    for key, one in state("vit_giant_patch14_reg4_dinov2", **DINOV2).items():
        for timms, theirs in names.items():
            key = key.replace(timms, theirs)
        found[key] = one
    found["register_tokens"] = found.pop("reg_token")
    code = torch.full((1, 1, 32), 0.5)
    found["cls_token"] = found["cls_token"] - code
    found["pos_embed"] = torch.cat([code, found["pos_embed"]], 1)
    return found | {"mask_token": torch.zeros(1, 32)}


CLIP = frozen_options(num_classes=0, **SMALL)


def clip() -> State:
    """OpenAI's CLIP with both of its towers."""
    swaps = (
        *(("patch_embed.proj", "conv1"), ("pos_embed", "positional_embedding")),
        *(("blocks.", "transformer.resblocks."), ("norm_pre", "ln_pre"), ("norm1", "ln_1")),
        *(("norm2", "ln_2"), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj")),
        *(("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")),
    )
    found: State = {}
    for key, one in state("vit_base_patch16_clip_quickgelu_224", **CLIP).items():
        if key.startswith("norm."):
            key = key.replace("norm.", "ln_post.")
        for timms, theirs in swaps:
            key = key.replace(timms, theirs)
        found[f"visual.{key}"] = one
    found["visual.class_embedding"] = found.pop("visual.cls_token")[0, 0]
    found["visual.positional_embedding"] = found["visual.positional_embedding"][0]
    found["visual.proj"] = torch.ones(32, 16)
    text = {"token_embedding.weight": torch.ones(5, 4), "logit_scale": torch.ones(())}
    return found | text | {"transformer.resblocks.0.ln_1.weight": torch.ones(4)}


def program() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("net/code/__torch__.py", "class Net: pass")
        archive.writestr("net/constants.pkl", b"\x80\x02.")
        archive.writestr("net/data.pkl", b"\x80\x02.")
    return held.getvalue()


def npz() -> bytes:
    held = io.BytesIO()
    np.savez(held, kernel=np.zeros(3))
    return held.getvalue()


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def flipped(content: bytes) -> bytes:
    turned = bytearray(content)
    turned[len(turned) // 2] ^= 1
    return bytes(turned)


def saved(content: Any) -> bytes:
    held = io.BytesIO()
    torch.save(content, held)
    return held.getvalue()


def with_a_negative_variance() -> State:
    found = resnet()
    found["layer2.0.bn2.running_var"].view(-1)[3] = -1e-3
    return found


def zero_norm_biases() -> State:
    found = state(SMALL_VIT, img_size=64, num_classes=0, **SMALL)
    for key, one in found.items():
        if "norm" in key and key.endswith("bias"):
            one.zero_()
    return found


def with_nan() -> State:
    found = resnet()
    found["layer2.0.conv1.weight"].view(-1)[3] = float("nan")
    return found


UNI = frozen_options(init_values=1e-5, **SMALL)
UNI2 = frozen_options(
    img_size=224, patch_size=14, init_values=1e-5, mlp_ratio=2.66667 * 2, no_embed_class=True,
    reg_tokens=8, dynamic_img_size=True, num_classes=0, **SMALL,
)  # fmt: skip
VIRCHOW2 = frozen_options(
    img_size=224, init_values=1e-5, mlp_ratio=5.3375, reg_tokens=4, dynamic_img_size=True,
    num_classes=0, **SMALL,
)  # fmt: skip
OPTIMUS = frozen_options(img_size=224, init_values=1e-5, num_classes=0, **SMALL)
GIGAPATH = frozen_options(
    img_size=224, patch_size=16, init_values=1e-5, mlp_ratio=5.33334, num_classes=0, **SMALL
)


def args_of(options: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {key: value for key, value in {**options, **more}.items() if key != "num_classes"}


LOADED = [
    WeightsCase(
        "timm's `.safetensors`, with its classifier",
        "loads; the classifier is not used",
        to_safetensors(resnet), twin=bare("test_resnet"), said="not used: fc.bias, fc.weight",
    ),
    WeightsCase(
        "what `torch.save` wrote, called `.safetensors`",
        "loads: the first bytes say what it is, not the name",
        to_torch(resnet), twin=bare("test_resnet"),
    ),
    WeightsCase(
        "what `torch.save` wrote before PyTorch 1.6",
        "loads",
        to_torch(resnet, _use_new_zipfile_serialization=False), twin=bare("test_resnet"),
    ),
    WeightsCase(
        "a trainer's checkpoint: `state_dict` with `module.` before each name, beside optimiser, "
        "epoch and arguments",
        "loads the network; says what was taken off",
        to_torch(trainers), twin=bare("test_resnet"),
        said="taken from `state_dict`; names without `module.`",
    ),
    WeightsCase(
        "a compiled network inside another wrapper: `_orig_mod.module.`",
        "loads; says what was taken off",
        to_safetensors(lambda: under("_orig_mod.module.", resnet())), twin=bare("test_resnet"),
        said="names without `_orig_mod.`; names without `module.`",
    ),
    WeightsCase(
        "Lightning's checkpoint: `model.` before the network's names, a loss and a head beside it",
        "loads the network; says what was left",
        to_torch(lightning), twin=bare("test_resnet"),
        said="names without `model.`, and none of `criterion`, `head`",
    ),
    WeightsCase(
        "weights and their moving average (`model`, `model_ema`)",
        "loads the average, and says so",
        to_torch(lambda: {"model": other(resnet()), "model_ema": resnet()}),
        twin=bare("test_resnet"), said="taken from `model_ema`, not from `model`",
    ),
    WeightsCase(
        "teacher and student with projection heads (`teacher`, `backbone.`)",
        "loads the teacher's backbone, and says so",
        to_torch(teacher_and_student), twin=bare("test_resnet"),
        said="taken from `teacher`, not from `student`; names without `backbone.`, and none of "
        "`head`",
    ),
    WeightsCase(
        "the same in one table of names (`teacher.backbone.`), with the loss's own tensor",
        "loads the teacher's backbone, and says so",
        to_safetensors(flat_teacher), twin=bare("test_resnet"),
        said="names without `teacher.`, and none of `student`, `dino_loss`",
    ),
    WeightsCase(
        "MoCo's two networks (`module.encoder_q.`, `encoder_k.`), an MLP as their head, a queue",
        "loads the one that learns, and says so",
        to_torch(moco), twin=bare("test_resnet"),
        said="names without `encoder_q.`, and none of `encoder_k`, `queue`; not used: fc.0.weight",
    ),
    WeightsCase(
        "batch norms without their counters",
        "loads; the counters start at 0",
        to_torch(lambda: {k: t for k, t in resnet().items() if "num_batches" not in k}),
        twin=bare("test_resnet"), said="counters start at 0",
    ),
    WeightsCase(
        "UNI's layout: ViT-L/16 with LayerScale, given `init_values`",
        "loads; embeddings are the published network's",
        to_torch(lambda: state("vit_large_patch16_224", **UNI)), "vit_large_patch16_224",
        args_of(UNI, dynamic_img_size=True), 224, bare("vit_large_patch16_224", **UNI),
    ),
    WeightsCase(
        "UNI2-h's layout: registers, SwiGLU, no position code of the class token, given as "
        "published",
        "loads; embeddings are the published network's",
        to_torch(lambda: state("vit_giant_patch14_224", **UNI2, **PACKED)),
        "vit_giant_patch14_224", args_of(UNI2, **PACKED_ARGS), 224,
        bare("vit_giant_patch14_224", **UNI2, **PACKED),
    ),
    WeightsCase(
        "Virchow2's layout: ViT-H/14, registers, SwiGLU, given as published",
        "loads; embeddings are the published network's",
        to_safetensors(lambda: state("vit_huge_patch14_224", **VIRCHOW2, **PACKED)),
        "vit_huge_patch14_224", args_of(VIRCHOW2, **PACKED_ARGS), 224,
        bare("vit_huge_patch14_224", **VIRCHOW2, **PACKED),
    ),
    WeightsCase(
        "H-optimus-0's layout: ViT-g/14 with four registers, given as published",
        "loads; embeddings are the published network's",
        to_torch(lambda: state("vit_giant_patch14_reg4_dinov2", **OPTIMUS)),
        "vit_giant_patch14_reg4_dinov2", args_of(OPTIMUS), 224,
        bare("vit_giant_patch14_reg4_dinov2", **OPTIMUS),
    ),
    WeightsCase(
        "Prov-GigaPath's layout: ViT-g with tokens of 16 px, given as published",
        "loads; embeddings are the published network's",
        to_torch(lambda: state("vit_giant_patch14_dinov2", **GIGAPATH)),
        "vit_giant_patch14_dinov2", args_of(GIGAPATH), 224,
        bare("vit_giant_patch14_dinov2", **GIGAPATH),
    ),
    WeightsCase(
        "DINOv2's own names (`register_tokens`, `w12`, `mask_token`)",
        "loads: timm's own function renames them",
        to_torch(dinov2), "vit_giant_patch14_reg4_dinov2", args_of(DINOV2), 224,
        bare("vit_giant_patch14_reg4_dinov2", **DINOV2), said="names as timm has them",
    ),
    WeightsCase(
        "OpenAI's CLIP, the tower for pictures and that for text",
        "loads the one that sees; says that the other was left",
        to_torch(clip), "vit_base_patch16_clip_quickgelu_224", args_of(CLIP), 224,
        bare("vit_base_patch16_clip_quickgelu_224", **CLIP),
        said="3 tensors are of another network in the file",
    ),
    WeightsCase(
        "position codes for 224 px, with patches of 64 px",
        "loads; the codes are resampled as timm does it, and that is said",
        to_torch(lambda: state(SMALL_VIT, **SMALL)), SMALL_VIT, SMALL, 64,
        bare(SMALL_VIT, 64, **SMALL), said="pos_embed resampled",
    ),
    WeightsCase(
        "position codes for patches of 64 px, in an encoder that timm lists with 224 px",
        "loads as it is",
        to_torch(lambda: state(SMALL_VIT, img_size=64, **SMALL)), SMALL_VIT, SMALL, 64,
        bare(SMALL_VIT, img_size=64, **SMALL),
    ),
]  # fmt: skip

REFUSED = [
    WeightsCase(
        "UNI's layout without `init_values`",
        "refused: LayerScale has no place; told which `encoder.args` it needs",
        to_torch(lambda: state("vit_large_patch16_224", **UNI)), "vit_large_patch16_224", SMALL,
        said=r"4 of its tensors have no place here: `blocks.0.ls1.gamma`.*begin with `blocks` "
        r"\(28\).*it would fit with --set 'encoder.args=\{init_values: 1e-05\}'",
    ),
    WeightsCase(
        "UNI2-h's layout with no `encoder.args` but its size",
        "refused; told all that it needs, and that its activation no tensor tells",
        to_torch(lambda: state("vit_giant_patch14_224", **UNI2, **PACKED)),
        "vit_giant_patch14_224", SMALL, 224,
        said=r"would fit with .*reg_tokens: 8, no_embed_class: true, .*mlp_layer: SwiGLUPacked, "
        r"act_layer: silu\}' \(its activation no tensor tells",
    ),
    WeightsCase(
        "queries and keys with norms, in an encoder without",
        "refused; told that `qk_norm: true` would fit",
        to_torch(lambda: state(SMALL_VIT, qk_norm=True, **SMALL)), SMALL_VIT, SMALL,
        said=r"`blocks.0.attn.q_norm.weight`.*would fit with .*\{qk_norm: true\}",
    ),
    WeightsCase(
        "tokens of 16 px in an encoder with tokens of 14 px",
        "refused, though timm would stretch them; told that `patch_size: 16` would fit",
        to_torch(lambda: state("vit_giant_patch14_dinov2", **GIGAPATH)),
        "vit_giant_patch14_dinov2", args_of(GIGAPATH, patch_size=14), 224,
        said=r"a kernel of another size there.*would fit with .*\{patch_size: 16\}",
    ),
    WeightsCase(
        "tokens of 16 px in ViT-B/32, whose stretched kernel is as large as one of its matrices",
        "refused; told that `patch_size: 16` would fit",
        to_torch(lambda: state("vit_base_patch16_224", img_size=64, depth=1, num_classes=0)),
        "vit_base_patch32_224", {"depth": 1},
        said=r"a kernel of another size there.*would fit with .*\{patch_size: 16\}",
    ),
    WeightsCase(
        "tokens of 32 px in ViT-B/16, likewise",
        "refused; told that `patch_size: 32` would fit",
        to_torch(lambda: state("vit_base_patch32_224", img_size=64, depth=1, num_classes=0)),
        "vit_base_patch16_224", {"depth": 1},
        said=r"a kernel of another size there.*would fit with .*\{patch_size: 32\}",
    ),
    WeightsCase(
        "norms that subtract the mean, their biases 0, in an encoder given `norm_layer: rmsnorm`",
        "refused: such norms are of another kind",
        to_torch(zero_norm_biases), SMALL_VIT, {**SMALL, "norm_layer": "rmsnorm"},
        said=r"5 of its tensors have no place here: `blocks.0.norm1.bias`",
    ),
    WeightsCase(
        "shapes without values (`meta`)", "refused: names the tensor",
        to_torch(lambda: {key: one.to("meta") for key, one in resnet().items()}),
        said="has a shape and no values",
    ),
    WeightsCase(
        "a ResNet with squeeze-and-excitation blocks, in one without",
        "refused: the blocks have no place",
        to_torch(lambda: state("seresnet18")), "resnet18",
        said=r"32 of its tensors have no place here: `layer1.0.se.fc1.weight`",
    ),
    WeightsCase(
        "one tensor less",
        "refused: says which",
        to_torch(lambda: {k: t for k, t in resnet().items() if k != "layer1.0.conv1.weight"}),
        said="it lacks 1 tensors: `layer1.0.conv1.weight`",
    ),
    WeightsCase(
        "a network of another width",
        "refused: says which tensor, and both shapes",
        to_torch(lambda: state("resnet18")),
        said=r"conv1.* is \(.*\) there, \(.*\) here|it lacks",
    ),
    WeightsCase(
        "two whole networks (`model`, `state_dict`), and nothing that says which",
        "refused: names both",
        to_torch(lambda: {"model": resnet(), "state_dict": other(resnet())}),
        said="holds several networks, `state_dict`, `model`, and nothing says which",
    ),
    WeightsCase(
        "a backbone, and beside it another part that is no head",
        "refused: names the part",
        to_torch(lambda: under("backbone.", resnet()) | {"neck.0.weight": torch.ones(2)}),
        said="others that are of no head: `neck`",
    ),
    WeightsCase(
        "values that are not numbers (NaN)",
        "refused: names the tensor",
        to_torch(with_nan), said="layer2.0.conv1.weight has values that are not finite",
    ),
    WeightsCase(
        "a batch norm's variance below 0",
        "refused: names the tensor",
        to_torch(with_a_negative_variance), said="bn2.running_var is a variance and below 0",
    ),
    WeightsCase(
        "whole numbers of a quantised network",
        "refused: names the type",
        to_torch(lambda: {k: t.to(torch.int8) for k, t in resnet().items()}),
        said="is of type int8, as quantised weights are",
    ),
    WeightsCase(
        "a whole network, pickled (`torch.save(net)`)",
        "refused without running it; torch's advice to load it unsafely is not passed on",
        to_torch(lambda: copy.deepcopy(made("test_resnet"))),
        said=r"holds an object of Python \(timm\.models\.\w+\.\w+\)",
    ),
    WeightsCase(
        "TorchScript", "refused: it is a program", to_bytes(program), said="is TorchScript",
    ),
    WeightsCase(
        "JAX's weights (`.npz`)", "refused: says what it is", to_bytes(npz), said=r"NumPy's .npz",
    ),
    WeightsCase(
        "a pointer of Git LFS",
        "refused: says how to fetch the weights",
        to_bytes(lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        said="is a pointer of Git LFS .*git lfs pull",
    ),
    WeightsCase(
        "a web page, as a site answers to who is not logged in",
        "refused: says so",
        to_bytes(lambda: b"\n<!DOCTYPE html><html><body>Log in</body></html>"),
        said="is a web page",
    ),
    WeightsCase(
        "the index of weights in several files",
        "refused: says how many, and to join them",
        to_bytes(lambda: json.dumps({"weight_map": {"a": "1.pt", "b": "2.pt"}}).encode()),
        said="is the index of weights in 2 files",
    ),
    WeightsCase(
        "`.safetensors` cut short",
        "refused: says how many bytes are missing",
        to_bytes(lambda: cut(save({k: t.contiguous() for k, t in resnet().items()}))),
        said=r"is cut short: \d+ bytes of \d+",
    ),
    WeightsCase(
        "what `torch.save` wrote, cut short",
        "refused: says so",
        to_bytes(lambda: cut(saved(resnet()))), said="is cut short or damaged",
    ),
    WeightsCase(
        "what `torch.save` wrote, with one bit turned over",
        "refused: says so, though torch would load it",
        to_bytes(lambda: flipped(saved(resnet()))), said="does not match its checksum",
    ),
    WeightsCase("an empty file", "refused: says so", to_bytes(lambda: b""), said="is empty"),
]  # fmt: skip

CASES = [*LOADED, *REFUSED]
TABLE = "\n".join(
    ["| Weights file | What happens |", "| -| -|"]
    + [f"| {case.file} | {case.outcome} |" for case in CASES]
)
"""The table of docs/encoders.md."""
