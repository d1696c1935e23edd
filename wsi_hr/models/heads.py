"""Heads that read Z, the block of patch embeddings of a slide, on any grid with holes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_hr.models.attention import DualAttention

# Letters: B slides, D embedding, (R, Q) patch grid, C classes.


class AttentionHead(nn.Module):
    """One cross-attention layer: a class token looks at every patch of the grid."""

    def __init__(self, dim: int, num_classes: int, *, dropout: float, heads: int = 8) -> None:
        super().__init__()
        self.attend = DualAttention(dim, heads=heads, hidden=4 * dim, dropout=dropout)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, z_BDRQ: Tensor, mask_BRQ: Tensor) -> Tensor:
        """Class logits [B, C]; ``mask`` is True where the grid has a patch."""
        cells_BND = z_BDRQ.flatten(2).transpose(1, 2)
        nothing = cells_BND[:, :0]
        return self.classifier(self.attend(cells_BND, mask_BRQ.flatten(1), nothing, None)[:, 0])


class CNNHead(nn.Module):
    """Four blocks of 3x3 convolution over Z, then the mean over cells that hold a patch.

    Source: METHODS section 3 (PatchGD, supplement: four blocks of 256 channels, strides 1, 2, 2,
    2). Unlike the paper the last step is a masked mean, not a flatten, so any grid fits.
    """

    STRIDES = (1, 2, 2, 2)

    def __init__(self, dim: int, num_classes: int, *, dropout: float, channels: int = 256) -> None:
        super().__init__()
        widths = (dim, *[channels] * len(self.STRIDES))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[i], widths[i + 1], 3, stride=stride, padding=1),
                nn.ReLU(),
                nn.BatchNorm2d(widths[i + 1]),
                nn.Dropout2d(dropout),
            )
            for i, stride in enumerate(self.STRIDES)
        )
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, z_BDRQ: Tensor, mask_BRQ: Tensor) -> Tensor:
        """Class logits [B, C]; ``mask`` is True where the grid has a patch."""
        mask = mask_BRQ[:, None].to(z_BDRQ.dtype)
        for block, stride in zip(self.blocks, self.STRIDES, strict=True):
            # a coarse cell is real where any of its 3x3 fine cells is
            mask = nn.functional.max_pool2d(mask, 3, stride, 1)
            z_BDRQ = block(z_BDRQ) * mask
        pooled = z_BDRQ.sum((2, 3)) / mask.sum((2, 3)).clamp_min(1)
        return self.classifier(pooled)


HEADS: dict[str, type[AttentionHead] | type[CNNHead]] = {
    "attention": AttentionHead,
    "cnn": CNNHead,
}


def grid_block(
    embeddings: list[Tensor], cells: list[Tensor], shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Lay [N_b, D] embeddings on their (row, col) cells: Z [B, D, R, Q] and its mask [B, R, Q].

    Differentiable in the embeddings; cells without a patch are 0 and masked out.
    """
    rows, cols = shape
    first = embeddings[0]
    z = first.new_zeros(len(embeddings), rows, cols, first.shape[1])
    mask = torch.zeros(z.shape[:3], dtype=torch.bool, device=z.device)
    slide = torch.cat(
        [torch.full((len(cell),), b, device=z.device) for b, cell in enumerate(cells)]
    )
    where = (slide, *torch.cat(cells).unbind(1))
    z = z.index_put(where, torch.cat(embeddings))
    mask[where] = True
    return z.permute(0, 3, 1, 2), mask
