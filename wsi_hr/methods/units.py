"""What Z has a vector for: every patch of a slide, or every block of patches pooled into one.

With blocks, Z is a Z of Zs: its size, and what its head costs, is that of a slide of far fewer
patches, and no vector of a patch outlives its block. Source: the hierarchical variant the PatchGD
paper names as open (METHODS section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.read_ahead import read_ahead
from wsi_hr.geometry import Int64Array
from wsi_hr.models.block_pool import BlockPool
from wsi_hr.models.encoder import Encoder
from wsi_hr.store.jpeg_patches import Patches

# Letters: N patches, U units, K units or patches of a group, D embedding.

Embed = Callable[[Patches], Tensor]
"""K patches to embeddings [K, D]; with gradient or without, as its caller has it."""


class Units:
    """The units of one slide.

    Args:
        bag: the slide.
        encoder: its ``chunk`` is how many patches are embedded at a time.
        block: edge of a block, cells; None: every patch is a unit.
        pool: makes a block's vector; needed where there are blocks.

    Attributes:
        cells_U2: i64[U, 2] cell (row, col) of each unit, in a grid of ``shape``.
        shape: (R, Q).
    """

    def __init__(
        self, bag: Bag, encoder: Encoder, block: int | None, pool: BlockPool | None
    ) -> None:
        self.bag = bag
        self._encoder = encoder
        self._pool = pool
        self._encoded = encoder.decodes
        edge = block or 1
        cells = bag.grid.cells.astype(np.int64) // edge
        self.shape = (-(-bag.grid.shape[0] // edge), -(-bag.grid.shape[1] // edge))
        if block is None:
            self.cells_U2 = cells
            self._order = np.arange(len(bag), dtype=np.int64)
            self._starts = np.arange(len(bag) + 1, dtype=np.int64)
            return
        raster = cells[:, 0] * self.shape[1] + cells[:, 1]
        self._order = np.argsort(raster, kind="stable")
        _, first = np.unique(raster[self._order], return_index=True)
        self._starts = np.append(first, len(bag)).astype(np.int64)
        self.cells_U2 = cells[self._order[first]]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def patches(self, units: Int64Array) -> Int64Array:
        """Positions i64[K] in the bag of the patches of ``units``, unit by unit."""
        parts = [self._order[self._starts[u] : self._starts[u + 1]] for u in units]
        return np.concatenate(parts) if parts else self._order[:0]

    @property
    def unit_of_patch(self) -> Int64Array:
        """i64[N] the unit of every patch of the bag."""
        units = np.empty(len(self.bag), np.int64)
        units[self._order] = np.repeat(np.arange(len(self)), np.diff(self._starts))
        return units

    def groups(self, units: Int64Array | None = None) -> list[Int64Array]:
        """Consecutive units (all of them if not given) of together one chunk of patches at most.

        A unit of more patches is a group of its own.
        """
        if units is None:
            units = np.arange(len(self), dtype=np.int64)
        groups, first, room = [], 0, 0
        for at, size in enumerate((self._starts[units + 1] - self._starts[units]).tolist()):
            if at > first and size > room:
                groups.append(units[first:at])
                first, room = at, 0
            room = (room if at > first else self._encoder.chunk) - size
        return [*groups, units[first:]] if len(units) else []

    def read(self, units: Int64Array) -> Patches:
        """The patches of ``units``, unit by unit, as the encoder likes them best."""
        return self.bag.fetch(self.patches(units), encoded=self._encoded)

    def stream(self, groups: list[Int64Array]) -> Iterator[tuple[Int64Array, Patches]]:
        """Groups and their patches, read ahead in the background."""
        return read_ahead(self.read, groups)

    def vectors(self, units: Int64Array, emb_KD: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of ``units`` from the embeddings of their patches, unit by unit.

        Returns:
            [U', D], and the weight of each patch in its unit's vector [K].
        """
        if self._pool is None or not len(units):
            return emb_KD, torch.ones_like(emb_KD[:, 0])
        counts = (self._starts[units + 1] - self._starts[units]).tolist()
        return self._pool(emb_KD, counts)

    def fill(self, embed: Embed) -> tuple[Tensor, Tensor]:
        """Z [U, D] of the whole slide, and each patch's weight in its unit's vector [N]."""
        # one block for all: thousands of small tensors kept alive would fragment the heap
        z_UD = self._encoder.scale.new_empty(len(self), self._encoder.dim)
        weight_N = self._encoder.scale.new_empty(len(self.bag))
        for group, pixels in self.stream(self.groups()):
            vectors, weights = self.vectors(group, embed(pixels))
            z_UD[span_of(group)] = vectors.detach()
            weight_N[self.patches(group)] = weights.detach()
        return z_UD, weight_N


def span_of(group: Int64Array) -> slice:
    """A group of all units' :meth:`Units.groups` as a slice: no index travels to the device."""
    return slice(int(group[0]), int(group[-1]) + 1)
