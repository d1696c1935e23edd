"""The methods that the learning table compares, and how one of them is set up to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wsi_hr.bags.bag import Bag
from wsi_hr.config import resolve_config
from wsi_hr.errors import WsiHrError
from wsi_hr.geometry import Float32Array, Int64Array, UInt8Array
from wsi_hr.methods import build_method
from wsi_hr.methods.method import Method, StepContext
from wsi_hr.models.encoder import build_encoder
from wsi_hr.runtime import rng_for
from wsi_hr.testing.memory_patches import MemoryPatches
from wsi_hr.training.run import pick_device
from wsi_hr.training.update import AdamWUpdate

# Letters: N patches of a slide, K of them, P patch edge, B slides, J = heads x queries.


@dataclass(frozen=True)
class Row:
    """A method of the table.

    Attributes:
        what: for people.
        settings: texts of ``--set``.
        streaming: further settings under which its memory is to stay flat, whatever N is; None
            where it is not meant to.
    """

    what: str
    settings: tuple[str, ...]
    streaming: tuple[str, ...] | None = None


_HARD = ("method.explore=none",)  # the steady state; the first epochs explore instead of scanning
_EXACT = ("method.name=patchgd", "method.exact=true")

ROWS = {
    "gd": Row("GD*, all patches", ("method.name=gd",)),
    "gd_checkpoint": Row("GD*, checkpointing", ("method.name=gd", "method.memory=checkpoint")),
    "ips": Row("IPS", ("method.name=ips", *_HARD), ()),
    "dbps": Row("DBPS", ("method.name=dbps", *_HARD), ()),
    # part of the inner steps will do, and as many patches in each of them whatever N is
    "patchgd": Row(
        "PatchGD, sampled",
        ("method.name=patchgd",),
        ("method.block=8", "method.coverage=0.05", "method.max_sampled=64"),
    ),
    "patchgd_exact": Row("PatchGD, exact", _EXACT, ("method.block=8",)),
    "abmil": Row("ABMIL, frozen features", ("method.name=abmil",), ("method.chunk=1000",)),
    "abmilx": Row("ABMILX, end to end", ("method.name=abmilx",)),
}

REFRESHED = ("method.name=dbps", *_HARD, "method.score=global", "method.scan_refresh=0.2")


def reason(error: Exception) -> str:
    """Why something could not be measured, in one line."""
    if isinstance(error, WsiHrError):
        return str(error)
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


class Remembered:
    """What an epoch leaves of a slide, in memory."""

    def __init__(self) -> None:
        self._values: dict[str, Float32Array] = {}

    def recall(self, slide_id: str) -> Float32Array | None:
        """What was kept last."""
        return self._values.get(slide_id)

    def keep(self, slide_id: str, values_JN: Float32Array) -> None:
        """Keep it."""
        self._values[slide_id] = values_JN


class Trial:
    """A method ready to learn.

    Args:
        settings: texts of ``--set``: method and encoder.
        patch_px: P.
        folder: where the method may keep files.

    Raises:
        ConfigError: there is no such method or setting, or they do not fit the encoder.
    """

    def __init__(self, settings: Sequence[str], patch_px: int, folder: Path) -> None:
        config = resolve_config(assignments=settings).settled()
        self.device = pick_device(config.train.device)
        torch.manual_seed(0)
        encoder = build_encoder(config.encoder, patch_px)
        self.method: Method = build_method(config.method, encoder, [1.0, 1.0]).to(self.device)
        self.method.keep_in(folder)
        self._update = AdamWUpdate(self.method, config.train)
        self._update.set_epoch(config.train.epochs / 2)
        self._memory = Remembered()
        self._epoch = 0

    def step(self, bags: Sequence[Bag]) -> None:
        """Learn from a batch of bags once, as training does in an epoch."""
        epoch = self._epoch
        context = StepContext(1.0, lambda slide_id: rng_for(0, epoch, slide_id), self._memory)
        self.method.train()
        self.method.train_bags(bags, self._update, context)
        self._epoch += 1
        self.wait()

    def predict(self, bags: Sequence[Bag]) -> None:
        """Predict every bag."""
        for bag in bags:
            self.method.predict_bag(bag)
        self.wait()

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def noise_bags(num_bags: int, num_patches: int, patch_px: int) -> list[Bag]:
    """Bags of noise in memory, their classes in turn."""
    rng = np.random.default_rng(0)
    return [
        Bag.of(
            MemoryPatches(
                rng.integers(0, 256, (num_patches, patch_px, patch_px, 3), dtype=np.uint8),
                slide_id=f"slide {number}",
            ),
            number % 2,
        )
        for number in range(num_bags)
    ]


class EndlessPatches(MemoryPatches):
    """N patches that are made when they are read, so that only the method's own memory counts."""

    def __init__(self, num_patches: int, patch_px: int) -> None:
        pixels = np.zeros((num_patches, 1, 1, 3), np.uint8)
        super().__init__(pixels, slide_id=f"slide of {num_patches}")
        self._patch_px = patch_px

    def read(self, indices: Int64Array) -> UInt8Array:
        """Pixels u8[K, P, P, 3], another plain colour for each of 251 patches."""
        colours = (indices % 251).astype(np.uint8)[:, None, None, None]
        return np.broadcast_to(colours, (len(indices), self._patch_px, self._patch_px, 3)).copy()
