"""End-to-end ABMILX: encoder and head learn together from a sample of every slide.

Source: E2E-ABMILX, NeurIPS 2025 (METHODS section 3b).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from wsi_hr.bags.bag import Bag
from wsi_hr.geometry import Int64Array
from wsi_hr.method_config import ABMILXConfig
from wsi_hr.methods.method import Method, StepContext, Update
from wsi_hr.methods.shares import rank_roles
from wsi_hr.models.encoder import Encoder, embed_packed, frozen
from wsi_hr.models.heads.abmilx import ABMILXHead
from wsi_hr.models.z_block import ZBlock
from wsi_hr.slide_prediction import SlidePrediction
from wsi_hr.store.jpeg_patches import join_patches

# Letters: B slides, N patches of a slide, D embedding, C classes, m heads; s patches sampled, one
# in rho of them from the low magnification.


class E2EABMILX(Method):
    """Learns from s random patches a slide, of two magnifications; predicts from all high ones."""

    def __init__(
        self, config: ABMILXConfig, encoder: Encoder, class_weights: Sequence[float]
    ) -> None:
        super().__init__(encoder, class_weights)
        self.config = config
        self.head = ABMILXHead(
            encoder.dim,
            self.num_classes,
            dropout=config.dropout,
            width=config.width,
            heads=config.heads,
            alpha=config.alpha,
        )

    @property
    def min_patches(self) -> int:
        """As many as are sampled."""
        return self.config.sample

    @property
    def less_memory(self) -> str:
        """See :meth:`wsi_hr.methods.method.Method.less_memory`."""
        return "lower train.batch_size or method.sample"

    def train_bags(self, bags: Sequence[Bag], update: Update, context: StepContext) -> float:
        """One optimiser step on a fresh sample of every slide."""
        patches, counts, encoded = [], [], self.encoder.decodes
        for bag in bags:
            high, low = self.draw(bag, context.rng(bag.slide_id))
            patches.append(bag.fetch(high, encoded=encoded))
            if bag.low is not None and len(low):
                patches.append(bag.low.fetch(low, encoded=encoded))
            counts.append(len(high) + len(low))
        z_BsD = self.encoder(join_patches(patches)).split(counts)
        # the head does not see where patches lie, and those of two scales have no common grid
        nowhere = [torch.zeros(count, 2, dtype=torch.int64, device=z.device)
                   for count, z in zip(counts, z_BsD, strict=True)]  # fmt: skip
        loss = self._loss(self.head(ZBlock.of(z_BsD, nowhere, (1, 1))), bags)
        update.backward(loss)
        update.step()
        return float(loss.detach())

    def predict_bag(self, bag: Bag) -> SlidePrediction:
        """All patches of the high magnification; saliency is their attention, mean over heads."""
        with frozen(self):
            z_ND = self.encoder.scale.new_empty(len(bag), self.encoder.dim)
            for _, at, embedding in embed_packed(self.encoder, [bag]):
                z_ND[at] = embedding
            seen = self.head.aggregate.attend(z_ND[None], None)
            logits_C = self.head.classifier(seen.vector)[0]
            score_N = seen.weights[0].mean(0).cpu()
        role = rank_roles(score_N, self.config.num_salient, self.config.num_sub_salient)
        probs = logits_C.softmax(0).cpu().numpy()
        return SlidePrediction(bag.slide_id, probs, score_N.numpy(), role, bag.grid)

    def draw(self, bag: Bag, rng: np.random.Generator) -> tuple[Int64Array, Int64Array]:
        """Positions of the patches to learn from: in the bag, and in its low magnification.

        floor(s / rho) low ones where there are so many, the rest high ones; each kind is drawn
        uniformly without replacement, and taken whole where there is too little of it.
        """
        config = self.config
        num_low = 0
        if bag.low is not None:
            num_low = min(int(config.sample / config.ratio), len(bag.low))
        num_high = min(max(config.sample - num_low, 1), len(bag))
        high = rng.choice(len(bag), num_high, replace=False)
        low = rng.choice(len(bag.low), num_low, replace=False) if bag.low is not None else []
        return np.sort(high).astype(np.int64), np.sort(np.asarray(low, np.int64))
