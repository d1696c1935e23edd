"""A network made to take patches of one size: asked, by one forward pass, and not guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wsi_hr.errors import ConfigError
from wsi_hr.models.weights_file import first_line

_CANNOT = (RuntimeError, AssertionError, ValueError, ArithmeticError, LookupError, TypeError)
_CHANNELS = 3


class SizedNet(NamedTuple):
    """A network that takes patches of a size.

    Attributes:
        net: the one given, or one that was built for that size.
        dim: D, width of what it gives.
    """

    net: nn.Module
    dim: int


def sized_net(
    net: nn.Module, name: str, patch_px: int, rebuild: Callable[[int], nn.Module]
) -> SizedNet:
    """Make a network take patches of ``patch_px``.

    Where it can be told its size, as most transformers can, it is told, and its position codes are
    resampled. Else it is tried as it is; where that fails it is built for that size.

    Args:
        net: one of timm's, without weights of a file yet.
        name: of the network, for the error.
        patch_px: edge of a patch.
        rebuild: makes the same network for pictures of an edge, px.

    Raises:
        ConfigError: it cannot take such patches, would not see all of one, or gives no vector.
    """
    try:
        set_size(net, patch_px)
        try:
            shape = _given(net, patch_px)
        except _CANNOT as first:
            if hasattr(net, "set_input_size"):
                raise
            try:
                net = rebuild(patch_px)
                shape = _given(net, patch_px)
            except (ConfigError, *_CANNOT):
                raise first from None
    except _CANNOT as cause:
        if patch_px < _token_px(net):
            raise ConfigError(_too_coarse(name, net, patch_px)) from cause
        raise ConfigError(
            f"encoder.name {name}: it cannot take patches of {patch_px} px "
            f"({first_line(cause)}); choose another --patch-size or encoder"
        ) from cause
    if patch_px % _token_px(net) and not _sees_the_edge(net, patch_px):
        raise ConfigError(_too_coarse(name, net, patch_px))
    if len(shape) != 2:
        raise ConfigError(
            f"encoder.name {name}: it gives {tuple(shape)}, not one vector; encoder.args."
            "global_pool says how to pool, or choose another encoder"
        )
    return SizedNet(net, shape[1])


def _too_coarse(name: str, net: nn.Module, patch_px: int) -> str:
    return (
        f"encoder.name {name}: reads squares of {_token_px(net)} px, and would not see all of a "
        f"patch of {patch_px} px; choose a --patch-size that is a multiple, or another encoder"
    )


def set_size(net: Any, px: int) -> None:
    """Tell a network the size of its pictures, if it can be told and is of another."""
    own = getattr(net, "pretrained_cfg", {}).get("input_size", (_CHANNELS, px, px))[1:]
    grid = getattr(getattr(net, "patch_embed", None), "img_size", None) or own
    if hasattr(net, "set_input_size") and (tuple(own) != (px, px) or tuple(grid) != (px, px)):
        net.set_input_size(img_size=(px, px))


def takes(net: nn.Module, px: int) -> bool:
    """Whether a network, as it is, takes pictures of ``px`` and sees all of one."""
    try:
        _given(net, px)
    except _CANNOT:
        return False
    return px % _token_px(net) == 0 or _sees_the_edge(net, px)


def _given(net: nn.Module, px: int) -> torch.Size:
    like = next(net.parameters(), torch.empty(0))
    before = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        with torch.no_grad():
            return net(
                torch.zeros(1, _CHANNELS, px, px, device=like.device, dtype=like.dtype)
            ).shape
    finally:
        for module, training in before:
            module.training = training


def _token_px(net: Any) -> int:
    """Edge of a transformer's token, px; 1 where there are none, or there is no telling."""
    edge = getattr(getattr(net, "patch_embed", None), "patch_size", None) or 1
    edge = edge if isinstance(edge, int) else edge[0]
    return edge if isinstance(edge, int) else 1


def _sees_the_edge(net: nn.Module, px: int) -> bool:
    """Whether what a network gives depends on the last row and column of pixels."""
    noise = torch.Generator().manual_seed(0)
    like = next(net.parameters(), torch.empty(0))
    picture = torch.randn(1, _CHANNELS, px, px, generator=noise).to(like).requires_grad_()
    before = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        with torch.enable_grad():
            out: Tensor = net(picture)
            weights = torch.randn(out.shape, generator=noise).to(out)
            (by_pixel,) = torch.autograd.grad((out * weights).sum(), picture)
    finally:
        for module, training in before:
            module.training = training
    return bool(by_pixel[..., -1, :].any() and by_pixel[..., :, -1].any())
