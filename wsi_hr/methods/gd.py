"""Plain gradient descent over the whole slide: the baseline that bounded methods are held against.

Source: METHODS section 3a, the baselines of PatchGD's tables: GD, a picture of the slide; GD*, all
its patches under the head that PatchGD has; activation checkpointing and offloading.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.slide_picture import slide_picture
from wsi_hr.errors import ConfigError, TrainingError
from wsi_hr.geometry import Float32Array
from wsi_hr.method_config import DenseConfig, GDConfig
from wsi_hr.methods.dense import PatchLearner
from wsi_hr.methods.method import Judgement, StepContext, Update
from wsi_hr.methods.recomputed import embed_checkpointed, offloaded
from wsi_hr.methods.shares import margin, margin_shares, rank_roles
from wsi_hr.models.encoder import Encoder, embed_packed, frozen
from wsi_hr.models.heads import HEADS
from wsi_hr.models.z_block import ZBlock
from wsi_hr.slide_prediction import SlidePrediction
from wsi_hr.store.jpeg_patches import Patches, join_patches

# Letters: B slides, N patches of a slide, K patches, P patch edge, D embedding, C classes.


class GD(PatchLearner):
    """Every patch of every slide with gradient; or the slide as one small picture."""

    def __init__(
        self,
        config: GDConfig,
        encoder: Encoder,
        class_weights: Sequence[float],
        head: nn.Module | None = None,
    ) -> None:
        super().__init__(encoder, class_weights)
        self.config = config
        if config.input == "image":
            self.head = nn.Linear(encoder.dim, self.num_classes)
        else:
            self.head = head or HEADS[config.head](
                encoder.dim, self.num_classes, dropout=config.dropout
            )

    def learn_patches(self, dense: DenseConfig) -> None:
        """See :meth:`wsi_hr.methods.dense.PatchLearner.learn_patches`."""
        if self.config.input == "image":
            raise ConfigError(
                "--annotations: with method.input image the slide is one picture, which has no "
                "patches; use method.input=patches"
            )
        super().learn_patches(dense)

    @property
    def min_patches(self) -> int:
        """One."""
        return 1

    @property
    def less_memory(self) -> str:
        """See :meth:`wsi_hr.methods.method.Method.less_memory`."""
        config = self.config
        ways = [] if config.micro_batch == 1 else ["set method.micro_batch=1"]
        if config.input == "image":
            ways += [] if self._offload else ["set method.memory=offload"]
            return ", or ".join([*ways, "lower method.image_px"])
        checkpointed = config.memory == "checkpoint"
        ways += ["raise method.segments" if checkpointed else "set method.memory=checkpoint"]
        return ", or ".join([*ways, "learn by --method patchgd"])

    def train_bags(self, bags: Sequence[Bag], update: Update, context: StepContext) -> float:
        """One optimiser step; the gradient is that of the whole batch, whatever ``micro_batch``.

        Raises:
            TrainingError: a slide has more patches than ``max_patches``.
        """
        for bag in bags:
            self._require_few(bag)
        size = self.config.micro_batch or len(bags)
        total = 0.0
        for first in range(0, len(bags), size):
            some = bags[first : first + size]
            with offloaded(self.encoder.device) if self._offload else nullcontext():
                loss = self._loss_of(some) * (len(some) / len(bags))
            update.backward(loss)
            total += float(loss.detach())
        update.step()
        return total

    def predict_bag(self, bag: Bag) -> SlidePrediction:
        """One pass over all patches, a chunk at a time, or over the picture.

        Saliency is each patch's share of the predicted class's margin by integrated gradients, a
        share below 0 counting as 0; of a picture, how much of the margin's gradient lies on the
        patch's cell, by size.
        """
        predict = self._predict_picture if self.config.input == "image" else self._predict_patches
        with frozen(self):
            (probs, patch_probs), score_N = predict(bag)
        role = rank_roles(score_N, self.config.num_salient, self.config.num_sub_salient)
        scores = score_N.cpu().numpy()
        return SlidePrediction(bag.slide_id, probs, scores, role, bag.grid, patch_probs)

    @property
    def _offload(self) -> bool:
        return self.config.memory == "offload"

    def _require_few(self, bag: Bag) -> None:
        if self.config.input == "patches" and len(bag) > self.config.max_patches:
            raise TrainingError(
                f"{bag.slide_id}: has {len(bag)} patches, and gd keeps activations of all of them "
                f"for the gradient; raise method.max_patches ({self.config.max_patches}) if memory "
                "allows it, or train with --method patchgd or dbps"
            )

    def _loss_of(self, bags: Sequence[Bag]) -> Tensor:
        """Mean over the bags, with gradient all the way."""
        if self.config.input == "image":
            pictures = [slide_picture(bag, self.config.image_px)[0] for bag in bags]
            return self._loss(self.head(self.encoder(np.stack(pictures))), bags)
        patches = join_patches(
            [bag.fetch(np.arange(len(bag)), encoded=self.encoder.decodes) for bag in bags]
        )
        z_BND = self._embed(patches).split([len(bag) for bag in bags])
        return self._block_loss(ZBlock.of_bags(bags, z_BND), bags)

    def _embed(self, patches_KPP3: Patches) -> Tensor:
        if self.config.memory == "checkpoint":
            return embed_checkpointed(self.encoder, patches_KPP3, self.config.segments)
        return self.encoder(patches_KPP3)

    def judge_bag(self, bag: Bag) -> Judgement:
        """One pass, and one of the head: the saliency is what costs a head most."""
        if self.config.input == "image":
            return super().judge_bag(bag)
        with frozen(self):
            block = ZBlock.of_bags([bag], [self._embed_all(bag)])
            return self._judged(self.head(block)[0], block)

    def _embed_all(self, bag: Bag) -> Tensor:
        z_ND = self.encoder.scale.new_empty(len(bag), self.encoder.dim)
        for _, at, embedding in embed_packed(self.encoder, [bag]):
            z_ND[at] = embedding
        return z_ND

    def _predict_patches(self, bag: Bag) -> tuple[Judgement, Tensor]:
        block = ZBlock.of_bags([bag], [self._embed_all(bag)])
        logits_C = self.head(block)[0]
        shares_N = margin_shares(
            lambda z_ND: self.head(ZBlock.of_bags([bag], [z_ND]))[0],
            block.emb_BND[0],
            int(logits_C.argmax()),
        )
        return self._judged(logits_C, block), shares_N.clamp_min(0)

    def _predict_picture(self, bag: Bag) -> tuple[Judgement, Tensor]:
        picture, scale = slide_picture(bag, self.config.image_px)
        with torch.enable_grad():
            pixels = torch.from_numpy(picture[None]).to(self.encoder.scale).requires_grad_()
            logits_C = self.head(self.encoder(pixels))[0]
            top = int(logits_C.argmax())
            (slope,) = torch.autograd.grad(margin(logits_C, top), pixels)
        slope_EE: Float32Array = slope[0].abs().sum(-1).float().cpu().numpy()
        score_N = torch.from_numpy(scale.share_by_cell(slope_EE, bag.grid.cells))
        return Judgement(logits_C.detach().softmax(0).cpu().numpy(), None), score_N
