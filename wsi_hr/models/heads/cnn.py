"""A head that sees where patches lie: convolutions over the grid."""

from __future__ import annotations

import torch
from torch import nn

from wsi_hr.models.heads.dense import DenseHead, Features
from wsi_hr.models.z_block import ZBlock

# Letters: B slides, D embedding, (R, Q) patch grid, C classes.


class _BatchNorm(nn.BatchNorm2d):
    """A batch norm that also takes a batch of one cell, as the grid of a biopsy may end in.

    One value has no variance; there the running statistics stand in, as they do in eval mode.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise [B, C, R, Q]."""
        if not self.training or input.numel() > input.shape[1]:
            return super().forward(input)
        mean, var = self.running_mean, self.running_var
        return nn.functional.batch_norm(input, mean, var, self.weight, self.bias, eps=self.eps)


class CNNHead(DenseHead):
    """Four blocks of 3x3 convolution over Z, then the mean over cells that hold a patch.

    Source: METHODS section 3 (PatchGD, supplement: four blocks of 256 channels, strides 1, 2, 2,
    2). Unlike the paper the last step is a masked mean, not a flatten, so any grid fits. A patch is
    told by what all four blocks have at its place, each as coarse as its stride left it.
    """

    STRIDES = (1, 2, 2, 2)

    def __init__(self, dim: int, num_classes: int, *, dropout: float, channels: int = 256) -> None:
        super().__init__()
        widths = (dim, *[channels] * len(self.STRIDES))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[i], widths[i + 1], 3, stride=stride, padding=1),
                nn.ReLU(),
                _BatchNorm(widths[i + 1]),
                nn.Dropout2d(dropout),
            )
            for i, stride in enumerate(self.STRIDES)
        )
        self.patch_dim = channels * len(self.STRIDES)
        self.classifier = nn.Linear(channels, num_classes)

    def features(self, block: ZBlock) -> Features:
        """The mean over the cells of the last block, and all blocks at the patches' cells."""
        z_BDRQ, mask_BRQ = block.grid()
        mask = mask_BRQ[:, None].to(z_BDRQ.dtype)
        slide = torch.arange(len(mask), device=mask.device)[:, None]
        row_BN, col_BN = block.cells_BN2.unbind(2)
        at_patches = []
        for layer, stride in zip(self.blocks, self.STRIDES, strict=True):
            # a coarse cell is real where any of its 3x3 fine cells is
            mask = nn.functional.max_pool2d(mask, 3, stride, 1)
            z_BDRQ = layer(z_BDRQ) * mask
            if self.patch_classifier is not None:
                row_BN, col_BN = row_BN // stride, col_BN // stride
                at_patches.append(z_BDRQ[slide, :, row_BN, col_BN])
        pooled = z_BDRQ.sum((2, 3)) / mask.sum((2, 3)).clamp_min(1)
        nothing = block.emb_BND[..., :0]
        return Features(pooled, torch.cat(at_patches, dim=2) if at_patches else nothing)
