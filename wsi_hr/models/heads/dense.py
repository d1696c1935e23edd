"""What a head must have to tell patches apart as well as slides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from wsi_hr.models.z_block import ZBlock

# Letters: B slides, N patches, C classes of slides, K classes of patches, F width of features.


@dataclass(frozen=True)
class Features:
    """What a head knows before its last layers.

    Attributes:
        slide_BF: of each slide.
        patch_BNF: of each patch in the light of its slide; where there is no patch, anything.
    """

    slide_BF: Tensor
    patch_BNF: Tensor


@dataclass(frozen=True)
class Reading:
    """Logits of slides and of their patches, from one pass.

    Attributes:
        slide_BC: of the slides.
        patch_BNK: of the patches; where there is no patch, anything.
    """

    slide_BC: Tensor
    patch_BNK: Tensor


class DenseHead(nn.Module, ABC):
    """A head that can give every patch a class; it does once :meth:`add_dense` was called.

    Attributes:
        classifier: from a slide's features to its class.
        patch_dim: width of a patch's features.
    """

    classifier: nn.Linear
    patch_dim: int
    patch_classifier: nn.Linear | None

    def __init__(self) -> None:
        super().__init__()
        self.patch_classifier = None

    @abstractmethod
    def features(self, block: ZBlock) -> Features:
        """What the last layers read."""

    def add_dense(self, num_dense: int) -> None:
        """Make the layer that gives patches one of K = ``num_dense`` classes."""
        self.patch_classifier = nn.Linear(self.patch_dim, num_dense).to(self.classifier.weight)

    def forward(self, block: ZBlock) -> Tensor:
        """Class logits [B, C]."""
        return self.classifier(self.features(block).slide_BF)

    def dense(self, block: ZBlock) -> Tensor:
        """Class logits [B, N, K] of the patches; where there is no patch, anything."""
        return self.read(block).patch_BNK

    def read(self, block: ZBlock) -> Reading:
        """Both kinds of logits from one pass."""
        assert self.patch_classifier is not None, "add_dense makes the layer for patches"
        features = self.features(block)
        return Reading(
            self.classifier(features.slide_BF), self.patch_classifier(features.patch_BNF)
        )
