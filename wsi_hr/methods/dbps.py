"""Dual-buffer patch selection: gradient on the few patches that matter, a glance at the rest.

Source: DBPS, CVPR 2025; IPS (Bergner et al., ICLR 2023) is the case of no sub-salient patches.
Exploration against the cold start is ours (METHODS section 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from wsi_hr.bags.bag import Bag
from wsi_hr.geometry import Int64Array
from wsi_hr.method_config import DBPSConfig
from wsi_hr.methods.dual_buffer import (
    BufferScan,
    Candidates,
    DualBuffer,
    ranked,
    score,
    select_global,
    split_buffers,
)
from wsi_hr.methods.method import Method, StepContext, Update
from wsi_hr.models.attention import DualAttention, sinusoid
from wsi_hr.models.encoder import Encoder, embed_stream, frozen
from wsi_hr.models.z_block import pad_ragged
from wsi_hr.slide_prediction import Role, SlidePrediction

# Letters: B slides, N patches of a slide, M salient, S sub-salient, D embedding, C classes,
# J = heads x queries.


class DBPS(Method):
    """Scan all patches without gradient, keep two buffers, learn from the salient one."""

    def __init__(
        self, config: DBPSConfig, encoder: Encoder, class_weights: Sequence[float]
    ) -> None:
        super().__init__(encoder, class_weights)
        self.config = config
        self.aggregate = DualAttention(
            encoder.dim,
            heads=config.heads,
            hidden=round(config.mlp_ratio * encoder.dim),
            dropout=config.dropout,
        )
        self.classifier = nn.Linear(encoder.dim, self.num_classes)

    @property
    def min_patches(self) -> int:
        """M + S."""
        return self.config.num_salient + self.config.num_sub_salient

    def train_bags(self, bags: Sequence[Bag], update: Update, context: StepContext) -> float:
        """One optimiser step on the salient patches of every slide of the batch."""
        chosen = [self._choose(bag, context) for bag in bags]
        counts = [len(salient) for salient, _ in chosen]
        patches = np.concatenate(
            [bag.read(salient) for bag, (salient, _) in zip(bags, chosen, strict=True)]
        )
        salient_BMD = self.encoder(patches).split(counts)
        logits_BC = self._classify(
            [
                self._place(bag, salient, emb)
                for bag, (salient, _), emb in zip(bags, chosen, salient_BMD, strict=True)
            ],
            [
                self._place(bag, sub.index.cpu().numpy(), sub.embedding)
                for bag, (_, sub) in zip(bags, chosen, strict=True)
            ],
        )
        loss = self._loss(logits_BC, bags)
        update.backward(loss)
        update.step()
        return float(loss.detach())

    def predict_bag(self, bag: Bag) -> SlidePrediction:
        """Hard top-M, no exploration; saliency is the attention over all N patches."""
        with frozen(self):
            buffer, logits_JN = self._scan(bag)
            salient = buffer.salient.index.cpu().numpy()
            sub_salient = buffer.sub_salient.index.cpu().numpy()
            logits_BC = self._classify(
                [self._place(bag, salient, buffer.salient.embedding)],
                [self._place(bag, sub_salient, buffer.sub_salient.embedding)],
            )
            probs = logits_BC[0].softmax(0).cpu().numpy()
        role = np.full(len(bag), Role.BACKGROUND, np.uint8)
        role[sub_salient] = Role.SUB_SALIENT
        role[salient] = Role.SALIENT
        return SlidePrediction(bag.slide_id, probs, score(logits_JN).numpy(), role, bag.grid)

    def _choose(self, bag: Bag, context: StepContext) -> tuple[Int64Array, Candidates]:
        """Gradient patches i64[m] of one slide and its detached sub-salient patches."""
        config = self.config
        explore = config.explore if context.progress < config.explore_epochs else "none"
        rng = context.rng(bag.slide_id)
        if explore == "random":
            return self._choose_random(bag, rng)
        if explore == "half_sampled":
            buffer = self._sample_half(self._embed_all(bag), rng)
        else:
            buffer, _ = self._scan(bag)
        return buffer.salient.index.cpu().numpy(), buffer.sub_salient

    def _choose_random(self, bag: Bag, rng: np.random.Generator) -> tuple[Int64Array, Candidates]:
        order = rng.permutation(len(bag))
        salient = np.sort(order[: self.config.explore_patches])
        others = np.sort(order[len(salient) : len(salient) + self.config.num_sub_salient])
        return salient, self._embed_all(bag, others)

    def _sample_half(self, everything: Candidates, rng: np.random.Generator) -> DualBuffer:
        """Half of M by rank, half drawn without replacement by softmax score (Gumbel top-k)."""
        order = ranked(everything)
        certain = (self.config.num_salient + 1) // 2
        tail = order.take(slice(certain, None))
        gumbel = torch.from_numpy(rng.gumbel(size=len(tail))).to(tail.logits.device)
        drawn = (score(tail.logits).double().log() + gumbel).argsort(descending=True)
        order = order.take(slice(certain)) + tail.take(drawn)
        return split_buffers(order, self.config.num_salient, self.config.num_sub_salient)

    def _scan(self, bag: Bag) -> tuple[DualBuffer, Tensor]:
        """Both buffers and the logits f32[J, N] of all patches (on the CPU)."""
        config = self.config
        if config.score == "global":
            everything = self._embed_all(bag, keep_embeddings=False)
            buffer = select_global(everything, config.num_salient, config.num_sub_salient)
            return (
                DualBuffer(
                    self._with_embeddings(bag, buffer.salient),
                    self._with_embeddings(bag, buffer.sub_salient),
                ),
                everything.logits.cpu(),
            )
        scan = BufferScan(config.num_salient, config.num_sub_salient, config.scan_chunk)
        logits_JN = torch.empty(self._num_rows, len(bag))
        for patches in self._stream(bag):
            scan.push(patches)
            logits_JN[:, patches.index.cpu()] = patches.logits.cpu()
        return scan.finish(), logits_JN

    def _stream(self, bag: Bag, positions: Int64Array | None = None) -> Iterator[Candidates]:
        for at, embedding in embed_stream(self.encoder, bag, positions):
            with frozen(self.aggregate):
                logits = self.aggregate.attention.logits(self._place(bag, at, embedding))
            index = torch.from_numpy(at).to(embedding.device)
            yield Candidates(index, embedding, logits.flatten(0, 1))

    def _embed_all(
        self, bag: Bag, positions: Int64Array | None = None, *, keep_embeddings: bool = True
    ) -> Candidates:
        """All patches (or those at ``positions``), scored; 4 J bytes each without embeddings."""
        device, dim = self.encoder.device, self.encoder.dim if keep_embeddings else 0
        num = len(bag) if positions is None else len(positions)
        # one block for all: thousands of small tensors kept alive would fragment the heap
        everything = Candidates(
            torch.empty(num, dtype=torch.int64, device=device),
            torch.empty(num, dim, device=device),
            torch.empty(self._num_rows, num, device=device),
        )
        done = 0
        for patches in self._stream(bag, positions):
            part = slice(done, done + len(patches))
            everything.index[part] = patches.index
            everything.embedding[part] = patches.embedding[:, :dim]
            everything.logits[:, part] = patches.logits
            done = part.stop
        return everything

    @property
    def _num_rows(self) -> int:
        """J, heads x queries."""
        attention = self.aggregate.attention
        return attention.heads * attention.queries.shape[1]

    def _with_embeddings(self, bag: Bag, chosen: Candidates) -> Candidates:
        embedding = self._embed_all(bag, chosen.index.cpu().numpy()).embedding
        return Candidates(chosen.index, embedding, chosen.logits)

    def _place(self, bag: Bag, positions: Int64Array, emb_KD: Tensor) -> Tensor:
        """Add the position code of each patch's cell in the whole slide's grid, when on."""
        if not self.config.positions:
            return emb_KD
        cells = bag.grid.cells[positions].astype(np.int64)
        raster = torch.from_numpy(cells[:, 0] * bag.grid.shape[1] + cells[:, 1])
        return emb_KD + sinusoid(raster.to(emb_KD.device), self.encoder.dim)

    def _classify(self, salient: Sequence[Tensor], sub_salient: Sequence[Tensor]) -> Tensor:
        salient_BMD, mask_BM = pad_ragged(salient)
        sub_BSD, mask_BS = pad_ragged(sub_salient)
        z_BTD = self.aggregate(salient_BMD, mask_BM, sub_BSD, mask_BS)
        return self.classifier(z_BTD[:, 0])
