"""Small true encoders and bags for the methods' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor, nn

from benchmarks.golden_file import spelled_numbers
from wsi_hr.bags.bag import Bag
from wsi_hr.methods.method import StepContext
from wsi_hr.models.encoder import Encoder
from wsi_hr.store.jpeg import encode_jpeg
from wsi_hr.store.jpeg_patches import JpegPatches
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


class JpegMemory(MemoryPatches):
    """Patches held as JPEG streams; how many were read, and how many of them undecoded."""

    def __init__(self, patches: np.ndarray, **facts) -> None:
        self._streams = [encode_jpeg(one, quality=90, subsampling="420") for one in patches]
        super().__init__(self._jpeg(range(len(patches)), patches.shape[1]).decode(), **facts)
        self.num_read, self.num_undecoded = 0, 0

    @property
    def holds_jpeg(self) -> bool:
        return True

    def read(self, indices: np.ndarray) -> np.ndarray:
        self.num_read += len(indices)
        return super().read(indices)

    def read_jpeg(self, indices: np.ndarray) -> JpegPatches:
        self.num_undecoded += len(indices)
        return self._jpeg(indices.tolist(), self._patches.shape[1])

    def _jpeg(self, indices: Iterable[int], patch_px: int) -> JpegPatches:
        found = [(self._streams[k], ("memory", k)) for k in indices]
        return JpegPatches(*zip(*found, strict=True), patch_px)


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
