"""Batch norm replaced by group norm: nothing of a patch's embedding then comes from its batch."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

_MOST_GROUPS = 32


def to_group_norm(net: nn.Module) -> int:
    """Replace every batch norm of images in ``net``, in place; weights and biases are kept.

    The groups are 32, or as many below as divide the channels (their greatest common divisor).
    Where timm's batch norm has an activation inside, that stays behind the new norm.

    Source: Wu and He, ECCV 2018.

    Returns:
        How many there were.
    """
    num = 0
    for name, child in list(net.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(net, name, _group_norm(child))
            num += 1
        else:
            num += to_group_norm(child)
    return num


def _group_norm(batch_norm: nn.BatchNorm2d) -> nn.Module:
    channels = batch_norm.num_features
    norm = nn.GroupNorm(
        math.gcd(channels, _MOST_GROUPS), channels, batch_norm.eps, affine=batch_norm.affine
    )
    if batch_norm.affine:
        norm.weight, norm.bias = batch_norm.weight, batch_norm.bias
    inside: Any = [getattr(batch_norm, part, nn.Identity()) for part in ("drop", "act")]
    if all(isinstance(part, nn.Identity) for part in inside):
        return norm
    return nn.Sequential(norm, *inside)
