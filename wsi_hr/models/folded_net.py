"""A network that learns while its frozen batch norms are folded into its convolutions.

The same function and the same gradient; but a batch norm costs no time, and none of its input is
kept for the gradient. The folded weights gather the gradient of many chunks; by the chain rule it
is then handed to the weights that they were folded from, once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from wsi_hr.models.batch_norms import foldable, folded, what_remains

HandOver = Callable[[torch.Tensor, torch.Tensor], None]
"""Told an output and the gradient of the loss by it."""


class FoldedNet:
    """A second network of the same weights, but for folded ones, which are its own.

    Args:
        net: stays as it is; its batch norms are in eval mode whenever this is used.

    Attributes:
        num_folded: batch norms that were folded; with 0 the network is ``net`` itself.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._pairs = foldable(net)
        self.num_folded = len(self._pairs)
        if not self._pairs:
            self._copy = net
            return
        # what a module holds its tensors in is shared, and with it whatever becomes of them
        shared: list[Any] = [
            held for module in net.modules() for held in (module._parameters, module._buffers)
        ]
        self._copy = copy.deepcopy(net, {id(held): held for held in shared})
        for pair in self._pairs:
            conv, norm = self._copy.get_submodule(pair.conv), self._copy.get_submodule(pair.norm)
            conv.__dict__["_parameters"] = {}
            self._copy.set_submodule(pair.norm, what_remains(norm).eval())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """What the network gives; between :meth:`begin` and :meth:`end`."""
        return self._copy(x)

    def begin(self) -> None:
        """Fold the weights of now."""
        if not self._pairs:
            return
        norms = tuple(f"{pair.norm}." for pair in self._pairs)
        for name, module in self._net.named_modules():
            if not f"{name}.".startswith(norms):
                self._copy.get_submodule(name).training = module.training
        tensors = self._tensors()
        for pair in self._pairs:
            with torch.no_grad():
                weight, bias = folded(self._net, tensors, pair)
            conv: Any = self._copy.get_submodule(pair.conv)
            conv.weight = nn.Parameter(weight)
            conv.bias = nn.Parameter(bias)

    def end(self, hand_over: HandOver) -> None:
        """Hand over what the folded weights gathered, and let go of them."""
        tensors = self._tensors()
        for pair in self._pairs:
            conv: Any = self._copy.get_submodule(pair.conv)
            for number, leaf in enumerate((conv.weight, conv.bias)):
                output = folded(self._net, tensors, pair)[number]
                if leaf.grad is not None and output.requires_grad:
                    hand_over(output, leaf.grad)
        self.forget()

    def forget(self) -> None:
        """Let go of the folded weights and of what they gathered."""
        for pair in self._pairs:
            self._copy.get_submodule(pair.conv).__dict__["_parameters"] = {}

    def _tensors(self) -> dict[str, torch.Tensor]:
        return dict(self._net.named_parameters()) | dict(self._net.named_buffers())
