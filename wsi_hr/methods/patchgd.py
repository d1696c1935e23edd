"""Patch gradient descent: the slide as one block Z, renewed a few patches at a time.

Source: METHODS section 3 (PatchGD). Unlike the released code the patches are drawn per slide, not
per batch, and Z is [row, col], not transposed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from wsi_hr.bags.bag import Bag
from wsi_hr.geometry import Int64Array
from wsi_hr.method_config import PatchGDConfig
from wsi_hr.methods.dense import PatchLearner
from wsi_hr.methods.method import StepContext, Update
from wsi_hr.models.encoder import Encoder, embed_stream, frozen
from wsi_hr.models.heads import HEADS
from wsi_hr.models.z_block import ZBlock
from wsi_hr.slide_prediction import Role, SlidePrediction

# Letters: B slides, N patches of a slide, K patches with gradient in an inner step, D embedding,
# (R, Q) patch grid, C classes; zeta inner steps per outer step, epsilon of them per update.

_PATH_STEPS = 32  # of the integral behind the saliency; each is a pass of the head alone


class PatchGD(PatchLearner):
    """Fill Z without gradient, then renew K of its vectors per inner step, with gradient."""

    def __init__(
        self,
        config: PatchGDConfig,
        encoder: Encoder,
        class_weights: Sequence[float],
        head: nn.Module | None = None,
    ) -> None:
        super().__init__(encoder, class_weights)
        self.config = config
        self.head = head or HEADS[config.head](
            encoder.dim, self.num_classes, dropout=config.dropout, **config.head_settings
        )

    @property
    def min_patches(self) -> int:
        """One: K is a part of however many patches there are."""
        return 1

    def train_bags(self, bags: Sequence[Bag], update: Update, context: StepContext) -> float:
        """One outer step: zeta inner steps, an optimiser step after every epsilon of them."""
        z_BND = [self._fill(bag) for bag in bags]
        draws = [self._draw(len(bag), context.rng(bag.slide_id)) for bag in bags]
        num_inner = max(len(draw) for draw in draws)
        pieces = [_in_pieces(np.concatenate(draw), num_inner) for draw in draws]
        accumulate = self.config.accumulate or num_inner
        losses = []
        for first in range(0, num_inner, accumulate):
            group = range(first, min(first + accumulate, num_inner))
            for inner in group:
                loss = self._inner(bags, z_BND, [piece[inner] for piece in pieces])
                update.backward(loss / len(group))
                losses.append(loss.detach())
            update.step()
        return float(torch.stack(losses).mean())

    def predict_bag(self, bag: Bag) -> SlidePrediction:
        """Fill Z, one head pass, then one per step of the path that gives the saliency.

        Saliency is each patch's share of the predicted class's margin, by integrated gradients
        from a slide whose patches are all this slide's mean one: the shares of all patches sum up
        to what the margin gains over that slide. A share below 0 counts as 0. Source: Sundararajan
        et al., ICML 2017; a plain gradient would vanish where the model is certain.
        """
        with frozen(self):
            z_ND = self._fill_frozen(bag)
            logits_C = self._logits([bag], [z_ND])[0]
            patch_probs_NK = self._patch_probs(self._block([bag], [z_ND]))
            share_N = self._shares(bag, z_ND, int(logits_C.argmax())).clamp_min(0).cpu()
        order = share_N.argsort(descending=True, stable=True).numpy()
        marked = self.config.num_salient
        role = np.full(len(bag), Role.BACKGROUND, np.uint8)
        role[order[:marked]] = Role.SALIENT
        role[order[marked : marked + self.config.num_sub_salient]] = Role.SUB_SALIENT
        probs = logits_C.softmax(0).cpu().numpy()
        return SlidePrediction(bag.slide_id, probs, share_N.numpy(), role, bag.grid, patch_probs_NK)

    def _shares(self, bag: Bag, z_ND: Tensor, top: int) -> Tensor:
        """Integrated gradients [N] of the margin of class ``top`` (midpoint rule)."""
        mean_D = z_ND.mean(0)
        away_ND = z_ND - mean_D
        total_ND = torch.zeros_like(z_ND)
        for step in range(_PATH_STEPS):
            part = (step + 0.5) / _PATH_STEPS
            with torch.enable_grad():
                leaf = (mean_D + part * away_ND).requires_grad_()
                logits_C = self._logits([bag], [leaf])[0]
                others = torch.arange(len(logits_C), device=logits_C.device) != top
                margin = logits_C[top] - logits_C[others].logsumexp(0)
                total_ND += torch.autograd.grad(margin, leaf)[0]
        return (away_ND * total_ND).sum(1) / _PATH_STEPS

    def _fill(self, bag: Bag) -> Tensor:
        """All embeddings [N, D] of a slide, without gradient (Algorithm 2)."""
        if self.config.fill_mode == "eval":
            return self._fill_frozen(bag)
        z_ND = self._empty(bag)
        with torch.no_grad():
            for at, patches in bag.stream(self.encoder.chunk):
                z_ND[at] = self.encoder(patches)
        return z_ND

    def _fill_frozen(self, bag: Bag) -> Tensor:
        z_ND = self._empty(bag)
        for at, embedding in embed_stream(self.encoder, bag):
            z_ND[at] = embedding
        return z_ND

    def _empty(self, bag: Bag) -> Tensor:
        """One block for all N: thousands of small tensors kept alive would fragment the heap."""
        return self.encoder.scale.new_empty(len(bag), self.encoder.dim)

    def _draw(self, num_patches: int, rng: np.random.Generator) -> list[Int64Array]:
        """Disjoint draws of K patches that together cover what is asked; the last may be short."""
        config = self.config
        covered = max(1, math.ceil(config.coverage * num_patches))
        size = min(covered, max(1, math.ceil(config.sample * num_patches)), config.max_sampled)
        order = rng.permutation(num_patches)[:covered]
        return [order[first : first + size] for first in range(0, covered, size)]

    def _inner(
        self, bags: Sequence[Bag], z_BND: list[Tensor], draws: Sequence[Int64Array]
    ) -> Tensor:
        """Loss of one inner step; the fresh vectors stay in Z, detached, for the later ones."""
        patches = np.concatenate([bag.read(draw) for bag, draw in zip(bags, draws, strict=True)])
        fresh_BKD = self.encoder(patches).split([len(draw) for draw in draws])
        mixed = []
        for slide, (draw, fresh_KD) in enumerate(zip(draws, fresh_BKD, strict=True)):
            at = torch.from_numpy(draw).to(fresh_KD.device)
            mixed.append(z_BND[slide].index_put((at,), fresh_KD))
            z_BND[slide] = mixed[-1].detach()
        return self._block_loss(self._block(bags, mixed), bags)

    def _logits(self, bags: Sequence[Bag], z_BND: list[Tensor]) -> Tensor:
        return self.head(self._block(bags, z_BND))

    def _block(self, bags: Sequence[Bag], z_BND: list[Tensor]) -> ZBlock:
        shape = (
            max(bag.grid.shape[0] for bag in bags),
            max(bag.grid.shape[1] for bag in bags),
        )
        cells = [
            torch.from_numpy(bag.grid.cells.astype(np.int64)).to(z_ND.device)
            for bag, z_ND in zip(bags, z_BND, strict=True)
        ]
        return ZBlock.of(z_BND, cells, shape)


def _in_pieces(order: Int64Array, num_pieces: int) -> list[Int64Array]:
    """Cut one slide's draw so that slides of different size take the same inner steps."""
    return np.array_split(order, num_pieces)
