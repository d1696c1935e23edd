"""Whether a file's tensors are a network's, all of them and no others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsi_hr.models.weight_layouts import Convert, converted, is_code, resized_kernels
from wsi_hr.models.weight_wrappers import told

HARMLESS: dict[str, str] = {
    "classifier": "`head`, `head.fc`, `fc`, `classifier`, `last_linear` and `head_dist`, with "
    "`weight` and `bias`, and whatever timm's network has with a classifier and not without",
    "projection head": "names that begin with `head.mlp`, `head.last_layer`, `dino_head`, "
    "`ibot_head`, `projection_head`, `proj_head`, `projector`, `predictor` or `prototypes`, or "
    "with a number behind `head`, `fc` or `classifier`, as of an MLP's layers",
    "mask token": "`mask_token`",
    "counters": "names that end in `num_batches_tracked`; where the file has none they are 0",
    "what timm computes itself": "names that end in `relative_position_index`, "
    "`relative_coords_table`, `attn_mask`, `attention_bias_idxs` or `bias_mask`, and in a "
    "network with rotary codes those of a `rope` but its `freqs`",
    "a bias of zeros": "a `bias` that is 0 throughout and not a norm's, where the network has none",
}
"""Tensors of a file that may have no place in a network: what they are, and their names."""

_CLASSIFIERS = ("head", "fc", "classifier", "last_linear", "head_dist", "head.fc")
_PROJECTIONS = (
    *("head.mlp.", "head.last_layer.", "dino_head.", "ibot_head.", "projection_head."),
    *("proj_head.", "projector.", "predictor.", "prototypes."),
)
_MLP_HEAD = re.compile(r"(head|fc|classifier)\.\d+\.")
_COMPUTED = (
    *("relative_position_index", "relative_coords_table", "attn_mask", "attention_bias_idxs"),
    "bias_mask",
)
_VARIANCE = "running_var"
_COUNTER = "num_batches_tracked"


class TimmsOwn(NamedTuple):
    """What timm knows of an architecture beside the network itself.

    Attributes:
        convert: what it does to a file of weights before it loads them; None: nothing.
        names: of all tensors of the network with its classifier.
    """

    convert: Convert | None = None
    names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fit:
    """How a file's tensors and a network's go together.

    Attributes:
        tensors: of the file, by the network's names.
        missing: the network has them, the file does not.
        surplus: the file has them, the network has no place for them.
        shapes: both have them, of different shape: (file's, network's).
        kernels: convolutions that timm would stretch to make them fit.
        left_out: surplus that does no harm.
        defaulted: missing counters.
        said: what was done to the names and sizes, a clause each.
    """

    tensors: dict[str, Tensor]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    kernels: tuple[str, ...]
    left_out: tuple[str, ...]
    defaulted: tuple[str, ...]
    said: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether every tensor of one has its place in the other."""
        return not (self.missing or self.surplus or self.shapes or self.kernels)

    @property
    def only_codes(self) -> bool:
        """Whether it is only position codes that do not fit, being for another grid."""
        others = self.missing or self.surplus or self.kernels
        return not others and bool(self.shapes) and all(map(is_code, self.shapes))


def fit(tensors: dict[str, Tensor], net: nn.Module, timms: TimmsOwn) -> Fit:
    """Hold a file's tensors against a network's; nothing is loaded.

    Args:
        tensors: of the file, unwrapped.
        net: the network, at the size that it will be used at.
        timms: what timm knows of this architecture.
    """
    own = net.state_dict()
    found = converted(tensors, net, timms.convert)
    there, kernels = found.tensors, resized_kernels(tensors, found.tensors)
    turns = any("rope" in name for name, _ in net.named_modules())
    beyond = [*(name for name in there if name not in own), *found.dropped]
    harmless = {
        name
        for name in beyond
        if name in timms.names
        or (turns and _is_rotation(name))
        or _is_harmless(name, {**there, **tensors})
    }
    absent = [name for name in own if name not in there]
    counters = [name for name in absent if name.endswith(_COUNTER)]
    return Fit(
        tensors={name: there[name] for name in own if name in there},
        missing=tuple(name for name in absent if name not in counters),
        surplus=tuple(name for name in beyond if name not in harmless),
        shapes={
            name: (tuple(there[name].shape), tuple(own[name].shape))
            for name in own
            if name in there and name not in kernels and own[name].shape != there[name].shape
        },
        kernels=tuple(kernels),
        left_out=tuple(sorted(harmless)),
        defaulted=tuple(counters),
        said=found.said,
    )


def _is_harmless(name: str, tensors: Mapping[str, Tensor]) -> bool:
    module, _, kind = name.rpartition(".")
    return (
        (module in _CLASSIFIERS and kind in ("weight", "bias"))
        or name.startswith(_PROJECTIONS)
        or kind == "mask_token"
        or name.endswith((_COUNTER, *_COMPUTED))
        or _MLP_HEAD.match(name) is not None
        or (kind == "bias" and _is_idle(tensors[name], tensors.get(f"{module}.weight")))
    )


def _is_idle(bias: Tensor, weight: Tensor | None) -> bool:
    """Whether nothing changes without this bias; a norm that has none may be of another kind."""
    is_norms = weight is not None and weight.ndim == 1
    return not is_norms and not bias.is_meta and not bias.any()


def _is_rotation(name: str) -> bool:
    """Whether it is a table of rotary codes; those that are learned are called ``freqs``."""
    *parts, last = name.split(".")
    return last != "freqs" and any(part.startswith("rope") for part in parts)


def no_numbers(tensors: Mapping[str, Tensor], net: nn.Module) -> str | None:
    """What is wrong with the values of tensors that fit, a clause; None: nothing."""
    own = net.state_dict()
    for name, one in tensors.items():
        if one.is_meta:
            return f"{name} has a shape and no values; save the weights with their values"
        if one.layout != torch.strided:
            return f"{name} is sparse; give the weights as they are, dense"
        if own[name].is_floating_point() and not one.is_floating_point():
            return (
                f"{name} is of type {str(one.dtype).removeprefix('torch.')}, as quantised weights "
                "are; give them in float32, float16 or bfloat16"
            )
        if one.is_floating_point() and not torch.isfinite(one.float()).all():
            return f"{name} has values that are not finite; fetch the file again, or an earlier one"
        if name.endswith(_VARIANCE) and (one < 0).any():
            return f"{name} is a variance and below 0; fetch the file again, or an earlier one"
    return None


def misfit(found: Fit) -> str:
    """What does not fit, a clause."""
    parts = []
    if found.missing:
        parts.append(f"it lacks {len(found.missing)} tensors: {told(found.missing)}")
    if found.surplus:
        parts.append(
            f"{len(found.surplus)} of its tensors have no place here: {told(found.surplus)}"
        )
    parts += [
        f"{name} is {there} there, {here} here" for name, (there, here) in found.shapes.items()
    ][:1]
    if len(found.shapes) > 1:
        parts[-1] += f", and {len(found.shapes) - 1} more are of another shape"
    if found.kernels:
        parts.append(f"{found.kernels[0]} has a kernel of another size there")
    return "; ".join(parts)


def beginnings(names: Iterable[str]) -> str:
    """The parts that names begin with, and how many names each has."""
    counts: dict[str, int] = {}
    for name in names:
        first = name.split(".", 1)[0]
        counts[first] = counts.get(first, 0) + 1
    most = sorted(counts, key=lambda part: (-counts[part], part))
    shown = ", ".join(f"`{part}` ({counts[part]})" for part in most[:6])
    return f"{shown} and {len(most) - 6} more" if len(most) > 6 else shown
