"""The optimiser step, owned by training and handed to the methods."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from wsi_hr.config import TrainConfig
from wsi_hr.errors import TrainingError
from wsi_hr.training.average import WeightAverage
from wsi_hr.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer


class AdamWUpdate:
    """AdamW with linear warm-up and cosine decay over the epochs; accumulates until stepped.

    The learning rate is a function of progress alone, so a resumed run has it without being told.

    Attributes:
        average: of the weights over the steps, where the config asks for one.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self._config = config
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self._parameters, lr=config.lr, weight_decay=config.weight_decay
        )

        self.average = None if config.ema is None else WeightAverage(model, config.ema)

    def set_epoch(self, epoch: float) -> None:
        """Set the learning rate for ``epoch``, counted from 0 and possibly fractional."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self._config, epoch)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of ``loss``.

        Raises:
            TrainingError: the loss is NaN or infinite; nothing was changed by it.
        """
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {float(loss.detach())}; the last good checkpoint is kept. "
                "Lower train.lr or set train.clip_norm, and train into another folder"
            )
        loss.backward()

    def backward_from(self, output: Tensor, gradient: Tensor) -> None:
        """Accumulate what follows from ``gradient``, the gradient of the loss by ``output``."""
        output.backward(gradient)

    def step(self) -> None:
        """Clip, update, clear."""
        if self._config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()

    def discard(self) -> None:
        """Throw away what was accumulated since the last step."""
        self.optimizer.zero_grad(set_to_none=True)

    def judged(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that are judged and saved as best."""
        return nullcontext() if self.average is None else self.average.in_place()

    def tensors(self) -> dict[str, Tensor]:
        """What :meth:`restore` needs, under checkpoint names."""
        averaged = {} if self.average is None else self.average.tensors()
        return optimizer_tensors(self.optimizer) | averaged

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up where :meth:`tensors` left off."""
        restore_optimizer(self.optimizer, checkpoint)
        if self.average is not None:
            self.average.restore(checkpoint)


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """Linear from 0 over ``warmup_epochs``, then cosine to ``final_lr`` x ``lr`` at the end."""
    warmup = min(config.warmup_epochs, config.epochs)
    if epoch < warmup:
        return config.lr * epoch / warmup
    span = config.epochs - warmup
    done = (epoch - warmup) / span if span > 0 else 0.0
    cosine = (1 + math.cos(math.pi * done)) / 2
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)
