"""The aggregator of ABMILX: several attention heads, each refined by what patches have in common.

Source: E2E-ABMILX, NeurIPS 2025 (METHODS section 3b).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsi_hr.errors import ConfigError

# Letters: B slides, N patches, D embedding, W width of the aggregator, m heads, d = W / m.


class Attended(NamedTuple):
    """What the aggregator made of slides.

    Attributes:
        vector: [B, W], one a slide.
        weights: [B, m, N] of every patch in every head; they sum to 1 over a slide's patches.
    """

    vector: Tensor
    weights: Tensor


class ABMILX(nn.Module):
    """Many embeddings become one vector; memory is O(N).

    X = dropout(GELU(W LN(E))) is split into m heads H_j; A_j = fc2(GELU(fc1 H_j)) with one MLP for
    all heads; A'_j = A_j + alpha softmax(Q K^T / sqrt(d)) A_j with Q, K = W_qk LN(H_j);
    z_j = softmax_N(A'_j)^T H_j; their concatenation is projected and normalised.
    With alpha = 0 it is attention MIL of m heads.

    Args:
        dim: D.
        width: W.
        heads: m; must divide ``width``.
        dropout: on X.
        alpha: where the learned weight of the refinement starts.

    Raises:
        ConfigError: ``heads`` does not divide ``width``.
    """

    def __init__(
        self,
        dim: int,
        *,
        width: int = 256,
        heads: int = 8,
        dropout: float = 0.25,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"method.heads {heads}: must divide method.width {width}; try "
                f"{max(h for h in range(1, heads + 1) if width % h == 0)}"
            )
        self.heads, self.width = heads, width
        head_dim = width // heads
        self.norm = nn.LayerNorm(dim)
        self.embed = nn.Linear(dim, width)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(head_dim, head_dim)
        self.fc2 = nn.Linear(head_dim, 1)
        self.head_norm = nn.LayerNorm(head_dim)
        self.w_qk = nn.Linear(head_dim, 2 * head_dim, bias=False)
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.project = nn.Linear(width, width)
        self.out_norm = nn.LayerNorm(width)

    def attention_logits(self, emb_ND: Tensor) -> Tensor:
        """A [m, N]: what a patch scores by itself, before others refine it; no softmax."""
        return self._score(self._split(emb_ND[None]))[0]

    def attend(self, emb_BND: Tensor, mask_BN: Tensor | None) -> Attended:
        """Look at slides of a patch or more; where ``mask`` is False there is no patch."""
        h_BmNd = self._split(emb_BND)
        refined_BmN = self._refine(h_BmNd, self._score(h_BmNd), mask_BN)
        if mask_BN is not None:
            refined_BmN = refined_BmN.masked_fill(~mask_BN[:, None], -torch.inf)
        weights_BmN = refined_BmN.softmax(-1)
        z_BW = torch.einsum("bmn,bmnd->bmd", weights_BmN, h_BmNd).flatten(1)
        return Attended(self.out_norm(self.project(z_BW)), weights_BmN)

    def pool(self, emb_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """Slide vectors [B, W] alone, see :meth:`attend`."""
        return self.attend(emb_BND, mask_BN).vector

    def _split(self, emb_BND: Tensor) -> Tensor:
        """H [B, m, N, d]."""
        x_BNW = self.dropout(nn.functional.gelu(self.embed(self.norm(emb_BND))))
        return x_BNW.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _score(self, h_BmNd: Tensor) -> Tensor:
        """A [B, m, N]."""
        return self.fc2(nn.functional.gelu(self.fc1(h_BmNd)))[..., 0]

    def _refine(self, h_BmNd: Tensor, logits_BmN: Tensor, mask_BN: Tensor | None) -> Tensor:
        """A' [B, m, N], without a matrix of N x N."""
        q_BmNd, k_BmNd = self.w_qk(self.head_norm(h_BmNd)).chunk(2, -1)
        # kernels of O(N) memory want values as wide as keys: A is the first column, the rest 0
        v_BmNd = nn.functional.pad(logits_BmN[..., None], (0, q_BmNd.shape[-1] - 1))
        mask_B11N = None if mask_BN is None else mask_BN[:, None, None]
        mixed_BmNd = nn.functional.scaled_dot_product_attention(
            q_BmNd, k_BmNd, v_BmNd, attn_mask=mask_B11N
        )
        return logits_BmN + self.alpha * mixed_BmNd[..., 0]
