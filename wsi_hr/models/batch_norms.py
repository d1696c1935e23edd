"""Batch norms that stand on their running statistics, as part of the convolutions before them.

Such a batch norm is a scale and a shift per channel, which the convolution can do on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import fx, nn

logger = logging.getLogger(__name__)


class Pair(NamedTuple):
    """Names of a convolution and of the batch norm that alone reads it, each used once."""

    conv: str
    norm: str


class _Tracer(fx.Tracer):
    """Sees batch norms as one module each, whoever wrote them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_batch_norm(m) or super().is_leaf_module(m, module_qualified_name)


def foldable(net: nn.Module) -> list[Pair]:
    """What can be folded in ``net``; nothing where its code cannot be traced."""
    modules = dict(net.named_modules())
    if not any(_is_batch_norm(module) for module in modules.values()):
        return []
    try:
        graph = _Tracer().trace(net)
    except Exception as cause:  # whatever the network's own code does under tracing
        logger.info("batch norms are not folded: %s", cause)
        return []
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [str(node.target) for node in calls]
    pairs = []
    for node, target in zip(calls, targets, strict=True):
        norm, before = modules[target], node.args[0]
        if not (_is_batch_norm(norm) and isinstance(before, fx.Node) and before in calls):
            continue
        conv = str(before.target)
        if (
            type(modules[conv]) is nn.Conv2d
            and len(before.users) == 1
            and getattr(norm, "running_mean", None) is not None
            and targets.count(target) == targets.count(conv) == 1
        ):
            pairs.append(Pair(conv, target))
    return pairs


def what_remains(norm: nn.Module) -> nn.Module:
    """What a batch norm does after its scale and shift."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    return nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))


def folded(
    net: nn.Module, tensors: Mapping[str, torch.Tensor], pair: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the convolution that does the work of both; differentiable.

    Args:
        net: has the pair.
        tensors: its parameters and buffers by name.
        pair: which.
    """
    conv, norm = pair
    eps: Any = net.get_submodule(norm).eps
    scale = torch.rsqrt(tensors[f"{norm}.running_var"] + eps)
    if f"{norm}.weight" in tensors:
        scale = scale * tensors[f"{norm}.weight"]
    bias = -tensors[f"{norm}.running_mean"]
    if f"{conv}.bias" in tensors:
        bias = bias + tensors[f"{conv}.bias"]
    bias = bias * scale
    if f"{norm}.bias" in tensors:
        bias = bias + tensors[f"{norm}.bias"]
    return tensors[f"{conv}.weight"] * scale.view(-1, 1, 1, 1), bias


def _is_batch_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm whose whole behaviour is known here; timm's may end in more."""
    return type(module) is nn.BatchNorm2d or type(module).__name__ == "BatchNormAct2d"
