"""A head that sees where patches lie: convolutions over the grid."""

from __future__ import annotations

from torch import Tensor, nn

from wsi_hr.models.z_block import ZBlock

# Letters: B slides, D embedding, (R, Q) patch grid, C classes.


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

    def forward(self, block: ZBlock) -> Tensor:
        """Class logits [B, C]."""
        z_BDRQ, mask_BRQ = block.grid()
        mask = mask_BRQ[:, None].to(z_BDRQ.dtype)
        for layer, stride in zip(self.blocks, self.STRIDES, strict=True):
            # a coarse cell is real where any of its 3x3 fine cells is
            mask = nn.functional.max_pool2d(mask, 3, stride, 1)
            z_BDRQ = layer(z_BDRQ) * mask
        pooled = z_BDRQ.sum((2, 3)) / mask.sum((2, 3)).clamp_min(1)
        return self.classifier(pooled)
