"""Attention MIL: a patch's weight is a small network's word on that patch alone.

Source: Ilse et al., ICML 2018; the layer before it as in CLAM (Lu et al., 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from wsi_hr.models.z_block import ZBlock

# Letters: B slides, N patches, D embedding, W width, C classes, P parts of a slide.


class ABMILHead(nn.Module):
    """H = dropout(ReLU(W E)); a_n = w (tanh(V h_n) * sigmoid(U h_n)); z = softmax(a)^T H.

    A slide can be read in parts: :meth:`pool_part` of each, put together by :func:`join_parts`.

    Args:
        dim: D.
        num_classes: C.
        dropout: on H.
        attention: ``plain`` leaves the sigmoid out.
        width: W; half of it is that of the attention.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        dropout: float,
        attention: Literal["gated", "plain"] = "gated",
        width: int = 512,
    ) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Dropout(dropout))
        self.value = nn.Linear(width, width // 2)
        self.gate = nn.Linear(width, width // 2) if attention == "gated" else None
        self.score = nn.Linear(width // 2, 1)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, block: ZBlock) -> Tensor:
        """Class logits [B, C]."""
        h_BNW = self.reduce(block.emb_BND)
        logits_BN = self._score(h_BNW).masked_fill(~block.mask_BN, -torch.inf)
        return self.classifier(torch.einsum("bn,bnw->bw", logits_BN.softmax(1), h_BNW))

    def attention_logits(self, emb_ND: Tensor) -> Tensor:
        """What each patch scores, [N]; no softmax."""
        return self._score(self.reduce(emb_ND))

    def pool_part(self, emb_ND: Tensor) -> tuple[Tensor, Tensor]:
        """A part of a slide: the logsumexp [] of its scores, and z [W] over it alone."""
        h_NW = self.reduce(emb_ND)
        logits_N = self._score(h_NW)
        return logits_N.logsumexp(0), logits_N.softmax(0) @ h_NW

    def _score(self, h_NW: Tensor) -> Tensor:
        value = self.value(h_NW).tanh()
        if self.gate is not None:
            value = value * self.gate(h_NW).sigmoid()
        return self.score(value)[..., 0]


def join_parts(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Put together z [W] of a slide from what :meth:`ABMILHead.pool_part` says of its parts."""
    lse_P, z_PW = (torch.stack(each) for each in zip(*parts, strict=True))
    return lse_P.softmax(0) @ z_PW
