"""Passing over all patches of some slides without gradient: embedded, scored, and let go of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsi_hr.bags.bag import Bag
from wsi_hr.geometry import Int64Array
from wsi_hr.methods.dual_buffer import BufferScan, Candidates, DualBuffer
from wsi_hr.models.aggregators import Aggregator
from wsi_hr.models.encoder import Encoder, embed_packed, in_eval

# Letters: B slides, N patches of a slide, K some of them, D embedding, J rows of logits.

Place = Callable[[Bag, Int64Array, Tensor], Tensor]
"""Adds what is known of where patches lie to their embeddings [K, D]."""


_ENOUGH_FOR_A_SLOPE = 8  # patches; fewer tell where logits went on the whole, not how they spread


class Scan:
    """Scores the patches of slides, packed together into chunks of the encoder's size.

    Args:
        encoder: embeds.
        attention: scores patches.
        place: applied before scoring; embeddings are kept without it.
        reduce: px of a patch, per axis, that are averaged into one for the scan.
    """

    def __init__(self, encoder: Encoder, attention: Aggregator, place: Place, reduce: int) -> None:
        self._encoder = encoder
        self._attention = attention
        self._place = place
        self._reduce = reduce

    def buffers(
        self, bags: Sequence[Bag], num_salient: int, num_sub_salient: int, chunk: int
    ) -> list[tuple[DualBuffer, Tensor]]:
        """Both buffers of every bag as the paper fills them, and the logits f32[J, N] (CPU)."""
        scans = [BufferScan(num_salient, min(num_sub_salient, len(bag)), chunk) for bag in bags]
        # on the device until all are there: to fetch those of a chunk is to wait for it
        logits = [
            torch.empty(self._num_rows, len(bag), device=self._encoder.device) for bag in bags
        ]
        for number, patches in self._stream(bags, None):
            scans[number].push(patches)
            logits[number][:, patches.index] = patches.logits
        return [(scan.finish(), of_bag.cpu()) for scan, of_bag in zip(scans, logits, strict=True)]

    def logits(
        self, bags: Sequence[Bag], wanted: Sequence[Int64Array] | None = None
    ) -> list[Candidates]:
        """The patches of every bag (or those ``wanted``), scored, without their embeddings."""
        return self._all(bags, wanted, keep=False)

    def embed(self, bags: Sequence[Bag], wanted: Sequence[Int64Array]) -> list[Candidates]:
        """The patches ``wanted`` of every bag with their embeddings."""
        return self._all(bags, wanted, keep=True)

    def _all(
        self, bags: Sequence[Bag], wanted: Sequence[Int64Array] | None, *, keep: bool
    ) -> list[Candidates]:
        """4 J bytes a patch, and 4 D more where embeddings are kept."""
        device, dim = self._encoder.device, self._encoder.dim if keep else 0
        nums = [len(bag) for bag in bags] if wanted is None else [len(part) for part in wanted]
        # one block for all: thousands of small tensors kept alive would fragment the heap
        everything = [
            Candidates(
                torch.empty(num, dtype=torch.int64, device=device),
                torch.empty(num, dim, device=device),
                torch.empty(self._num_rows, num, device=device),
            )
            for num in nums
        ]
        done = [0] * len(nums)
        for number, patches in self._stream(bags, wanted):
            part = slice(done[number], done[number] + len(patches))
            everything[number].index[part] = patches.index
            everything[number].embedding[part] = patches.embedding[:, :dim]
            everything[number].logits[:, part] = patches.logits
            done[number] = part.stop
        return everything

    def _stream(
        self, bags: Sequence[Bag], wanted: Sequence[Int64Array] | None
    ) -> Iterator[tuple[int, Candidates]]:
        embedded = embed_packed(self._encoder, bags, wanted, reduce=self._reduce)
        with in_eval(self._attention):
            for number, at, embedding in embedded:
                with torch.no_grad():
                    logits = self._attention.logits(self._place(bags[number], at, embedding))
                index = torch.from_numpy(at).to(embedding.device, non_blocking=True)
                yield number, Candidates(index, embedding, logits)

    @property
    def _num_rows(self) -> int:
        return self._attention.num_rows


class Anew(NamedTuple):
    """Patches to score anew.

    Attributes:
        chosen: i64[K] positions of all of them.
        drawn: i64[L] which of these K were drawn, of all that have a logit and are not best.
    """

    chosen: Int64Array
    drawn: Int64Array


def refreshed(
    before_JN: Tensor, share: float, num_best: int, score: Callable[[Tensor], Tensor],
    rng: np.random.Generator,
) -> Anew:  # fmt: skip
    """Which patches to score anew: those never scored, the best so far, and a random part.

    Args:
        before_JN: logits kept of the epoch before, NaN where there are none.
        share: part of the others that is drawn.
        num_best: how many of the best so far.
        score: of logits [J, L], higher is better.
        rng: draws.
    """
    known = ~before_JN.isnan().any(0)
    chosen = ~known
    at = known.nonzero()[:, 0]
    best = score(before_JN[:, at]).argsort(descending=True, stable=True)[:num_best]
    chosen[at[best]] = True
    others = (~chosen).nonzero()[:, 0].numpy()
    drawn = np.sort(rng.permutation(others)[: round(share * len(others))])
    chosen[torch.from_numpy(drawn)] = True
    positions = chosen.nonzero()[:, 0].numpy()
    return Anew(positions, np.searchsorted(positions, drawn))


def carried_over(before_JN: Tensor, anew: Anew, now_JK: Tensor) -> Tensor:
    """Logits of all patches now: those scored anew, and the others as they have likely become.

    While the encoder learns, all logits move; how, is told by the patches that were drawn: theirs
    before and now give a line for each row (least squares), on which the others are moved along.

    Args:
        before_JN: logits kept of the epoch before.
        anew: which were scored anew.
        now_JK: their logits.

    Returns:
        f32[J, N].
    """
    logits_JN = before_JN.clone()
    if len(anew.drawn):
        x = before_JN[:, anew.chosen[anew.drawn]].double()
        y = now_JK[:, anew.drawn].double()
        x_mean, y_mean = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
        slope = torch.ones_like(x_mean)
        if len(anew.drawn) >= _ENOUGH_FOR_A_SLOPE:
            covariance = ((x - x_mean) * (y - y_mean)).sum(1, keepdim=True)
            spread = (x - x_mean).square().sum(1, keepdim=True)
            # where before says nothing of now, or the contrary, the others are all alike
            slope = (covariance / spread).nan_to_num(0, 0, 0).clamp_min(0)
        logits_JN = (y_mean + slope * (before_JN - x_mean)).float()
    logits_JN[:, anew.chosen] = now_JK
    return logits_JN
