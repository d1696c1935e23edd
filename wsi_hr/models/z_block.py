"""Z, the block of patch embeddings of some slides: what heads read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsi_hr.bags.bag import Bag

# Letters: B slides, N patches of the slide that has most, D embedding, (R, Q) patch grid.


@dataclass(frozen=True)
class ZBlock:
    """One vector per patch, and the cell of the grid that it belongs to.

    Slides of fewer patches are filled up; a grid may have holes, and hold several slides' shapes.

    Attributes:
        emb_BND: embeddings [B, N, D], 0 where there is no patch.
        mask_BN: bool[B, N], True where there is a patch.
        cells_BN2: i64[B, N, 2] cell (row, col) of each patch, (0, 0) where there is none.
        shape: (R, Q) of a grid that holds all slides.
    """

    emb_BND: Tensor
    mask_BN: Tensor
    cells_BN2: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(
        cls, embeddings: Sequence[Tensor], cells: Sequence[Tensor], shape: tuple[int, int]
    ) -> ZBlock:
        """Put slides together.

        Args:
            embeddings: [N_b, D] of each slide; the block is differentiable in them.
            cells: i64[N_b, 2] of each slide, on the device of its embeddings.
            shape: (R, Q) of a grid that holds all cells.
        """
        emb_BND, mask_BN = pad_ragged(embeddings)
        return cls(emb_BND, mask_BN, pad_ragged(cells)[0], shape)

    @classmethod
    def of_bags(cls, bags: Sequence[Bag], embeddings: Sequence[Tensor]) -> ZBlock:
        """Put the embeddings [N_b, D] of all patches of each bag together."""
        shapes = [bag.grid.shape for bag in bags]
        cells = [
            torch.from_numpy(bag.grid.cells.astype(np.int64)).to(z_ND.device)
            for bag, z_ND in zip(bags, embeddings, strict=True)
        ]
        largest = (max(rows for rows, _ in shapes), max(columns for _, columns in shapes))
        return cls.of(embeddings, cells, largest)

    def grid(self) -> tuple[Tensor, Tensor]:
        """Z [B, D, R, Q] and its mask bool[B, R, Q]; cells without a patch are 0 and False."""
        num_slides, _, dim = self.emb_BND.shape
        z = self.emb_BND.new_zeros(num_slides, *self.shape, dim)
        mask = torch.zeros(z.shape[:3], dtype=torch.bool, device=z.device)
        slide, patch = self.mask_BN.nonzero(as_tuple=True)
        where = (slide, *self.cells_BN2[slide, patch].unbind(1))
        z = z.index_put(where, self.emb_BND[slide, patch])
        mask[where] = True
        return z.permute(0, 3, 1, 2), mask


def pad_ragged(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack [K_b, D] of different K_b into [B, max K, D] and a mask [B, max K], True on real."""
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=padded.device)
    mask = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
    return padded, mask
