"""Small true encoders and bags for the methods' tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from benchmarks.golden_file import spelled_numbers
from wsi_hr.bags.bag import Bag
from wsi_hr.methods.method import StepContext
from wsi_hr.models.encoder import Encoder
from wsi_hr.testing.memory_patches import MemoryPatches, numbered_pixels


class TableEncoder(Encoder):
    """Embeds by looking up the number written in a patch, see ``numbered_pixels``."""

    def __init__(self, table_ND: Tensor, *, chunk: int = 64) -> None:
        super().__init__(nn.Identity(), dim=table_ND.shape[1], chunk=chunk)
        self.table = nn.Parameter(table_ND.clone())

    def forward(self, patches_KPP3: np.ndarray | Tensor, reduce: int = 1) -> Tensor:
        return self.table[spelled_numbers(patches_KPP3)]


def numbered_bag(numbers: np.ndarray, *, label: int = 0, slide_id: str = "slide", **grid) -> Bag:
    """A bag whose patch k has ``numbers[k]`` written in it, for :class:`TableEncoder`."""
    source = MemoryPatches(numbered_pixels(numbers), slide_id=slide_id, **grid)
    return Bag.of(source, label)


def pixel_encoder(patch_px: int, dim: int, *, chunk: int = 8) -> Encoder:
    """A smooth encoder without batch norm, in float64: its gradients can be compared exactly."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, dim),
    )  # fmt: skip
    assert patch_px >= 2
    return Encoder(net, dim=dim, chunk=chunk).double()


def random_bag(rng: np.random.Generator, num: int, *, patch_px: int = 4, **facts) -> Bag:
    """A bag of noise patches."""
    label = facts.pop("label", 0)
    patches = rng.integers(0, 256, (num, patch_px, patch_px, 3), dtype=np.uint8)
    return Bag.of(MemoryPatches(patches, **facts), label)


class Recorder:
    """An update that keeps the gradient instead of applying it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.losses: list[float] = []
        self.steps: list[dict[str, Tensor]] = []

    def backward(self, loss: Tensor) -> None:
        self.losses.append(float(loss.detach()))
        loss.backward()

    def backward_from(self, output: Tensor, gradient: Tensor) -> None:
        output.backward(gradient)

    def step(self) -> None:
        self.steps.append(
            {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        )
        self.model.zero_grad(set_to_none=True)


def context(
    progress: float = 1.0, rng: Callable[[str], np.random.Generator] | None = None
) -> StepContext:
    """A step context late in training, with a fixed generator per slide."""
    return StepContext(progress, rng or (lambda slide_id: np.random.default_rng(len(slide_id))))
