"""A head that weighs every patch several times, also by what it has in common with others."""

from __future__ import annotations

from torch import Tensor, nn

from wsi_hr.models.abmilx import ABMILX
from wsi_hr.models.z_block import ZBlock

# Letters: B slides, C classes.


class ABMILXHead(nn.Module):
    """The aggregator of ABMILX and a linear classifier."""

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        dropout: float,
        width: int = 256,
        heads: int = 8,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        self.aggregate = ABMILX(dim, width=width, heads=heads, dropout=dropout, alpha=alpha)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, block: ZBlock) -> Tensor:
        """Class logits [B, C]."""
        return self.classifier(self.aggregate.pool(block.emb_BND, block.mask_BN))
