"""What a weights file that does not fit says of the network that it is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def args_in_file(tensors: Mapping[str, Tensor], net: nn.Module) -> dict[str, Any]:
    """``encoder.args`` by which a transformer would differ as the file's tensors do.

    Tensors tell sizes and parts; they do not tell the number of heads or which activation there is.

    Args:
        tensors: of the file, unwrapped, in any layout that is near timm's.
        net: the network that they did not fit.
    """
    own = net.state_dict()
    found: dict[str, Any] = {}
    kernel = _kernel(tensors.get("patch_embed.proj.weight"))
    if kernel is not None and kernel != _kernel(own.get("patch_embed.proj.weight")):
        found["patch_size"] = kernel
    width = _size(tensors.get("patch_embed.proj.weight"), 0)
    if width and width != _size(own.get("patch_embed.proj.weight"), 0):
        found["embed_dim"] = width
    num_blocks, num_own = _num_blocks(tensors), _num_blocks(own)
    if num_blocks and num_own and num_blocks != num_own:
        found["depth"] = num_blocks
    if _has(tensors, r"blocks\.0\.(ls1\.gamma|gamma_1)$") and not _has(own, r"(ls1\.|gamma_1)"):
        found["init_values"] = 1e-5
    if _has(tensors, r"\.q_norm\.") and not _has(own, r"\.q_norm\."):
        found["qk_norm"] = True
    if "norm_pre.weight" in tensors and "norm_pre.weight" not in own:
        found["pre_norm"] = True
    if _has(own, r"attn\.qkv\.bias$") and not _has(tensors, r"attn\.(qkv\.|q_|v_)bias$"):
        found["qkv_bias"] = False
    found |= _tokens(tensors, own)
    found |= _pooling(tensors, own)
    return found | _mlp(tensors, own, width)


def _tokens(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    registers = tensors.get("reg_token", tensors.get("register_tokens"))
    num = 0 if registers is None else registers.shape[1]
    if num != (_size(own.get("reg_token"), 1) or 0):
        found["reg_tokens"] = num
    has_class = "cls_token" in tensors
    if has_class != ("cls_token" in own):
        found["class_token"] = has_class
    codes = tensors.get("pos_embed")
    if codes is None or codes.ndim != 3 or "pos_embed" not in own:
        return found
    beside = int(has_class) + num
    if "register_tokens" in tensors:  # DINOv2's own names: timm takes the class's code off
        found |= {} if _takes_no_codes(own, has_class) else {"no_embed_class": True}
    elif beside and _is_square(codes.shape[1]) and not _is_square(codes.shape[1] - beside):
        found["no_embed_class"] = True
    return found


def _takes_no_codes(own: Mapping[str, Tensor], has_class: bool) -> bool:
    return has_class and _is_square(own["pos_embed"].shape[1])


def _pooling(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Any]:
    if _has(tensors, r"^attn_pool\.") and not _has(own, r"^attn_pool\."):
        return {"global_pool": "map"}
    if "fc_norm.weight" in tensors and "fc_norm.weight" not in own:
        return {"global_pool": "avg"}
    if "fc_norm.weight" in own and "fc_norm.weight" not in tensors and "norm.weight" in tensors:
        return {"global_pool": "token"} if "cls_token" in tensors else {"fc_norm": False}
    if "cls_token" in own and "cls_token" not in tensors and "norm.weight" in tensors:
        return {"global_pool": "avg", "fc_norm": False}
    return {}


def _mlp(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], width: int | None
) -> dict[str, Any]:
    """The kind of MLP by its first and second layer, [h, D] and [D, h]; gated ones halve h."""
    fused = {"w12": "fc1", "w3": "fc2"}
    sizes = {
        fused.get(part, part): tensors[name]
        for name in tensors
        for part in [name.removeprefix("blocks.0.mlp.").removesuffix(".weight")]
        if name == f"blocks.0.mlp.{part}.weight"
    }
    first, second = sizes.get("fc1"), sizes.get("fc2")
    mine = own.get("blocks.0.mlp.fc1.weight")
    if first is None or second is None or mine is None or not width:
        return {}
    hidden, gated = first.shape[0], first.shape[0] == 2 * second.shape[1]
    mine_2 = own["blocks.0.mlp.fc2.weight"]
    if hidden == mine.shape[0] and second.shape[1] == mine_2.shape[1] and width == mine.shape[1]:
        return {}
    found: dict[str, Any] = {}
    if hidden / width != mine.shape[0] / mine.shape[1]:
        found["mlp_ratio"] = _ratio(hidden, width)
    if gated and mine.shape[0] != 2 * mine_2.shape[1]:
        found |= {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
    elif not gated and mine.shape[0] == 2 * mine_2.shape[1]:
        found |= {"mlp_layer": "Mlp", "act_layer": "gelu"}
    return found


def _ratio(hidden: int, width: int) -> float:
    """The shortest number that gives ``hidden`` again, as timm rounds it down."""
    for digits in range(1, 12):
        ratio = round(hidden / width, digits)
        for near in (ratio, round(ratio + 10**-digits, digits)):
            if int(width * near) == hidden:
                return near
    return hidden / width


def _kernel(weight: Tensor | None) -> int | None:
    return weight.shape[-1] if weight is not None and weight.ndim == 4 else None


def _size(tensor: Tensor | None, axis: int) -> int | None:
    return None if tensor is None else tensor.shape[axis]


def _num_blocks(names: Mapping[str, Tensor]) -> int:
    found = [int(match[1]) for name in names if (match := _BLOCK.match(name))]
    return max(found, default=-1) + 1


def _has(names: Mapping[str, Tensor], pattern: str) -> bool:
    return any(re.search(pattern, name) for name in names)


def _is_square(num: int) -> bool:
    return num > 0 and int(num**0.5) ** 2 == num
