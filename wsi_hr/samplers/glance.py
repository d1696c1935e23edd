"""What a sampler may know of a slide before a patch is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from wsi_hr.geometry import Float32Array, Int64Array, PatchGrid

# Letters: N patches, F features, J rows of attention (heads x queries).


class Sight(Protocol):
    """Works out what a sampler asks for, over all N patches of a slide."""

    def features(self) -> Float32Array:
        """f32[N, F] of each patch, of length 1; see :mod:`wsi_hr.samplers.features`."""
        ...

    def attention(self) -> Float32Array | None:
        """Logits f32[J, N] of the epoch before, NaN where it did not look; None: there are none."""
        ...

    def thumbnail_attention(self) -> Float32Array:
        """Logits f32[J, N] of a vision transformer that looked at the thumbnail."""
        ...

    def scores(self) -> Float32Array | None:
        """f32[N], the higher the more attention is expected; None: nothing is learned yet."""
        ...


@dataclass(frozen=True, eq=False)
class Glance:
    """N patches of one slide in one epoch; what is not asked for is never computed.

    Attributes:
        slide_id: which slide.
        epoch: counted from 0.
        grid: where the patches lie, their tissue and their artifacts.
        sight: works out the rest, over all patches of the slide.
        positions: i64[N] which of these the glance shows; None: all.
    """

    slide_id: str
    epoch: int
    grid: PatchGrid
    sight: Sight
    positions: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.grid)

    def take(self, positions: Int64Array) -> Glance:
        """The same of the patches at ``positions`` i64[K] of this glance, in that order."""
        inside = positions if self.positions is None else self.positions[positions]
        return replace(self, grid=self.grid.take(positions), positions=inside)

    @cached_property
    def features(self) -> Float32Array:
        """f32[N, F], see :class:`Sight`."""
        found = self.sight.features()
        return found if self.positions is None else found[self.positions]

    @cached_property
    def attention(self) -> Float32Array | None:
        """f32[J, N] or None, see :class:`Sight`."""
        return self._columns(self.sight.attention)

    @cached_property
    def thumbnail_attention(self) -> Float32Array | None:
        """f32[J, N], see :class:`Sight`."""
        return self._columns(self.sight.thumbnail_attention)

    @cached_property
    def scores(self) -> Float32Array | None:
        """f32[N] or None, see :class:`Sight`."""
        return self._columns(self.sight.scores)

    def _columns(self, look: Callable[[], Float32Array | None]) -> Float32Array | None:
        found = look()
        return found if found is None or self.positions is None else found[..., self.positions]
