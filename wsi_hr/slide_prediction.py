"""What a model says of one slide, and which patches made it say so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from wsi_hr.geometry import Float32Array, PatchGrid, UInt8Array


class Role(IntEnum):
    """What a patch was to the prediction."""

    NOT_VISITED = 0
    BACKGROUND = 1
    SUB_SALIENT = 2
    SALIENT = 3


@dataclass(frozen=True)
class SlidePrediction:
    """The answer for one slide, before anything is drawn.

    Attributes:
        slide_id: which slide.
        probs: f32[C] probability of each class, summing to 1.
        saliency: f32[N] score of each patch, not negative; higher means it mattered more.
        role: u8[N] one :class:`Role` per patch.
        grid: the N patches, level-0 coordinates.
        patch_probs: f32[N, K] probability of each class of patches, each row summing to 1; None
            where the model did not learn from annotations.
    """

    slide_id: str
    probs: Float32Array
    saliency: Float32Array
    role: UInt8Array
    grid: PatchGrid
    patch_probs: Float32Array | None = None

    def __post_init__(self) -> None:
        num_patches = len(self.grid)
        if self.saliency.shape != (num_patches,) or self.role.shape != (num_patches,):
            raise ValueError(
                f"{self.slide_id}: {num_patches} patches, but saliency {self.saliency.shape} "
                f"and role {self.role.shape}"
            )
        if self.patch_probs is not None and len(self.patch_probs) != num_patches:
            raise ValueError(
                f"{self.slide_id}: {num_patches} patches, but probabilities of "
                f"{len(self.patch_probs)}"
            )

    @property
    def most_salient(self) -> int:
        """Position of the highest-scored patch among those the model kept as salient."""
        kept = self.positions(Role.SALIENT)
        return int(kept[np.argmax(self.saliency[kept])])

    def positions(self, role: Role) -> npt.NDArray[np.int64]:
        """Positions of the patches with ``role``."""
        return np.flatnonzero(self.role == role)
