"""Patches that look at one another, in memory that grows with N and not with its square."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Letters: B slides, N patches, D embedding, H heads, k width of a head.


class SelfAttention(nn.Module):
    """Multi-head self-attention over the patches of each slide.

    Args:
        dim: D.
        heads: H.
        head_dim: k; H k need not be D.
        dropout: of the output; the weights are never formed as a matrix, and none are dropped.
    """

    def __init__(self, dim: int, *, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.w_qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.w_o = nn.Linear(heads * head_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x_BND: Tensor, mask_BN: Tensor, turn: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """[B, N, D]: what each patch takes from all patches of its slide.

        Args:
            x_BND: the patches.
            mask_BN: True where there is a patch; nobody looks elsewhere.
            turn: applied to queries and keys [B, H, N, k], e.g. :func:`rotate`.
        """
        q, k, v = self.w_qkv(x_BND).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if turn is not None:
            q, k = turn(q), turn(k)
        # without a mask the fastest kernels may be taken, and one slide alone needs none
        mask = None if len(x_BND) == 1 else mask_BN[:, None, None]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.dropout(self.w_o(mixed.transpose(1, 2).flatten(2)))


def masked_mean(x_BND: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean [B, D] over the patches that are there."""
    there = mask_BN[..., None].to(x_BND.dtype)
    return (x_BND * there).sum(1) / there.sum(1).clamp_min(1)


def rotary_angles(cells_BN2: Tensor, head_dim: int, *, base: float = 100.0) -> Tensor:
    """Angles f64[B, N, k / 2] of the rotary code of cells (row, col), for :func:`rotate`.

    The first half of them turns with the row, the second with the column; pair i of P pairs per
    axis turns by base^(-i / P) radians a cell. Source: Su et al. 2021 (RoFormer), per axis as in
    CroCo v2 (Weinzaepfel et al. 2023), whose base of 100 this is.
    """
    pairs = head_dim // 4
    steps = torch.arange(pairs, dtype=torch.float64, device=cells_BN2.device)
    speed = torch.full_like(steps, base) ** (-steps / pairs)
    return (cells_BN2[..., None].double() * speed).flatten(-2)


def rotate(x_BHNk: Tensor, angles_BNp: Tensor) -> Tensor:
    """Turn channel pairs (i, i + k / 2) of x by the angles [B, N, k / 2] of their patch.

    Products of two turned vectors depend on the difference of their angles alone.
    """
    cos = angles_BNp.cos().to(x_BHNk.dtype)[:, None]
    sin = angles_BNp.sin().to(x_BHNk.dtype)[:, None]
    a, b = x_BHNk.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
