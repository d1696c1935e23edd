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
from wsi_hr.bags.patch_labels import UNKNOWN
from wsi_hr.errors import ConfigError
from wsi_hr.geometry import Float32Array
from wsi_hr.method_config import DenseConfig
from wsi_hr.methods.method import Judgement, Method
from wsi_hr.models.heads import HEADS
from wsi_hr.models.heads.dense import DenseHead
from wsi_hr.models.z_block import ZBlock, pad_ragged

# Letters: B slides, N patches of the slide that has most, K classes of patches.


class PatchLearner(Method):
    """A method whose head reads Z, and so can be asked for the class of every patch.

    Attributes:
        head: reads Z.
    """

    head: nn.Module
    _dense: DenseConfig | None = None  # None: slides only

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
        self._dense = dense

    def _block_loss(self, block: ZBlock, bags: Sequence[Bag]) -> Tensor:
        """Loss of the slides, and of their patches where these have a class.

        Every patch of Z that has a class counts, whether its vector is fresh or not, so that
        gradients over disjoint draws add up to the whole slide's.
        """
        if self._dense is None:
            return self._loss(self.head(block), bags)
        assert isinstance(self.head, DenseHead), "learn_patches saw to it"
        reading = self.head.read(block)
        patches = patch_loss(reading.patch_BNK, bags, balanced=self._dense.balanced)
        return self._loss(reading.slide_BC, bags) + self._dense.weight * patches

    def _judged(self, logits_C: Tensor, block: ZBlock) -> Judgement:
        """What the head says of the one slide of a block."""
        return Judgement(logits_C.softmax(0).cpu().numpy(), self._patch_probs(block))

    def _patch_probs(self, block: ZBlock) -> Float32Array | None:
        """Probabilities f32[N, K] of the patches of a block of one slide; None: not learned."""
        if self._dense is None:
            return None
        assert isinstance(self.head, DenseHead), "learn_patches saw to it"
        return self.head.dense(block)[0].float().softmax(1).cpu().numpy()


def patch_loss(logits_BNK: Tensor, bags: Sequence[Bag], *, balanced: bool = False) -> Tensor:
    """Cross-entropy of patches: mean over those of a slide that have a class, then over slides.

    Slides without such patches count as 0 and are counted, so that a slide's part does not depend
    on what else is in the batch.

    Args:
        logits_BNK: of the patches.
        bags: the slides, whose patches have a class or not.
        balanced: the mean over a slide's patches is that of its classes' means.
    """
    labels = [bag.patch_labels for bag in bags]
    rows = [
        torch.from_numpy(np.full(len(bag), UNKNOWN) if known is None else known)
        for bag, known in zip(bags, labels, strict=True)
    ]
    padded_BN, there_BN = pad_ragged(rows)
    labels_BN = padded_BN.masked_fill(~there_BN, UNKNOWN).to(logits_BNK.device)
    each_BN = nn.functional.cross_entropy(
        logits_BNK.transpose(1, 2), labels_BN, reduction="none", ignore_index=UNKNOWN
    )
    known_BN = labels_BN != UNKNOWN
    if not balanced:
        return (each_BN.sum(1) / known_BN.sum(1).clamp_min(1)).mean()
    class_BN = labels_BN.clamp_min(0)
    is_BNK = nn.functional.one_hot(class_BN, logits_BNK.shape[2]) * known_BN[..., None]
    count_BK = is_BNK.sum(1)
    share_BN = 1 / count_BK.gather(1, class_BN).clamp_min(1).to(each_BN.dtype)
    return ((each_BN * share_BN).sum(1) / (count_BK > 0).sum(1).clamp_min(1)).mean()
