"""The network of the scan: batch norms folded into the convolutions before them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from wsi_hr.models.batch_norms import foldable, folded, what_remains


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
        self._pairs = foldable(net)
        self.num_folded = len(self._pairs)
        self._copy = copy.deepcopy(net).eval().requires_grad_(False) if self._pairs else net
        for pair in self._pairs:
            conv: Any = self._copy.get_submodule(pair.conv)
            if conv.bias is None:
                conv.bias = nn.Parameter(conv.weight.new_zeros(len(conv.weight)), False)
            norm = self._copy.get_submodule(pair.norm)
            self._copy.set_submodule(pair.norm, what_remains(norm))
        # the dictionaries stay the same when what is in them is put on another device
        self._theirs = [part for one in net.modules() for part in (one._parameters, one._buffers)]
        self._followed: list[tuple[int, int]] = []
        self._run = torch.compile(self._copy) if compiled else self._copy

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The network in eval mode with the original's weights of now; no gradient."""
        if self._pairs:
            self._follow()
        return self._run(x)

    def release(self) -> None:
        """Give the memory of the copied weights back until the next call."""
        if self._pairs and self._followed:
            for parameter in self._copy.parameters():
                parameter.untyped_storage().resize_(0)
            self._followed = []

    def _follow(self) -> None:
        """Take over the original's weights, if they have changed since the last time."""
        # parameters() and buffers() look through all modules, for which a fast device would wait
        tensors = [found for part in self._theirs for found in part.values() if found is not None]
        state = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        if state == self._followed:
            return
        for parameter in self._copy.parameters():
            parameter.untyped_storage().resize_(parameter.nbytes)
        self._copy.to(tensors[0].device, tensors[0].dtype)
        changed = {name for pair in self._pairs for name in pair}
        theirs, own = _tensors(self._net), _tensors(self._copy)
        with torch.no_grad():
            for name, tensor in theirs.items():
                if name.rpartition(".")[0] not in changed:
                    own[name].copy_(tensor)
            for pair in self._pairs:
                weight, bias = folded(self._net, theirs, pair)
                own[f"{pair.conv}.weight"].copy_(weight)
                own[f"{pair.conv}.bias"].copy_(bias)
        self._followed = state


def _tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    return dict(net.named_parameters()) | dict(net.named_buffers())
