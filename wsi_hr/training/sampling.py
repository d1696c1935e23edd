"""What an epoch sees of a slide: samplers, and all they may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsi_hr.bags.bag import Bag, PatchSource
from wsi_hr.errors import CheckpointError
from wsi_hr.geometry import Float32Array
from wsi_hr.methods.method import SlideMemory
from wsi_hr.models.thumbnail_vit import ThumbnailViT, at_patches, build_thumbnail_vit, token_grid
from wsi_hr.runtime import rng_for
from wsi_hr.sampler_config import AttentionConfig, LearnedConfig, SamplerConfig
from wsi_hr.samplers import build_sampler
from wsi_hr.samplers.features import colour_features
from wsi_hr.samplers.glance import Glance
from wsi_hr.training.checkpoint import Checkpoint
from wsi_hr.training.distillation import Distillation, smoothed
from wsi_hr.training.epoch_memory import EpochMemory, forget

TEACHER = "teacher"
"""Folder in the run folder for what teaches the learned sampler."""

_UNTAUGHT = 2  # epochs: attention first, then once through all slides


class Sampling:
    """Chooses the patches of every slide in every epoch of one run.

    Args:
        samplers: applied one after the other.
        seed: of the study.
        device: where networks of samplers run.
        run_dir: where the learned sampler's teacher is kept from epoch to epoch.

    Attributes:
        reads_attention: whether the method's attention of the epoch before is asked for.

    Raises:
        ConfigError: the vision transformer that is asked for cannot be had.
    """

    def __init__(
        self, samplers: Sequence[SamplerConfig], seed: int, device: torch.device, run_dir: Path
    ) -> None:
        self.reads_attention = any(config.reads_attention for config in samplers)
        self._selector = build_sampler(samplers)
        self._seed = seed
        self._run_dir = run_dir
        self._vit: ThumbnailViT | None = None
        self._looks: dict[str, npt.NDArray[np.float16]] = {}
        self._learned: LearnedConfig | None = None
        self._distillation: Distillation | None = None
        for config in samplers:
            if isinstance(config, AttentionConfig) and config.source == "thumbnail":
                self._vit = build_thumbnail_vit(config.vit, config.vit_weights).to(device)
            if isinstance(config, LearnedConfig):
                self._learned = config
                self._distillation = Distillation(config, seed, device)

    def choose(self, bag: Bag, epoch: int, at_least: int, memory: SlideMemory) -> Bag:
        """The part of ``bag`` that ``epoch`` sees, ``at_least`` patches where it has as many.

        Called once per slide and epoch, in an order that a resumed run repeats: what the learned
        sampler learns depends on it.

        Args:
            bag: patches of a slide.
            epoch: counted from 0.
            at_least: how many the method needs.
            memory: what the method kept of the slide in the epoch before.

        Raises:
            StoreError: the slide's thumbnail is damaged.
            CheckpointError: what was kept is damaged, or is another slide's.
        """
        sight = _Sight(self, bag, epoch, memory)
        if self._learned is not None:
            self._teach(self._learned, sight)
        glance = Glance(bag.slide_id, epoch, bag.grid, sight)
        rng = rng_for(self._seed, epoch, bag.slide_id, "drop")
        return bag.subset(self._selector.select(glance, at_least, rng))

    def thumbnail_logits(self, source: PatchSource) -> Float32Array:
        """f32[H, N] of the vision transformer; a slide is looked at once, 2 bytes a token kept."""
        assert self._vit is not None, "nobody asks for it otherwise"
        look = self._looks.get(source.slide_id)
        if look is None:
            tokens = token_grid(source.grid, source.level0_size)
            look = self._vit.look(source.thumbnail, tokens).astype(np.float16)
            self._looks[source.slide_id] = look
        return at_patches(look.astype(np.float32), source.grid, source.level0_size)

    def scores(self, source: PatchSource, epoch: int) -> Float32Array | None:
        """f32[N] of the learned sampler; None in its first epochs."""
        if self._distillation is None or epoch < _UNTAUGHT:
            return None
        return self._distillation.scores(features_of(source), source.grid.cells.astype(np.int64))

    def _teach(self, config: LearnedConfig, sight: _Sight) -> None:
        assert self._distillation is not None
        source = sight.bag.source
        teachers = EpochMemory(self._run_dir / TEACHER, sight.epoch)
        before = teachers.recall(source.slide_id)
        logits_JN = recall(sight.memory, source)
        if logits_JN is not None:
            row = None if before is None else before[0]
            before = smoothed(row, logits_JN, config.momentum)[None]
        if before is None:
            return
        teachers.keep(source.slide_id, before)
        if np.isfinite(before).any():
            cells = source.grid.cells.astype(np.int64)
            self._distillation.learn(features_of(source), cells, before[0])

    def tensors(self) -> dict[str, Tensor]:
        """What samplers have learned, for the checkpoint of an epoch."""
        return {} if self._distillation is None else self._distillation.tensors()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on with what they had learned."""
        if self._distillation is not None:
            self._distillation.restore(checkpoint)

    def forget(self) -> None:
        """Remove what was kept for the next epoch."""
        forget(self._run_dir / TEACHER)
        if self._learned is not None and (self._run_dir / TEACHER).is_dir():
            (self._run_dir / TEACHER).rmdir()


@dataclass(frozen=True)
class _Sight:
    """What is asked for of one bag; see :class:`wsi_hr.samplers.glance.Sight`."""

    sampling: Sampling
    bag: Bag
    epoch: int
    memory: SlideMemory

    def features(self) -> Float32Array:
        return features_of(self.bag.source)[self.bag.indices]

    def attention(self) -> Float32Array | None:
        logits_JN = recall(self.memory, self.bag.source)
        return None if logits_JN is None else logits_JN[:, self.bag.indices]

    def thumbnail_attention(self) -> Float32Array:
        return self.sampling.thumbnail_logits(self.bag.source)[:, self.bag.indices]

    def scores(self) -> Float32Array | None:
        found = self.sampling.scores(self.bag.source, self.epoch)
        return None if found is None else found[self.bag.indices]


def features_of(source: PatchSource) -> Float32Array:
    """Colour features f32[N, F] of all patches of a slide."""
    return colour_features(source.grid, source.thumbnail, source.level0_size)


def recall(memory: SlideMemory, source: PatchSource) -> Float32Array | None:
    """Logits f32[J, N] that the epoch before kept of a slide.

    Raises:
        CheckpointError: they are of another number of patches.
    """
    logits_JN = memory.recall(source.slide_id)
    if logits_JN is not None and logits_JN.shape[1] != len(source.valid):
        raise CheckpointError(
            f"{source.slide_id}: has {len(source.valid)} patches, and had {logits_JN.shape[1]} "
            "when the run was stopped; restore the store, or train again into another folder"
        )
    return logits_JN
