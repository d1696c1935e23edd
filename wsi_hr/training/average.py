"""An exponential moving average of weights: what is judged and saved in place of the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wsi_hr.training.checkpoint import Checkpoint

_PREFIX = "average."
_COUNT = "average_count"


class WeightAverage:
    """The average over all steps so far, recent ones counting more.

    After n steps the decay is the lesser of ``decay`` and (1 + n) / (10 + n), so that short runs
    are not ruled by the weights they began with. Whatever is no floating point number, such as a
    counter of batch norm, is taken as it is.

    Args:
        model: what is averaged; its running statistics too.
        decay: part of the average that a step leaves, below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self._num_steps = 0
        self._average = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def update(self) -> None:
        """Take the model's weights in, after a step."""
        self._num_steps += 1
        decay = min(self._decay, (1 + self._num_steps) / (10 + self._num_steps))
        with torch.no_grad():
            for name, tensor in self._model.state_dict().items():
                if tensor.is_floating_point():
                    self._average[name].lerp_(tensor, 1 - decay)
                else:
                    self._average[name].copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again on exit."""
        own = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        self._model.load_state_dict(self._average)
        try:
            yield
        finally:
            self._model.load_state_dict(own)

    def tensors(self) -> dict[str, Tensor]:
        """The average and its number of steps, under checkpoint names."""
        named = {f"{_PREFIX}{name}": tensor for name, tensor in self._average.items()}
        return {**named, _COUNT: torch.tensor(self._num_steps)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up where :meth:`tensors` left off."""
        self._num_steps = int(checkpoint.tensors[_COUNT])
        for name, tensor in self._average.items():
            tensor.copy_(checkpoint.tensors[f"{_PREFIX}{name}"])
