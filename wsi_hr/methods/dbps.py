"""Dual-buffer patch selection: gradient on the few patches that matter, a glance at the rest.

Source: DBPS, CVPR 2025; ``concat`` and ``half_sampled`` are of the same authors' later variant
(METHODS section 2). Exploration against the cold start and the refreshed scan are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import ConfigError
from wsi_hr.geometry import Int64Array
from wsi_hr.method_config import DBPSConfig
from wsi_hr.methods.dual_buffer import (
    Candidates,
    DualBuffer,
    half_by_rank,
    half_sampled,
    score,
    select_global,
)
from wsi_hr.methods.method import Method, StepContext, Update
from wsi_hr.methods.scan import Anew, Scan, carried_over, refreshed
from wsi_hr.models.aggregators import build_aggregator
from wsi_hr.models.attention import sinusoid
from wsi_hr.models.encoder import Encoder, frozen
from wsi_hr.models.z_block import pad_ragged
from wsi_hr.slide_prediction import Role, SlidePrediction
from wsi_hr.store.jpeg_patches import join_patches

# Letters: B slides, N patches of a slide, M salient, S sub-salient, D embedding, C classes,
# J = heads x queries.


@dataclass(frozen=True)
class Choice:
    """What a step learns from of one slide.

    Attributes:
        salient: i64[m] positions of the patches that get a gradient.
        sub_salient: the patches that are seen without.
    """

    salient: Int64Array
    sub_salient: Candidates


class DBPS(Method):
    """Scan all patches without gradient, keep two buffers, learn from the salient one.

    Raises:
        ConfigError: ``heads`` does not divide the encoder's width, or the encoder takes patches of
            one size only and the scan is to see smaller ones.
    """

    def __init__(
        self, config: DBPSConfig, encoder: Encoder, class_weights: Sequence[float]
    ) -> None:
        super().__init__(encoder, class_weights)
        self.config = config
        self.aggregate = build_aggregator(config, encoder.dim)
        self.classifier = nn.Linear(encoder.dim, self.num_classes)
        if config.scan_scale < 1 and not encoder.takes_at(config.scan_scale):
            raise ConfigError(
                f"method.scan_scale {config.scan_scale:g}: this encoder takes patches of one size "
                "only; leave it at 1, or choose a convolutional encoder"
            )

    @property
    def min_patches(self) -> int:
        """M + S."""
        return self.config.num_salient + (self.config.num_sub_salient or 0)

    @property
    def remembers(self) -> bool:
        """Logits of the epoch before, where a scan does not score all patches anew."""
        return self.config.scan_refresh < 1

    @property
    def less_memory(self) -> str:
        """See :meth:`wsi_hr.methods.method.Method.less_memory`."""
        return "lower train.batch_size, method.num_salient or method.explore_patches"

    def train_bags(self, bags: Sequence[Bag], update: Update, context: StepContext) -> float:
        """One optimiser step on the salient patches of every slide of the batch."""
        choices = self._choose(bags, context)
        counts = [len(choice.salient) for choice in choices]
        patches = join_patches(
            [
                bag.fetch(choice.salient, encoded=self.encoder.decodes)
                for bag, choice in zip(bags, choices, strict=True)
            ]
        )
        salient_BMD = self.encoder(patches).split(counts)
        logits_BC = self._classify(
            [
                self._place(bag, choice.salient, emb)
                for bag, choice, emb in zip(bags, choices, salient_BMD, strict=True)
            ],
            [
                self._place(bag, _positions(choice.sub_salient), choice.sub_salient.embedding)
                for bag, choice in zip(bags, choices, strict=True)
            ],
        )
        loss = self._loss(logits_BC, bags)
        update.backward(loss)
        update.step()
        return float(loss.detach())

    def predict_bag(self, bag: Bag) -> SlidePrediction:
        """Hard top-M, no exploration; saliency is the attention over all N patches."""
        with frozen(self):
            ((buffer, logits_JN),) = self.scan([bag])
            salient, sub_salient = _positions(buffer.salient), _positions(buffer.sub_salient)
            embedding = buffer.salient.embedding
            if not embedding.shape[1] or self._reduce > 1:
                patches = bag.fetch(salient, encoded=self.encoder.decodes)
                embedding = self.encoder.embed_padded(patches)
            logits_BC = self._classify(
                [self._place(bag, salient, embedding)],
                [self._place(bag, sub_salient, buffer.sub_salient.embedding)],
            )
            probs = logits_BC[0].softmax(0).cpu().numpy()
        role = np.full(len(bag), Role.BACKGROUND, np.uint8)
        role[sub_salient] = Role.SUB_SALIENT
        role[salient] = Role.SALIENT
        return SlidePrediction(bag.slide_id, probs, score(logits_JN).numpy(), role, bag.grid)

    def scan(self, bags: Sequence[Bag]) -> list[tuple[DualBuffer, Tensor]]:
        """Both buffers of every bag and the logits f32[J, N] of all its patches (on the CPU).

        With global scores the salient patches come without embeddings (width 0).
        """
        config, scan = self.config, self._scanner()
        if config.score == "paper":
            return scan.buffers(bags, config.num_salient, self._num_sub(bags), config.scan_chunk)
        everything = scan.logits(bags)
        buffers = [
            select_global(patches, config.num_salient, self._num_sub([bag]))
            for bag, patches in zip(bags, everything, strict=True)
        ]
        return [
            (buffer, patches.logits.cpu())
            for buffer, patches in zip(self._embedded(bags, buffers), everything, strict=True)
        ]

    def _choose(self, bags: Sequence[Bag], context: StepContext) -> list[Choice]:
        config = self.config
        rngs = [context.rng(bag.slide_id) for bag in bags]
        explore = config.explore if context.progress < config.explore_epochs else "none"
        if explore == "random":
            return self._choose_random(bags, rngs)
        if config.score == "paper" and explore == "none" and config.selection == "hard":
            buffers = []
            for bag, (buffer, logits_JN) in zip(bags, self.scan(bags), strict=True):
                context.keep(bag, logits_JN)
                buffers.append(buffer)
        else:
            select = half_by_rank if explore == "half_sampled" else select_global
            if explore == "none" and config.selection == "half_sampled":
                select = half_sampled
            buffers = self._embedded(
                bags,
                [
                    select(patches, config.num_salient, self._num_sub([bag]), rng)
                    for bag, patches, rng in zip(
                        bags, self._scored(bags, rngs, context), rngs, strict=True
                    )
                ],
            )
        return [Choice(_positions(buffer.salient), buffer.sub_salient) for buffer in buffers]

    def _choose_random(
        self, bags: Sequence[Bag], rngs: Sequence[np.random.Generator]
    ) -> list[Choice]:
        salient, others = [], []
        for bag, rng in zip(bags, rngs, strict=True):
            order = rng.permutation(len(bag))
            salient.append(np.sort(order[: self.config.explore_patches]))
            rest = order[len(salient[-1]) :]
            others.append(np.sort(rest[: self._num_sub([bag])]))
        return [
            Choice(positions, sub_salient)
            for positions, sub_salient in zip(
                salient, self._scanner().embed(bags, others), strict=True
            )
        ]

    def _scored(
        self, bags: Sequence[Bag], rngs: Sequence[np.random.Generator], context: StepContext
    ) -> list[Candidates]:
        """All patches of every bag with their logits, in part those of earlier epochs."""
        known, anew = [], []
        for bag, rng in zip(bags, rngs, strict=True):
            before = context.memory.recall(bag.slide_id) if self.remembers else None
            if before is None:
                before = np.full((self.aggregate.num_rows, len(bag.source.valid)), np.nan, "f4")
            known.append(torch.from_numpy(before))
            num_best = 2 * (self.config.num_salient + self._num_sub([bag]))
            share = self.config.scan_refresh
            anew.append(refreshed(known[-1][:, bag.indices], share, num_best, score, rng))
        wanted = [which.chosen for which in anew]
        everything = []
        for bag, before_JN, which, fresh in zip(
            bags, known, anew, self._scanner().logits(bags, wanted), strict=True
        ):
            # patches that the bag leaves out this time move along with the others
            of_source = Anew(bag.indices[which.chosen], which.drawn)
            logits_JN = carried_over(before_JN, of_source, fresh.logits.cpu())
            context.memory.keep(bag.slide_id, logits_JN.numpy())
            everything.append(logits_JN[:, bag.indices])
        device = self.encoder.device
        return [
            Candidates(
                torch.arange(logits_JN.shape[1], device=device),
                torch.empty(logits_JN.shape[1], 0, device=device),
                logits_JN.to(device),
            )
            for logits_JN in everything
        ]

    def _embedded(self, bags: Sequence[Bag], buffers: Sequence[DualBuffer]) -> list[DualBuffer]:
        """The same buffers with embeddings of the sub-salient patches."""
        wanted = [_positions(buffer.sub_salient) for buffer in buffers]
        return [
            DualBuffer(
                buffer.salient,
                Candidates(found.index, found.embedding, buffer.sub_salient.logits),
            )
            for buffer, found in zip(buffers, self._scanner().embed(bags, wanted), strict=True)
        ]

    def _scanner(self) -> Scan:
        return Scan(self.encoder, self.aggregate, self._place, self._reduce)

    @property
    def _reduce(self) -> int:
        return round(1 / self.config.scan_scale)

    def _num_sub(self, bags: Sequence[Bag]) -> int:
        """S; all the others of the largest bag where none is set."""
        num = self.config.num_sub_salient
        return max(len(bag) for bag in bags) if num is None else num

    def _place(self, bag: Bag, positions: Int64Array, emb_KD: Tensor) -> Tensor:
        """Add the position code of each patch's cell in the whole slide's grid, when on."""
        if not self.config.positions:
            return emb_KD
        cells = bag.grid.cells[positions].astype(np.int64)
        raster = torch.from_numpy(cells[:, 0] * bag.grid.shape[1] + cells[:, 1])
        return emb_KD + sinusoid(raster.to(emb_KD.device, non_blocking=True), self.encoder.dim)

    def _classify(self, salient: Sequence[Tensor], sub_salient: Sequence[Tensor]) -> Tensor:
        salient_BMD, mask_BM = pad_ragged(salient)
        sub_BSD, mask_BS = pad_ragged(sub_salient)
        z_BTD = self.aggregate(salient_BMD, mask_BM, sub_BSD, mask_BS)
        return self.classifier(z_BTD[:, 0])


def _positions(patches: Candidates) -> Int64Array:
    return patches.index.cpu().numpy()
