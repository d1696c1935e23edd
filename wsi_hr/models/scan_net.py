"""The network of the scan: batch norms folded into the convolutions before them.

In eval mode a batch norm is a scale and a shift per channel, which the convolution can do on the
way.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)


class _Tracer(fx.Tracer):
    """Sees batch norms as one module each, whoever wrote them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_batch_norm(m) or super().is_leaf_module(m, module_qualified_name)


class ScanNet:
    """A copy of a network in eval mode whose batch norms are gone; follows the original's weights.

    Args:
        net: stays as it is; used itself where there is nothing to fold.
        compiled: whether ``torch.compile`` makes it faster, at the price of minutes at first.

    Attributes:
        num_folded: batch norms that were folded; 0 where the network has none, or cannot be traced.
    """

    def __init__(self, net: nn.Module, *, compiled: bool = False) -> None:
        self._net = net
        self._pairs = _conv_bn_pairs(net)
        self.num_folded = len(self._pairs)
        self._copy = copy.deepcopy(net).eval().requires_grad_(False) if self._pairs else net
        for conv, norm in self._pairs:
            folded: Any = self._copy.get_submodule(conv)
            if folded.bias is None:
                folded.bias = nn.Parameter(folded.weight.new_zeros(len(folded.weight)), False)
            self._copy.set_submodule(norm, _what_remains(self._copy.get_submodule(norm)))
        self._followed: list[tuple[int, int]] = []
        self._run = torch.compile(self._copy) if compiled else self._copy

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The network in eval mode with the original's weights of now; no gradient."""
        if self._pairs:
            self._follow()
        return self._run(x)

    def _follow(self) -> None:
        """Take over the original's weights, if they have changed since the last time."""
        tensors = [*self._net.parameters(), *self._net.buffers()]
        state = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        if state == self._followed:
            return
        self._copy.to(tensors[0].device, tensors[0].dtype)
        folded = {name for pair in self._pairs for name in pair}
        theirs, own = _tensors(self._net), _tensors(self._copy)
        with torch.no_grad():
            for name, tensor in theirs.items():
                if name.rpartition(".")[0] not in folded:
                    own[name].copy_(tensor)
            for conv, norm in self._pairs:
                eps: Any = self._net.get_submodule(norm).eps
                weight, bias = fuse_conv_bn_weights(
                    theirs[f"{conv}.weight"],
                    theirs.get(f"{conv}.bias"),
                    theirs[f"{norm}.running_mean"],
                    theirs[f"{norm}.running_var"],
                    eps,
                    theirs.get(f"{norm}.weight"),
                    theirs.get(f"{norm}.bias"),
                )
                own[f"{conv}.weight"].copy_(weight)
                own[f"{conv}.bias"].copy_(bias)
        self._followed = state


def _tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    return dict(net.named_parameters()) | dict(net.named_buffers())


def _is_batch_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm whose whole behaviour is known here; timm's may end in more."""
    return type(module) is nn.BatchNorm2d or type(module).__name__ == "BatchNormAct2d"


def _what_remains(norm: nn.Module) -> nn.Module:
    """What a batch norm does after its scale and shift."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    return nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))


def _conv_bn_pairs(net: nn.Module) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms that alone read them, each used once."""
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
            pairs.append((conv, target))
    return pairs
