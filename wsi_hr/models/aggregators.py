"""How DBPS makes one vector of its two buffers, by the name that a config gives it.

An aggregator also scores patches for the selection: ``logits(emb_ND) -> [J, N]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_hr.method_config import DBPSConfig
from wsi_hr.models.abmilx import ABMILX
from wsi_hr.models.attention import DualAttention

# Letters: B slides, N patches, M salient, S sub-salient, D embedding, T queries, J rows of logits.


class ConcatAttention(DualAttention):
    """Both buffers in one attention; source: the later variant (METHODS section 2)."""

    def forward(
        self,
        salient_BMD: Tensor,
        mask_BM: Tensor | None,
        sub_BSD: Tensor,
        mask_BS: Tensor | None,
    ) -> Tensor:
        """Slide embeddings [B, T, D]; masks are True where there is a patch."""
        emb_BND, mask_BN = _beside(salient_BMD, mask_BM, sub_BSD, mask_BS)
        return super().forward(emb_BND, mask_BN, emb_BND[:, :0], None)


class ABMILXAggregator(ABMILX):
    """Both buffers are the bag of ABMILX; its attention, before it is refined, scores patches."""

    @property
    def num_rows(self) -> int:
        """J, its heads."""
        return self.heads

    def logits(self, emb_ND: Tensor) -> Tensor:
        """Logits [J, N] of patches by which they are scored; no softmax."""
        return self.attention_logits(emb_ND)

    def forward(
        self,
        salient_BMD: Tensor,
        mask_BM: Tensor | None,
        sub_BSD: Tensor,
        mask_BS: Tensor | None,
    ) -> Tensor:
        """Slide embeddings [B, 1, D]; masks are True where there is a patch."""
        return self.pool(*_beside(salient_BMD, mask_BM, sub_BSD, mask_BS))[:, None]


def _beside(
    salient_BMD: Tensor, mask_BM: Tensor | None, sub_BSD: Tensor, mask_BS: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both buffers as one, [B, M + S, D] and its mask."""
    masks = [
        emb_BND.new_ones(emb_BND.shape[:2], dtype=torch.bool) if mask_BN is None else mask_BN
        for emb_BND, mask_BN in ((salient_BMD, mask_BM), (sub_BSD, mask_BS))
    ]
    return torch.cat([salient_BMD, sub_BSD], 1), torch.cat(masks, 1)


Aggregator = DualAttention | ABMILXAggregator

_ATTENTIONS: dict[str, type[DualAttention]] = {"dual": DualAttention, "concat": ConcatAttention}


def build_aggregator(config: DBPSConfig, dim: int) -> Aggregator:
    """Make the aggregator a config names, for embeddings of width ``dim``.

    Raises:
        ConfigError: ``heads`` does not divide ``dim``.
    """
    if config.aggregation == "abmilx":
        return ABMILXAggregator(dim, width=dim, heads=config.heads, dropout=config.dropout)
    return _ATTENTIONS[config.aggregation](
        dim, heads=config.heads, hidden=round(config.mlp_ratio * dim), dropout=config.dropout
    )
