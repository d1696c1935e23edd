"""Statistics of frozen batch norms that keep up with the weights, each time of the same patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from wsi_hr.bags.bag import Bag
from wsi_hr.geometry import Int64Array
from wsi_hr.models.encoder import Encoder, frozen
from wsi_hr.models.norm_stats import norms_of, recalibrate
from wsi_hr.runtime import rng_for
from wsi_hr.store.jpeg_patches import Patches, join_patches


class Bags(Protocol):
    """Opens slides, as :class:`wsi_hr.bags.bag_set.BagSet` does."""

    def open(self, slide_id: str) -> Bag:
        """All patches of a slide."""
        ...


class Calibration:
    """Renews the statistics of an encoder whose ``norm_stats`` are ``recalibrate``.

    They are a function of the weights alone: whoever asks again, and every resumed run, gets the
    same. Pixels of the sample are read once and stay in memory.

    Args:
        encoder: of the run.
        bags: opens its slides.
        slide_ids: of the training side.
        num_patches: of the sample; all there are, where they are fewer.
        seed: of the study.
    """

    def __init__(
        self, encoder: Encoder, bags: Bags, slide_ids: Sequence[str], num_patches: int, seed: int
    ) -> None:
        self._encoder = encoder
        self._bags = bags
        self._slide_ids = slide_ids
        self._num_patches = num_patches
        self._seed = seed
        self._sample: Patches | None = None
        self._done_for: list[tuple[int, int]] = []
        self._wanted = encoder.norm_stats == "recalibrate" and bool(norms_of(encoder.net))

    def renew(self) -> None:
        """Bring the statistics up to the weights of now.

        Raises:
            StoreError: a slide's store is damaged.
            DeviceMemoryError: the device's memory is too small for one patch.
        """
        if not self._wanted:
            return
        weights = [(one.data_ptr(), one._version) for one in self._encoder.parameters()]
        if weights == self._done_for:
            return
        if self._sample is None:
            self._sample = self._read()
        while True:
            try:
                self._pass_over(self._sample)
                break
            except torch.OutOfMemoryError as cause:
                self._encoder.halve_chunk(cause)
        self._done_for = weights

    def _pass_over(self, sample: Patches) -> None:
        size = self._encoder.chunk
        with frozen(self._encoder):
            recalibrate(
                self._encoder.net,
                self._encoder.unfolded,
                [sample[first : first + size] for first in range(0, len(sample), size)],
            )

    def _read(self) -> Patches:
        bags = [self._bags.open(slide_id) for slide_id in self._slide_ids]
        drawn = draw(
            [len(bag) for bag in bags], self._num_patches, rng_for(self._seed, "norm statistics")
        )
        encoded = self._encoder.decodes
        return join_patches(
            [
                bag.fetch(part, encoded=encoded)
                for bag, part in zip(bags, drawn, strict=True)
                if len(part)
            ]
        )


def draw(sizes: Sequence[int], num: int, rng: np.random.Generator) -> list[Int64Array]:
    """Positions i64[k] in each of some slides of ``num`` patches, drawn alike from all.

    Args:
        sizes: patches of every slide.
        num: how many; all, where there are fewer.
        rng: draws.
    """
    ends = np.cumsum(sizes)
    drawn = np.sort(rng.choice(ends[-1], min(num, int(ends[-1])), replace=False)).astype(np.int64)
    parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
    return [part - (end - size) for part, end, size in zip(parts, ends, sizes, strict=True)]
