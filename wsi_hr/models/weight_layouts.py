"""A weights file's names and shapes, brought to those of timm's network by timm's own function."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Convert = Callable[..., Mapping[str, Tensor]]
"""What timm does with a file of published weights before it loads them, ``(tensors, net)``."""

_CODES = ("pos_embed", "position_bias", "rel_pos", "positional_embedding", "attention_bias")
# In a file of several networks, the beginning of the names of the one that sees.
_SEES = ("visual.", "vision_encoder.", "beit3.", "radio_model.")


@dataclass(frozen=True)
class Converted:
    """A file's tensors as timm's network names them.

    Attributes:
        tensors: by name.
        dropped: names of the file of which nothing is left.
        said: what was done, a clause each.
    """

    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]
    said: tuple[str, ...]


def converted(tensors: dict[str, Tensor], net: nn.Module, convert: Convert | None) -> Converted:
    """Bring tensors to the layout of ``net`` if timm knows theirs; else they stay as they are.

    Position codes are resampled to the grid of ``net``, as timm does it.
    """
    before = {name: one for name, one in tensors.items() if one is not None}
    if convert is None:
        return Converted(before, (), ())
    try:
        after = _converted(before, net, convert)
    except Exception:  # of another architecture, on which it was not meant to work: see what fits
        return Converted(before, (), ())
    said = []
    renamed = [name for name in before if name not in after]
    dropped = _dropped(before, after, net, convert) if renamed else ()
    if set(renamed) - set(dropped):
        said.append("names as timm has them")
    apart = [name for name in dropped if _of_another_tower(name, before)]
    if apart:
        said.append(f"{len(apart)} tensors are of another network in the file, and left there")
    said += [
        f"{name} resampled from {tuple(before[name].shape)} to {tuple(one.shape)}"
        for name, one in after.items()
        if name in before and _is_resampled(before[name], one)
    ][:1]
    kept = tuple(name for name in dropped if name not in apart)
    return Converted(after, kept, tuple(said))


def resized_kernels(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Names of convolutions whose kernels timm would stretch: other weights than the file's.

    A matrix of the file may have as many elements as a stretched kernel, as in ViT-B, so only
    kernels are looked at, and where the kernel is one pixel, matrices.
    """
    found = []
    for name, one in after.items():
        if one.ndim < 4 or is_code(name):
            continue
        axes = 4 if max(one.shape[2:]) > 1 else 2
        there = {each.numel() for each in before.values() if each.ndim >= axes}
        if name in before:  # some are written flat
            there.add(before[name].numel())
        if one.numel() not in there:
            found.append(name)
    return found


def is_code(name: str) -> bool:
    """Whether a tensor is a position code, whose size follows the picture's."""
    return any(code in name for code in _CODES)


def _is_resampled(before: Tensor, after: Tensor) -> bool:
    """Whether there is another grid, and not only a token of another kind less."""
    if before.ndim < 2 or before.ndim != after.ndim or before.shape == after.shape:
        return False
    if before.ndim == 3:
        return abs(before.shape[1] - after.shape[1]) > 1
    return before.numel() != after.numel()


def _converted(before: dict[str, Tensor], net: nn.Module, convert: Convert) -> dict[str, Tensor]:
    with contextlib.redirect_stdout(io.StringIO()):  # timm prints what it tries
        try:
            after = convert(dict(before), net)
        except TypeError:
            after = convert(dict(before))
    return {name: one for name, one in after.items() if isinstance(one, Tensor)}


def _dropped(
    before: dict[str, Tensor], after: dict[str, Tensor], net: nn.Module, convert: Convert
) -> tuple[str, ...]:
    """Names of which nothing is left, by sending numbers through in place of the weights."""
    marks = {
        name: torch.tensor(float(number)).expand(one.shape)
        for number, (name, one) in enumerate(before.items(), start=1)
    }
    sent: dict[str, Tensor] = _converted(marks, net, convert)
    seen: set[Any] = set()
    for one in sent.values():
        if one.numel():
            all_alike = all(stride == 0 for stride in one.stride())
            seen |= set((one.flatten()[:1] if all_alike else one.unique()).tolist())
    return tuple(
        name
        for number, name in enumerate(before, start=1)
        if name not in after and number not in seen
    )


def _of_another_tower(name: str, names: Mapping[str, Tensor]) -> bool:
    sees = next((one for one in _SEES if any(each.startswith(one) for each in names)), None)
    if sees is None:
        return False
    return not name.startswith(sees) or ".B." in name or name.startswith("beit3.text_embed")
