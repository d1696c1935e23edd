"""What every method is: the algorithm is its own, the optimiser step is the trainer's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import ConfigError
from wsi_hr.geometry import Float32Array
from wsi_hr.method_config import DenseConfig
from wsi_hr.models.encoder import Encoder
from wsi_hr.slide_prediction import SlidePrediction


class Update(Protocol):
    """The trainer's side of a step, handed to the method."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of ``loss``."""
        ...

    def backward_from(self, output: Tensor, gradient: Tensor) -> None:
        """Accumulate what follows from ``gradient``, the gradient of the loss by ``output``."""
        ...

    def step(self) -> None:
        """Apply the accumulated gradient and clear it."""
        ...


class SlideMemory(Protocol):
    """What an epoch leaves of a slide for the next one."""

    def recall(self, slide_id: str) -> Float32Array | None:
        """What the epoch before kept: f32[J, N] over all N patches of the slide's source.

        NaN where it did not look; None where it kept nothing.
        """
        ...

    def keep(self, slide_id: str, values_JN: Float32Array) -> None:
        """Keep ``values`` for the next epoch."""
        ...


class NoMemory:
    """A memory in which nothing stays: for those that nobody asks."""

    def recall(self, slide_id: str) -> None:
        """Nothing."""

    def keep(self, slide_id: str, values_JN: Float32Array) -> None:
        """Forget."""


@dataclass(frozen=True)
class StepContext:
    """Where training stands.

    Attributes:
        progress: part of all epochs that is done, 0 to 1, constant during an epoch.
        rng: gives the generator of a slide for this epoch; equal in any process and on resume.
        memory: what the epoch before left of a slide.
    """

    progress: float
    rng: Callable[[str], np.random.Generator]
    memory: SlideMemory = field(default_factory=NoMemory)

    def keep(self, bag: Bag, logits_JN: Tensor) -> None:
        """Leave logits of the bag's N patches for the next epoch, by patch of its source."""
        if isinstance(self.memory, NoMemory):
            return
        of_source = np.full((len(logits_JN), len(bag.source.valid)), np.nan, np.float32)
        of_source[:, bag.indices] = logits_JN.cpu().numpy()
        self.memory.keep(bag.slide_id, of_source)


class Judgement(NamedTuple):
    """The classes of one slide; see :class:`wsi_hr.slide_prediction.SlidePrediction`.

    Attributes:
        probs: f32[C] of the slide.
        patch_probs: f32[N, K] of its patches, where their classes were learned.
    """

    probs: Float32Array
    patch_probs: Float32Array | None


class Method(nn.Module, ABC):
    """A slide classifier that learns from bags and says which patches mattered.

    Attributes:
        encoder: embeds patches.
        num_classes: C.
        class_weights: f32[C] weight of each class in the loss.
    """

    encoder: Encoder
    class_weights: Tensor

    def __init__(self, encoder: Encoder, class_weights: Sequence[float]) -> None:
        super().__init__()
        self.encoder = encoder
        self.num_classes = len(class_weights)
        self.register_buffer("class_weights", torch.tensor(class_weights), persistent=False)

    def keep_in(self, folder: Path) -> None:
        """Take ``folder`` for what need not be computed twice in a run; it goes when the run ends.

        Whatever is kept there, training and prediction give the same bits with and without it.
        """

    @property
    @abstractmethod
    def min_patches(self) -> int:
        """Patches a sampler must leave in a bag for the method to work as meant."""

    @property
    def less_memory(self) -> str:
        """Which settings make a step take less memory, as an advice that begins with a verb."""
        return "lower train.batch_size"

    @property
    def remembers(self) -> bool:
        """Whether it asks ``context.memory`` for what the epoch before left."""
        return False

    @abstractmethod
    def train_bags(self, bags: Sequence[Bag], update: Update, context: StepContext) -> float:
        """Learn from a batch of labelled bags; one or more optimiser steps.

        Returns:
            Mean loss over the slides of the batch.
        """

    @abstractmethod
    def predict_bag(self, bag: Bag) -> SlidePrediction:
        """Predict one bag: all patches visited, deterministic, nothing learned."""

    def judge_bag(self, bag: Bag) -> Judgement:
        """What :meth:`predict_bag` says of the classes, without asking which patches mattered."""
        prediction = self.predict_bag(bag)
        return Judgement(prediction.probs, prediction.patch_probs)

    def learn_patches(self, dense: DenseConfig) -> None:
        """Learn the classes of patches too, from bags that know them; called before training.

        Raises:
            ConfigError: the method learns from slide labels only.
        """
        raise ConfigError(
            "the method learns from the labels of slides only; leave --annotations out, or train "
            "with --method patchgd or gd and --set method.head=window"
        )

    def _loss(self, logits_BC: Tensor, bags: Sequence[Bag]) -> Tensor:
        """Cross-entropy times the weight of the slide's class, mean over slides.

        Divided by B, not by the sum of weights as torch does it: that would undo the weights in a
        batch of one slide or one class.
        """
        labels = torch.tensor([_label(bag) for bag in bags], device=logits_BC.device)
        each_B = nn.functional.cross_entropy(logits_BC, labels, reduction="none")
        return (each_B * self.class_weights.to(each_B.dtype)[labels]).mean()


def _label(bag: Bag) -> int:
    assert bag.label is not None, f"{bag.slide_id} is trained on without a label"
    return bag.label
