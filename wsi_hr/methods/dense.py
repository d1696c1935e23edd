"""Learning the classes of patches beside those of slides, by a head over Z.

Source: METHODS section 3 (PatchGD names segmentation as an extension: a decoder over Z) and
section 4 (Win-Win: dense targets from windows of the grid).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import ConfigError
from wsi_hr.geometry import Float32Array
from wsi_hr.method_config import DenseConfig
from wsi_hr.methods.method import Method
from wsi_hr.models.heads import HEADS
from wsi_hr.models.heads.dense import DenseHead
from wsi_hr.models.z_block import ZBlock, pad_ragged

# Letters: B slides, N patches of the slide that has most, K classes of patches.

_UNKNOWN = -1


class PatchLearner(Method):
    """A method whose head reads Z, and so can be asked for the class of every patch.

    Attributes:
        head: reads Z.
    """

    head: nn.Module
    _dense_weight: float | None = None  # of the patches' loss; None: slides only

    def learn_patches(self, dense: DenseConfig) -> None:
        """Give the head a layer for the K classes of patches.

        Raises:
            ConfigError: the head has nothing to tell of single patches.
        """
        if not isinstance(self.head, DenseHead):
            able = [n for n, h in HEADS.items() if isinstance(h, type) and issubclass(h, DenseHead)]
            raise ConfigError(
                "--annotations: the method's head does not tell patches apart; use "
                f"--set method.head={' or '.join(able)}"
            )
        self.head.add_dense(len(dense.names))
        self._dense_weight = dense.weight

    def _block_loss(self, block: ZBlock, bags: Sequence[Bag]) -> Tensor:
        """Loss of the slides, and of their patches where these have a class.

        Every patch of Z that has a class counts, whether its vector is fresh or not, so that
        gradients over disjoint draws add up to the whole slide's.
        """
        if self._dense_weight is None:
            return self._loss(self.head(block), bags)
        assert isinstance(self.head, DenseHead), "learn_patches saw to it"
        reading = self.head.read(block)
        patches = patch_loss(reading.patch_BNK, bags)
        return self._loss(reading.slide_BC, bags) + self._dense_weight * patches

    def _patch_probs(self, block: ZBlock) -> Float32Array | None:
        """Probabilities f32[N, K] of the patches of a block of one slide; None: not learned."""
        if self._dense_weight is None:
            return None
        assert isinstance(self.head, DenseHead), "learn_patches saw to it"
        return self.head.dense(block)[0].float().softmax(1).cpu().numpy()


def patch_loss(logits_BNK: Tensor, bags: Sequence[Bag]) -> Tensor:
    """Cross-entropy of patches: mean over those of a slide that have a class, then over slides.

    Slides without such patches count as 0 and are counted, so that a slide's part does not depend
    on what else is in the batch.
    """
    labels = [bag.patch_labels for bag in bags]
    rows = [
        torch.from_numpy(np.full(len(bag), _UNKNOWN) if known is None else known)
        for bag, known in zip(bags, labels, strict=True)
    ]
    padded_BN, there_BN = pad_ragged(rows)
    labels_BN = padded_BN.masked_fill(~there_BN, _UNKNOWN).to(logits_BNK.device)
    each_BN = nn.functional.cross_entropy(
        logits_BNK.transpose(1, 2), labels_BN, reduction="none", ignore_index=_UNKNOWN
    )
    num_B = (labels_BN != _UNKNOWN).sum(1).clamp_min(1)
    return (each_BN.sum(1) / num_B).mean()
