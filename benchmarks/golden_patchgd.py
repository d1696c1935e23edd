"""Golden files of PatchGD: the gradients of one outer step."""

from __future__ import annotations

import math
import re

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.golden_file import Finding, GoldenError, GoldenFile, spelled_numbers
from wsi_hr.bags.bag import Bag
from wsi_hr.method_config import PatchGDConfig
from wsi_hr.methods.method import StepContext
from wsi_hr.methods.patchgd import PatchGD
from wsi_hr.models.encoder import Encoder
from wsi_hr.models.z_block import ZBlock
from wsi_hr.store.jpeg_patches import JpegPatches, Patches
from wsi_hr.testing.memory_patches import MemoryPatches, numbered_pixels

# Letters: B slides, N patches of a slide, p patch edge, (R, Q) patch grid, D embedding, C classes.

TOLERANCE = {torch.float64: 1e-5, torch.float32: 5e-5}
_ZERO = {torch.float64: 1e-12, torch.float32: 1e-7}  # of the greatest: a gradient that is none

_PUBLISHED_PX = 8


class _ConvEncoder(Encoder):
    """Convolutions of stride 2, ReLU after each, mean, linear; pixels are looked up by number."""

    def __init__(self, pixels_N3pp: Tensor, weights: dict[str, Tensor]) -> None:
        fc = weights["fc.weight"]
        super().__init__(nn.Identity(), dim=fc.shape[0])
        self.pixels_N3pp = pixels_N3pp
        self.convs = [name[:-7] for name in weights if re.fullmatch(r"conv\d+\.weight", name)]
        self.convs.sort(key=lambda name: int(name[4:]))
        for name in self.convs:
            out, into, kernel, _ = weights[f"{name}.weight"].shape
            self.add_module(name, nn.Conv2d(into, out, kernel, 2, kernel // 2))
        self.fc = nn.Linear(fc.shape[1], fc.shape[0])
        self.to(pixels_N3pp.dtype).load_state_dict(self.state_dict() | weights)

    def forward(self, patches_KPP3: Patches | Tensor, reduce: int = 1) -> Tensor:
        assert not isinstance(patches_KPP3, JpegPatches)
        x = self.pixels_N3pp[spelled_numbers(patches_KPP3)]
        for name in self.convs:
            x = torch.relu(self.get_submodule(name)(x))
        return self.fc(x.mean((2, 3)))


class _FlattenHead(nn.Module):
    """The released CNN head: its last step is a flatten, so it takes one grid only."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        convs = [w for name, w in weights.items() if re.fullmatch(r"layers\.\d+\.0\.weight", name)]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(w.shape[1], w.shape[0], 3, stride, 1), nn.ReLU(), nn.BatchNorm2d(len(w))
            )
            for w, stride in zip(convs, strides(len(convs)), strict=True)
        )
        linear = weights["linear.weight"]
        self.linear = nn.Linear(linear.shape[1], linear.shape[0])
        self.to(linear.dtype).load_state_dict(weights)

    def forward(self, block: ZBlock) -> Tensor:
        z, mask = block.grid()
        assert mask.all()
        z = z.transpose(2, 3)  # the released grid is transposed, ours is [row, col]
        for layer in self.layers:
            z = layer(z)
        return self.linear(z.flatten(1))


class _Raster(np.random.Generator):
    """Draws patches in raster order, as the golden step does."""

    def permutation(self, x: int) -> npt.NDArray[np.int64]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return np.arange(x)


class _Sum:
    """An update that adds up gradients over all steps, and changes no weight."""

    def __init__(self) -> None:
        self.num_losses = 0
        self.num_steps = 0

    def backward(self, loss: Tensor) -> None:
        self.num_losses += 1
        loss.backward()

    def backward_from(self, output: Tensor, gradient: Tensor) -> None:
        output.backward(gradient)

    def step(self) -> None:
        self.num_steps += 1


class GoldenGradients:
    """PatchGD with a file's encoder and head.

    Raises:
        GoldenError: the file is not of the form.
    """

    def __init__(self, file: GoldenFile) -> None:
        self.x_B3HW = file.tensor("x", 4)
        self.labels_B = file.array("y", 1)
        self.encoder = _under(file, "state.encoder.", self.x_B3HW.dtype)
        self.head = _under(file, "head.", self.x_B3HW.dtype)
        self.grads = _under(file, "grad.encoder.", torch.float64)
        self.norms = _under(file, "gradnorm.head.", torch.float64)
        self.sample = file.number("pct")
        self.inner, self.epsilon, self.steps = (
            int(file.number(name)) for name in ("inner", "epsilon", "n_optimizer_steps")
        )
        self._require_form()
        self.edges_px = self._possible_edges()

    def findings(self) -> list[Finding]:
        """All gradients, with the patch edge that the head's width leaves open and fits best."""
        tried = [self._with_edge(edge) for edge in self.edges_px]
        return min(tried, key=lambda found: sum(not finding.agrees for finding in found))

    def _with_edge(self, edge: int) -> list[Finding]:
        (num_slides, _, height, width), dtype = self.x_B3HW.shape, self.x_B3HW.dtype
        rows, cols = height // edge, width // edge
        num = rows * cols
        pixels_N3pp = (
            self.x_B3HW.reshape(num_slides, 3, rows, edge, cols, edge)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(num_slides * num, 3, edge, edge)
        )
        size = patches_per_inner_step(self.sample, num, self.inner)
        covered = min(num, size * self.inner)
        # half a patch less than meant: rounded up, it is what is meant, whatever the last bits are
        config = PatchGDConfig.model_validate(
            {
                "sample": (size - 0.5) / num,
                "coverage": (covered - 0.5) / num,
                "max_sampled": num,
                "accumulate": self.epsilon,
                "dropout": 0.0,
            }
        )
        encoder, head = _ConvEncoder(pixels_N3pp, self.encoder), _FlattenHead(self.head)
        num_classes = self.head["linear.bias"].shape[0]
        method = PatchGD(config, encoder, [1.0] * num_classes, head=head).to(dtype).train()
        cells = np.stack(np.divmod(np.arange(num), cols), 1).astype(np.int32)
        bags = [
            Bag.of(
                MemoryPatches(
                    numbered_pixels(np.arange(num) + slide * num),
                    slide_id=str(slide), cells=cells, shape=(rows, cols),
                ),
                int(label),
            )
            for slide, label in enumerate(self.labels_B)
        ]  # fmt: skip
        update = _Sum()
        raster = _Raster(np.random.PCG64())
        method.train_bags(bags, update, StepContext(1.0, lambda _: raster))
        return [
            Finding("inner", abs(update.num_losses - self.inner), 0),
            Finding("n_optimizer_steps", abs(update.num_steps - self.steps), 0),
            *self._compare(method, dtype),
        ]

    def _compare(self, method: PatchGD, dtype: torch.dtype) -> list[Finding]:
        ours = {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in method.named_parameters()
        }
        ours = {name: grad.double() for name, grad in ours.items()}
        tolerance, found = TOLERANCE[dtype], []
        zero = _ZERO[dtype] * max(float(grad.norm()) for grad in ours.values())
        for name, expected in self.grads.items():
            away = float((ours[f"encoder.{name}"] - expected).norm())
            error = away / max(float(expected.norm()), zero)
            found.append(Finding(f"grad.encoder.{name}", error, tolerance))
        for name, norm in self.norms.items():
            away = abs(float(ours[f"head.{name}"].norm()) - float(norm))
            error = away / max(float(norm), zero / tolerance)
            found.append(Finding(f"gradnorm.head.{name}", error, tolerance))
        return found

    def _require_form(self) -> None:
        if self.x_B3HW.shape[1] != 3 or len(self.labels_B) != len(self.x_B3HW):
            raise GoldenError(f"x is {tuple(self.x_B3HW.shape)}, y has {len(self.labels_B)} labels")
        if self.sample > 1:
            raise GoldenError(f"pct is {self.sample}, not a part of all patches")
        for weights, name in ((self.encoder, "fc.weight"), (self.head, "linear.weight")):
            if name not in weights or name.replace("weight", "bias") not in weights:
                raise GoldenError(f"has no {name} with its bias")
        num_classes = len(self.head["linear.bias"])
        if not all(0 <= label < num_classes for label in self.labels_B):
            raise GoldenError(f"y holds labels other than 0 to {num_classes - 1}")
        try:
            own = dict(_ConvEncoder(torch.empty(0, 3, 1, 1), self.encoder).named_parameters())
            head = dict(_FlattenHead(self.head).named_parameters())
        except (RuntimeError, ValueError) as cause:
            reason = str(cause).splitlines()[-1].strip()
            raise GoldenError(f"its weights are not those of the form ({reason})") from cause
        for name, grad in self.grads.items():
            if name not in own or own[name].shape != grad.shape:
                raise GoldenError(f"grad.encoder.{name} is no gradient of a weight of the encoder")
        for name, norm in self.norms.items():
            if name not in head or norm.ndim:
                raise GoldenError(f"gradnorm.head.{name} is no norm of a gradient of the head")

    def _possible_edges(self) -> list[int]:
        """Patch edges that cut the images without rest into a grid of the head's width."""
        height, width = self.x_B3HW.shape[2:]
        convs = [
            weight
            for name, weight in self.head.items()
            if re.fullmatch(r"layers\.\d+\.0\.weight", name)
        ]
        channels = len(convs[-1]) if convs else len(self.encoder["fc.weight"])
        common = math.gcd(height, width)
        edges = [
            edge
            for edge in range(1, common + 1)
            if common % edge == 0
            and channels * _shrunk(height // edge, len(convs)) * _shrunk(width // edge, len(convs))
            == self.head["linear.weight"].shape[1]
        ]
        if not edges:
            raise GoldenError("no square patches cut its images into a grid of the head's width")
        return sorted(edges, key=lambda edge: abs(edge - _PUBLISHED_PX))


def strides(num_layers: int) -> list[int]:
    """Of the head's convolutions: 1, then 2 each."""
    return [1, *[2] * (num_layers - 1)][:num_layers]


def patches_per_inner_step(sample: float, num_patches: int, inner: int) -> int:
    """K: ``sample`` N, rounded so that ``inner`` steps cover the slide, if either way does."""
    exact = sample * num_patches
    sizes = [max(1, math.floor(exact + 1e-9)), max(1, math.ceil(exact - 1e-9))]
    return next((k for k in sizes if math.ceil(num_patches / k) == inner), round(exact) or 1)


def _shrunk(cells: int, num_layers: int) -> int:
    for stride in strides(num_layers):
        cells = math.ceil(cells / stride)
    return cells


def _under(file: GoldenFile, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it.

    Raises:
        GoldenError: there is none.
    """
    found = {}
    for name in file:
        if name.startswith(prefix):
            array = file.array(name, None)
            if array.dtype.kind not in "fiu":
                raise GoldenError(f"{name} holds no numbers")
            found[name.removeprefix(prefix)] = torch.from_numpy(np.array(array)).to(dtype)
    if not found:
        raise GoldenError(f"has no {prefix}*")
    return found
