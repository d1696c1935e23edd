"""A head that learns from windows of the grid and reads the whole of it.

Source: METHODS section 4 (Win-Win, Leroy et al., ICLR 2024): vanilla self-attention over the cells
that are there, and rotary position codes, which know distances only. So the same weights read two
windows in training and the whole grid, in one pass, at test.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from wsi_hr.models.heads.dense import DenseHead, Features
from wsi_hr.models.self_attention import SelfAttention, masked_mean, rotary_angles, rotate
from wsi_hr.models.z_block import ZBlock

# Letters: B slides, N patches, D embedding, W width of the layers.

_HEAD_DIM = 64
_MLP_RATIO = 4


class WindowHead(DenseHead):
    """Pre-norm transformer layers over the cells, then the mean over patches.

    There is no class token, which would have no place for the rotary code to turn by, and no
    temperature that depends on N.

    Args:
        dim: D.
        num_classes: C.
        dropout: in the layers.
        heads: of 64 each; W is 64 times that.
        layers: how many.
    """

    def __init__(
        self, dim: int, num_classes: int, *, dropout: float, heads: int = 3, layers: int = 2
    ) -> None:
        super().__init__()
        width = heads * _HEAD_DIM
        self.patch_dim = width
        self.w_in = nn.Linear(dim, width)
        self.layers = nn.ModuleList(
            _Layer(width, heads=heads, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def features(self, block: ZBlock) -> Features:
        """Patches in the light of all others and of how far off those are, and their mean."""
        turn = partial(rotate, angles_BNp=rotary_angles(block.cells_BN2, _HEAD_DIM))
        x_BNW = self.w_in(block.emb_BND)
        for layer in self.layers:
            x_BNW = layer(x_BNW, block.mask_BN, turn)
        x_BNW = self.norm(x_BNW)
        return Features(masked_mean(x_BNW, block.mask_BN), x_BNW)


class _Layer(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attend = SelfAttention(width, heads=heads, head_dim=_HEAD_DIM, dropout=dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.w_1 = nn.Linear(width, _MLP_RATIO * width)
        self.w_2 = nn.Linear(_MLP_RATIO * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BNW: Tensor, mask_BN: Tensor, turn: Callable[[Tensor], Tensor]) -> Tensor:
        x_BNW = x_BNW + self.attend(self.norm(x_BNW), mask_BN, turn)
        hidden = nn.functional.gelu(self.w_1(self.mlp_norm(x_BNW)))
        return x_BNW + self.dropout(self.w_2(hidden))
