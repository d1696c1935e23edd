"""Where a vision transformer looks on a slide's thumbnail."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from wsi_hr.errors import ConfigError
from wsi_hr.geometry import Float32Array, PatchGrid, Size, UInt8Array
from wsi_hr.models.encoder import frozen
from wsi_hr.models.timm_nets import SettingKeys, load_net

# Letters: N patches, H heads, (r, q) tokens over the thumbnail, k width of a head.

MAX_TOKENS = 2048
_KEYS = SettingKeys("sampler.vit", "sampler.vit_weights")


class ThumbnailViT(nn.Module):
    """A vision transformer whose class token's attention, per head, says where it looks.

    Args:
        net: timm's ``VisionTransformer`` with a class token, for pictures of any size.
        name: what it is called, for people.

    Raises:
        ConfigError: it is another kind of network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: Any, name: str) -> None:
        super().__init__()
        attention = getattr(next(reversed(getattr(net, "blocks", None) or [None])), "attn", None)
        if getattr(net, "cls_token", None) is None or not hasattr(attention, "qkv"):
            raise ConfigError(
                f"{_KEYS.name} {name}: is no vision transformer with a class token; choose one, "
                "e.g. vit_small_patch14_dinov2.lvd142m"
            )
        self.net = net
        self.token_px: int = net.patch_embed.patch_size[0]
        self.register_buffer("mean", torch.tensor(net.pretrained_cfg["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(net.pretrained_cfg["std"]).view(3, 1, 1))

    def look(self, thumbnail: UInt8Array, tokens: tuple[int, int]) -> Float32Array:
        """Logits f32[H, r, q] of the class token over ``tokens`` (r, q) regions of the picture.

        The picture u8[h, w, 3] is brought to r x q tokens, so its aspect changes a little; the
        logits are those of the last block, before the softmax.
        """
        size = (tokens[1] * self.token_px, tokens[0] * self.token_px)  # (w, h), as cv2 has it
        shrinks = size[0] < thumbnail.shape[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        picture = torch.from_numpy(np.asarray(cv2.resize(thumbnail, size, interpolation=how)))
        x = picture.to(self.mean.device).permute(2, 0, 1).float() / 255
        seen: list[Tensor] = []
        attention = self.net.blocks[-1].attn
        hook = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            with frozen(self.net):
                self.net.forward_features(((x - self.mean) / self.std)[None])
                logits_Hn = self._class_logits(attention, seen[0])
        finally:
            hook.remove()
        return logits_Hn.view(-1, *tokens).float().cpu().numpy()

    def _class_logits(self, attention: Any, x_1nD: Tensor) -> Tensor:
        """[H, n]: q of the class token times k of the picture's tokens."""
        _, num, _ = x_1nD.shape
        qkv = attention.qkv(x_1nD).view(num, 3, attention.num_heads, -1)
        q_nHk, k_nHk = attention.q_norm(qkv[:, 0]), attention.k_norm(qkv[:, 1])
        picture = k_nHk[self.net.num_prefix_tokens :]
        return torch.einsum("hk,nhk->hn", q_nHk[0] * attention.scale, picture)


def build_thumbnail_vit(name: str, weights: str) -> ThumbnailViT:
    """Load a vision transformer by its timm name.

    Args:
        name: e.g. ``vit_small_patch14_dinov2.lvd142m``.
        weights: ``pretrained``, or a local weights file.

    Raises:
        ConfigError: unknown name, another kind of network, or weights that cannot be had.
    """
    if not name.startswith(("vit_", "test_vit", "deit")):
        raise ConfigError(f"{_KEYS.name} {name}: is no vision transformer; their names begin vit_")
    return ThumbnailViT(load_net(name, weights, _KEYS, dynamic_img_size=True).net, name)


def token_grid(grid: PatchGrid, level0_size: Size) -> tuple[int, int]:
    """(r, q) tokens over the whole slide: about one per patch, at most ``MAX_TOKENS``."""
    wanted_q = level0_size.w / grid.patch_px0.x
    wanted_r = level0_size.h / grid.patch_px0.y
    scale = min(1.0, math.sqrt(MAX_TOKENS / (wanted_q * wanted_r)))
    rows = min(max(1, int(wanted_r * scale)), MAX_TOKENS)
    return rows, min(max(1, int(wanted_q * scale)), MAX_TOKENS // rows)


def at_patches(logits_Hrq: Float32Array, grid: PatchGrid, level0_size: Size) -> Float32Array:
    """f32[H, N]: the logits of the token in which each patch has its centre."""
    rows, columns = logits_Hrq.shape[1:]
    centres = grid.coords + np.array(grid.patch_px0) / 2
    column = np.clip(centres[:, 0] * columns // level0_size.w, 0, columns - 1).astype(np.int64)
    row = np.clip(centres[:, 1] * rows // level0_size.h, 0, rows - 1).astype(np.int64)
    return logits_Hrq[:, row, column]
