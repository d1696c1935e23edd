"""The inner head of a hierarchical Z: the patches of a block become one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_hr.models.z_block import pad_ragged

# Letters: N patches, U blocks, L patches of the largest block, D embedding.


class BlockPool(nn.Module):
    """Gated attention over the patches of each block (Ilse et al., ICML 2018, equation 9)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(dim // 2, 1)
        self.value = nn.Linear(dim, hidden)
        self.gate = nn.Linear(dim, hidden)
        self.weight = nn.Linear(hidden, 1, bias=False)

    def forward(self, emb_ND: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
        """Pool consecutive patches, ``counts`` of them per block.

        Returns:
            Vectors [U, D] of the blocks, and the weight [N] of each patch in its own block's, which
            sum to 1 there.
        """
        logits_N = self.weight(torch.tanh(self.value(emb_ND)) * torch.sigmoid(self.gate(emb_ND)))
        padded_ULD, mask_UL = pad_ragged(emb_ND.split(counts))
        logits_UL = pad_ragged(logits_N.split(counts))[0][..., 0]
        weights_UL = logits_UL.masked_fill(~mask_UL, -torch.inf).softmax(1)
        return (weights_UL[:, None] @ padded_ULD)[:, 0], weights_UL[mask_UL]
