"""What an epoch sees of a slide: samplers, and all they may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsi_hr.bags.bag import Bag, PatchSource
from wsi_hr.errors import CheckpointError
from wsi_hr.file_names import own_folder, require_own
from wsi_hr.geometry import Float32Array, Int64Array
from wsi_hr.methods.method import SlideMemory
from wsi_hr.models.thumbnail_vit import ThumbnailViT, at_patches, build_thumbnail_vit, token_grid
from wsi_hr.runtime import remove_empty_folder, rng_for
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
        distillation: what the learned sampler learns; None where it is not asked for.

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
        self.distillation: Distillation | None = None
        for config in samplers:
            if isinstance(config, AttentionConfig) and config.source == "thumbnail":
                self._vit = build_thumbnail_vit(config.vit, config.vit_weights).to(device)
            if isinstance(config, LearnedConfig):
                self._learned = config
                self.distillation = Distillation(config, seed, device)

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

    def _teach(self, config: LearnedConfig, sight: _Sight) -> None:
        assert self.distillation is not None
        source = sight.bag.source
        teachers = EpochMemory(own_folder(self._run_dir, TEACHER), sight.epoch)
        before = teachers.recall(source.slide_id)
        logits_JN = recall(sight.memory, source)
        if logits_JN is not None:
            row = None if before is None else before[0]
            before = smoothed(row, logits_JN, config.momentum)[None]
        if before is None:
            return
        teachers.keep(source.slide_id, before)
        if np.isfinite(before).any():
            self.distillation.learn(sight.all_features, sight.all_cells, before[0])

    def tensors(self) -> dict[str, Tensor]:
        """What samplers have learned, for the checkpoint of an epoch."""
        return {} if self.distillation is None else self.distillation.tensors()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on with what they had learned."""
        if self.distillation is not None:
            self.distillation.restore(checkpoint)

    def forget(self) -> None:
        """Remove what was kept for the next epoch.

        Raises:
            WriteError: it cannot be removed.
        """
        teacher = require_own(self._run_dir, TEACHER)
        forget(teacher)
        remove_empty_folder(teacher)


@dataclass(frozen=True, eq=False)
class _Sight:
    """What is asked for of one bag; see :class:`wsi_hr.samplers.glance.Sight`."""

    sampling: Sampling
    bag: Bag
    epoch: int
    memory: SlideMemory

    @cached_property
    def all_features(self) -> Float32Array:
        """Colour features f32[N, F] of all patches of the slide."""
        source = self.bag.source
        return colour_features(source.grid, source.thumbnail, source.level0_size)

    @property
    def all_cells(self) -> Int64Array:
        """i64[N, 2] of all patches of the slide."""
        return self.bag.source.grid.cells.astype(np.int64)

    def features(self) -> Float32Array:
        return self.all_features[self.bag.indices]

    def attention(self) -> Float32Array | None:
        logits_JN = recall(self.memory, self.bag.source)
        return None if logits_JN is None else logits_JN[:, self.bag.indices]

    def thumbnail_attention(self) -> Float32Array:
        return self.sampling.thumbnail_logits(self.bag.source)[:, self.bag.indices]

    def scores(self) -> Float32Array | None:
        student = self.sampling.distillation
        if student is None or self.epoch < _UNTAUGHT:
            return None
        return student.scores(self.all_features, self.all_cells)[self.bag.indices]


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
