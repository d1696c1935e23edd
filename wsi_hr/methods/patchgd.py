"""Patch gradient descent: the slide as one block Z, renewed a few patches at a time.

Source: METHODS section 3 (PatchGD). Unlike the released code the patches are drawn per slide, not
per batch, and Z is [row, col], not transposed. With ``exact`` nothing is drawn at all: see
:mod:`wsi_hr.methods.exact`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import ConfigError
from wsi_hr.geometry import Int64Array
from wsi_hr.method_config import DenseConfig, PatchGDConfig
from wsi_hr.methods.dense import PatchLearner
from wsi_hr.methods.exact import exact_backward, require_exact
from wsi_hr.methods.method import Judgement, NoMemory, StepContext, Update
from wsi_hr.methods.shares import log_relevance, margin_shares, rank_roles
from wsi_hr.methods.units import Units
from wsi_hr.models.block_pool import BlockPool
from wsi_hr.models.encoder import Encoder, frozen
from wsi_hr.models.heads import HEADS
from wsi_hr.models.z_block import ZBlock
from wsi_hr.slide_prediction import SlidePrediction
from wsi_hr.store.jpeg_patches import join_patches

# Letters: B slides, N patches of a slide, U units of Z (patches, or blocks of them), D embedding,
# C classes; zeta inner steps per outer step, epsilon of them per update.

_ROUNDING = 1e-9  # .07 of 100 patches are 7, though the product is a little more


class PatchGD(PatchLearner):
    """Fill Z without gradient, then renew part of its vectors per inner step, with gradient.

    Raises:
        ConfigError: the gradient is to be exact, and cannot be with this encoder.
    """

    def __init__(
        self,
        config: PatchGDConfig,
        encoder: Encoder,
        class_weights: Sequence[float],
        head: nn.Module | None = None,
    ) -> None:
        super().__init__(encoder, class_weights)
        self.config = config
        if config.exact:
            require_exact(encoder)
        self.pool = None if config.block is None else BlockPool(encoder.dim)
        self.head = head or HEADS[config.head](
            encoder.dim, self.num_classes, dropout=config.dropout, **config.head_settings
        )

    def learn_patches(self, dense: DenseConfig) -> None:
        """See :meth:`wsi_hr.methods.dense.PatchLearner.learn_patches`."""
        if self.config.block is not None:
            raise ConfigError(
                "--annotations: with method.block Z has no vector for a single patch; leave it out"
            )
        super().learn_patches(dense)

    @property
    def min_patches(self) -> int:
        """One: K is a part of however many patches there are."""
        return 1

    @property
    def less_memory(self) -> str:
        """See :meth:`wsi_hr.methods.method.Method.less_memory`."""
        if self.config.exact:
            return "lower train.batch_size, or set method.block, so that Z has fewer vectors"
        if self.config.fill_mode == "train":  # the fill then keeps to its chunk, which counts
            return "lower encoder.chunk, train.batch_size or method.max_sampled"
        return (
            "lower train.batch_size or method.max_sampled, or set method.exact=true, which takes "
            "the memory of one chunk"
        )

    def train_bags(self, bags: Sequence[Bag], update: Update, context: StepContext) -> float:
        """One outer step: zeta inner steps, an optimiser step after every epsilon of them.

        Where the gradient is exact, one optimiser step.
        """
        units = [self._units(bag) for bag in bags]
        rngs = [context.rng(bag.slide_id) for bag in bags]
        if self.config.exact:
            seeds = [int(rng.integers(2**62)) for rng in rngs]
            loss = exact_backward(
                units, self.encoder, lambda z: self._block_loss(_block(units, z), bags), seeds,
                update, lambda leaves: self._remember(bags, units, leaves, context),
            )  # fmt: skip
            update.step()
            return float(loss)
        z_BUD = [self._fill(slide) for slide in units]
        if not isinstance(context.memory, NoMemory):
            leaves = [z_UD.clone().requires_grad_() for z_UD in z_BUD]
            with frozen(self), torch.enable_grad():
                self._block_loss(_block(units, leaves), bags).backward(inputs=leaves)
            self._remember(bags, units, leaves, context)
        draws = [self._draw(slide, rng) for slide, rng in zip(units, rngs, strict=True)]
        num_inner = max(len(draw) for draw in draws)
        pieces = [_in_pieces(draw, num_inner) for draw in draws]
        accumulate = self.config.accumulate or num_inner
        losses = []
        for first in range(0, num_inner, accumulate):
            group = range(first, min(first + accumulate, num_inner))
            for inner in group:
                drawn = [piece[inner] for piece in pieces]
                mixed = self._renew(units, z_BUD, drawn)
                loss = self._block_loss(_block(units, mixed), bags)
                update.backward(loss / len(group))
                losses.append(loss.detach())
            update.step()
        return float(torch.stack(losses).mean())

    def predict_bag(self, bag: Bag) -> SlidePrediction:
        """Fill Z, one head pass, then the passes that give the saliency.

        Saliency is each patch's share of the predicted class's margin
        (:func:`~wsi_hr.methods.shares.margin_shares`); a block's share is divided among its patches
        by their weights in it. A share below 0 counts as 0.
        """
        with frozen(self):
            units = self._units(bag)
            z_UD, weight_N = units.fill(self.encoder.embed_padded)
            block = _block([units], [z_UD])
            logits_C = self.head(block)[0]
            share_U = margin_shares(
                lambda z: self.head(_block([units], [z]))[0], z_UD, int(logits_C.argmax())
            )
            share_N = (share_U.clamp_min(0)[units.unit_of_patch] * weight_N).cpu()
            probs, patch_probs = self._judged(logits_C, block)
        role = rank_roles(share_N, self.config.num_salient, self.config.num_sub_salient)
        return SlidePrediction(bag.slide_id, probs, share_N.numpy(), role, bag.grid, patch_probs)

    def judge_bag(self, bag: Bag) -> Judgement:
        """Fill Z, one head pass: the saliency is what costs a head most."""
        with frozen(self):
            units = self._units(bag)
            block = _block([units], [units.fill(self.encoder.embed_padded)[0]])
            return self._judged(self.head(block)[0], block)

    def _units(self, bag: Bag) -> Units:
        return Units(bag, self.encoder, self.config.block, self.pool)

    def _fill(self, units: Units) -> Tensor:
        """Z [U, D] of a slide, without gradient (Algorithm 2)."""
        if self.config.fill_mode == "train":
            with torch.no_grad():
                return units.fill(self.encoder)[0]
        with frozen(self.encoder):
            return units.fill(self.encoder.embed_padded)[0]

    def _remember(
        self,
        bags: Sequence[Bag],
        units: Sequence[Units],
        leaves: list[Tensor],
        context: StepContext,
    ) -> None:
        """Leave how much the loss depends on each patch for the next epoch, as logits.

        What it depends on a block is divided evenly among the block's patches.
        """
        for bag, slide, leaf in zip(bags, units, leaves, strict=True):
            assert leaf.grad is not None, "the head reads every vector of Z"
            unit_N = torch.from_numpy(slide.unit_of_patch).to(leaf.device)
            logits_U = log_relevance(leaf.detach(), leaf.grad) - unit_N.bincount().log()
            context.keep(bag, logits_U[unit_N][None])

    def _draw(self, units: Units, rng: np.random.Generator) -> list[Int64Array]:
        """Disjoint draws of units that together cover what is asked; the last may be short."""
        config, num = self.config, len(units)
        covered = max(1, math.ceil(config.coverage * num - _ROUNDING))
        most = max(1, config.max_sampled * num // len(units.bag))  # in units of average size
        wanted = math.ceil(config.sample * num - _ROUNDING)
        size = min(covered, max(1, wanted), most)
        order = rng.permutation(num)[:covered]
        return [order[first : first + size] for first in range(0, covered, size)]

    def _renew(
        self, units: Sequence[Units], z_BUD: list[Tensor], draws: Sequence[Int64Array]
    ) -> list[Tensor]:
        """Z with fresh vectors of the units drawn; they stay in it, detached, for later steps."""
        patches = [slide.read(draw) for slide, draw in zip(units, draws, strict=True)]
        fresh_BKD = self.encoder(join_patches(patches)).split([len(part) for part in patches])
        mixed = []
        for number, (slide, draw) in enumerate(zip(units, draws, strict=True)):
            vectors, _ = slide.vectors(draw, fresh_BKD[number])
            at = torch.from_numpy(draw).to(vectors.device)
            mixed.append(z_BUD[number].index_put((at,), vectors))
            z_BUD[number] = mixed[-1].detach()
        return mixed


def _block(units: Sequence[Units], z_BUD: Sequence[Tensor]) -> ZBlock:
    shape = (max(slide.shape[0] for slide in units), max(slide.shape[1] for slide in units))
    cells = [
        torch.from_numpy(slide.cells_U2).to(z_UD.device)
        for slide, z_UD in zip(units, z_BUD, strict=True)
    ]
    return ZBlock.of(z_BUD, cells, shape)


def _in_pieces(draws: list[Int64Array], num_pieces: int) -> list[Int64Array]:
    """Cut a slide's draws anew where another slide of the batch takes more inner steps."""
    if len(draws) == num_pieces:
        return draws
    return np.array_split(np.concatenate(draws), num_pieces)
