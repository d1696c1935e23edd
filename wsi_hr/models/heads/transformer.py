"""A head in which every patch looks at every other one, once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_hr.models.attention import sinusoid
from wsi_hr.models.heads.dense import DenseHead, Features
from wsi_hr.models.self_attention import SelfAttention, masked_mean
from wsi_hr.models.z_block import ZBlock

# Letters: B slides, N patches, D embedding.

_HEAD_DIM = 192


class TransformerHead(DenseHead):
    """One layer of self-attention, 2 heads of 192, then the mean over patches.

    Source: METHODS section 3 (PatchGD). Unlike the paper the last step is a masked mean, so any
    grid fits, with a layer norm in front of both steps.

    Args:
        dim: D.
        num_classes: C.
        dropout: of what patches take from one another.
        heads: of 192 each.
        positions: add a sinusoidal code of row and column; else the head does not see where
            patches lie.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        dropout: float,
        heads: int = 2,
        positions: bool = False,
    ) -> None:
        super().__init__()
        self.patch_dim = dim
        self.positions = positions
        self.norm = nn.LayerNorm(dim)
        self.attend = SelfAttention(dim, heads=heads, head_dim=_HEAD_DIM, dropout=dropout)
        self.out_norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, num_classes)

    def features(self, block: ZBlock) -> Features:
        """Patches in the light of all others, and their mean."""
        x_BND = block.emb_BND
        if self.positions:
            x_BND = x_BND + _code(block.cells_BN2, x_BND.shape[-1]).to(x_BND.dtype)
        x_BND = x_BND + self.attend(self.norm(x_BND), block.mask_BN)
        x_BND = self.out_norm(x_BND)
        return Features(masked_mean(x_BND, block.mask_BN), x_BND)


def _code(cells_BN2: Tensor, dim: int) -> Tensor:
    """Sinusoidal code [B, N, D]: of the row in the first half of the channels, then the column."""
    half = dim // 2
    rows, cols = cells_BN2.flatten(0, 1).unbind(1)
    code = torch.cat([sinusoid(rows, half), sinusoid(cols, dim - half)], dim=1)
    return code.unflatten(0, cells_BN2.shape[:2])
