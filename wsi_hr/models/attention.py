"""Cross-attention over patches and the dual attention of DBPS built from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_hr.errors import ConfigError

# Letters: B slides, N patches of a slide, M salient, S sub-salient, D embedding, H heads,
# k = D / H, T queries.


class CrossAttention(nn.Module):
    """T learnable queries look at N patches; weights without bias, masks for ragged slides.

    Source: Bergner et al., ICLR 2023, section 3 (IPS); the dual use is DBPS, CVPR 2025.

    Args:
        dim: D.
        heads: H; must divide D.
        num_queries: T.
        dropout: on the attention weights and on the output; never while scoring.

    Raises:
        ConfigError: ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, *, heads: int, num_queries: int = 1, dropout: float = 0.1) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(
                f"method.heads {heads}: must divide the encoder's width {dim}; try "
                f"{max(h for h in range(1, heads + 1) if dim % h == 0)}"
            )
        self.heads = heads
        bound = (dim // heads) ** -0.5
        self.queries = nn.Parameter(torch.empty(1, num_queries, dim).uniform_(-bound, bound))
        self.w_q = nn.Linear(dim, dim, bias=False)
        self.w_k = nn.Linear(dim, dim, bias=False)
        self.w_v = nn.Linear(dim, dim, bias=False)
        self.w_o = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def logits(self, emb_ND: Tensor) -> Tensor:
        """Logits [H, T, N] of the learnable queries over [N, D] patches; no softmax.

        The query is folded into W_k, so scoring costs one [N, D] x [D, HT] product.
        """
        num_queries, dim = self.queries.shape[1:]
        q_THk = self.w_q(self.queries[0]).view(num_queries, self.heads, -1)
        w_HkD = self.w_k.weight.view(self.heads, -1, dim)
        folded_HTD = torch.einsum("thk,hkd->htd", q_THk, w_HkD) * q_THk.shape[-1] ** -0.5
        return torch.einsum("nd,htd->htn", emb_ND, folded_HTD)

    def forward(self, ask_BTD: Tensor, emb_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """CA(ask, emb): [B, T, D]. Where ``mask`` is False there is no patch; no patch gives 0."""
        if emb_BND.shape[1] == 0:
            return torch.zeros_like(ask_BTD)
        q, k, v = (self._split(w(x)) for w, x in zip(
            (self.w_q, self.w_k, self.w_v), (ask_BTD, emb_BND, emb_BND), strict=True
        ))  # fmt: skip
        logits_BHTN = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask_BN is not None:
            # an empty row gets finite logits, so that its softmax is defined; it is zeroed below
            logits_BHTN = logits_BHTN.masked_fill(~mask_BN[:, None, None], -1e30)
        weights = self.dropout(logits_BHTN.softmax(-1))
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        out = self.dropout(self.w_o(mixed))
        return out if mask_BN is None else out * mask_BN.any(1)[:, None, None]

    def _split(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class DualAttention(nn.Module):
    """What is salient, then what is sub-salient in its light; both stages share all weights.

    With no sub-salient patches this is the attention of IPS, exactly.
    Source: METHODS section 2 (DBPS); Z1 = q + CA(q, P_M), Z2 = CA(LN(Z1), P_S),
    Z = LN(Z1 + Z2), Z' = LN2(MLP(Z) + Z).
    """

    def __init__(
        self, dim: int, *, heads: int, hidden: int, num_queries: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.attention = CrossAttention(dim, heads=heads, num_queries=num_queries, dropout=dropout)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.w_1 = nn.Linear(dim, hidden)
        self.w_2 = nn.Linear(hidden, dim)
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)

    @property
    def num_rows(self) -> int:
        """J, heads x queries."""
        return self.attention.heads * self.attention.queries.shape[1]

    def logits(self, emb_ND: Tensor) -> Tensor:
        """Logits [J, N] of patches by which they are scored; no softmax."""
        return self.attention.logits(emb_ND).flatten(0, 1)

    def forward(
        self,
        salient_BMD: Tensor,
        mask_BM: Tensor | None,
        sub_BSD: Tensor,
        mask_BS: Tensor | None,
    ) -> Tensor:
        """Slide embeddings [B, T, D]; masks are True where there is a patch."""
        queries = self.attention.queries.expand(len(salient_BMD), -1, -1)
        z1 = queries + self.attention(queries, salient_BMD, mask_BM)
        z2 = self.attention(self.norm(z1), sub_BSD, mask_BS)
        z = self.norm(z1 + z2)
        return self.mlp_norm(self.dropout(self.w_2(torch.relu(self.w_1(z)))) + z)


def sinusoid(raster_N: Tensor, dim: int) -> Tensor:
    """Position code [N, D] of raster indices i64[N] in the whole slide's grid.

    PE[p, 2i] = sin(p 10000^(-2i/D)), PE[p, 2i+1] = cos(same). Source: METHODS section 1.
    """
    even = torch.arange(0, dim, 2, device=raster_N.device, dtype=torch.float64)
    angle = raster_N.double()[:, None] * torch.pow(torch.tensor(1e4).double(), -even / dim)
    code = torch.zeros(len(raster_N), dim, device=raster_N.device)
    code[:, 0::2] = angle.sin().float()
    code[:, 1::2] = angle.cos()[:, : dim // 2].float()
    return code
