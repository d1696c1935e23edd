"""A head that looks at every patch, and does not see where it lies."""

from __future__ import annotations

from torch import Tensor, nn

from wsi_hr.models.attention import DualAttention
from wsi_hr.models.z_block import ZBlock

# Letters: B slides, N patches, D embedding, C classes.


class AttentionHead(nn.Module):
    """One cross-attention layer: a class token looks at every patch."""

    def __init__(self, dim: int, num_classes: int, *, dropout: float, heads: int = 8) -> None:
        super().__init__()
        self.attend = DualAttention(dim, heads=heads, hidden=4 * dim, dropout=dropout)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, block: ZBlock) -> Tensor:
        """Class logits [B, C]."""
        nothing_B0D = block.emb_BND[:, :0]
        z_BTD = self.attend(block.emb_BND, block.mask_BN, nothing_B0D, None)
        return self.classifier(z_BTD[:, 0])
