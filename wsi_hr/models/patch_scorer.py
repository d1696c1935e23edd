"""A small network that guesses, from a glance at the slide, where the model will look."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wsi_hr.models.attention import sinusoid

# Letters: N patches, F features, T tokens (blocks of cells), d width.

MAX_TOKENS = 1024
_WIDTH, _HEADS, _LAYERS = 64, 4, 2


class PatchScorer(nn.Module):
    """Two transformer layers over the grid, then a score per patch.

    Attention over all pairs of N patches would be out of the question for a large slide, so cells
    are pooled into square blocks, the smallest of which there are at most ``MAX_TOKENS``; the
    layers run over the blocks, and a patch is scored from its own features and its block's.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * num_features, _WIDTH)
        layer = nn.TransformerEncoderLayer(
            _WIDTH, _HEADS, 2 * _WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
        self.score = nn.Sequential(
            nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, 1)
        )

    def forward(self, features_NF: Tensor, cells_N2: Tensor) -> Tensor:
        """Scores [N]; a softmax over the slide makes them the attention that is expected.

        Args:
            features_NF: f32[N, F] as they are; their deviation from the slide's mean is added.
            cells_N2: i64[N, 2] (row, col).
        """
        spread_F = features_NF.std(0, correction=0) + 1e-6
        relative_NF = (features_NF - features_NF.mean(0)) / spread_F
        own_Nd = self.embed(torch.cat([features_NF, relative_NF], 1))
        blocks_T2, block_N = blocks_of(cells_N2)
        sums_Td = own_Nd.new_zeros(len(blocks_T2), _WIDTH).index_add(0, block_N, own_Nd)
        sizes_T = torch.bincount(block_N, minlength=len(blocks_T2))
        place_Td = torch.cat([sinusoid(blocks_T2[:, axis], _WIDTH // 2) for axis in (0, 1)], 1)
        tokens_Td = self.layers((sums_Td / sizes_T[:, None] + place_Td)[None])[0]
        return self.score(own_Nd + tokens_Td[block_N])[:, 0]


def blocks_of(cells_N2: Tensor) -> tuple[Tensor, Tensor]:
    """Pool cells into square blocks, the smallest edge that leaves at most ``MAX_TOKENS``.

    Returns:
        Blocks i64[T, 2] (row, col) in units of blocks, and the block i64[N] of each cell.
    """
    edge = max(1, math.isqrt(len(cells_N2) // MAX_TOKENS))
    while True:
        blocks_T2, block_N = torch.unique(cells_N2 // edge, dim=0, return_inverse=True)
        if len(blocks_T2) <= MAX_TOKENS:
            return blocks_T2, block_N
        edge += 1
