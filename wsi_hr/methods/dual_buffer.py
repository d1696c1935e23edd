"""The two buffers of DBPS, filled in one pass over a stream of scored patches.

A patch is scored by the mean, over heads and queries, of the softmax over the *live set* it
competes in. The score is taken in float64 and compared as float32, ties going to the lower index:
softmax kernels give bit-different results to equal logits at different places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Letters: M salient, S sub-salient, I patches per chunk, D embedding, L live set,
# J = heads x queries.


_FEW_LOGITS = 1 << 17


@dataclass(frozen=True)
class Candidates:
    """Patches that compete: index i64[L], embedding [L, D], cached logits [J, L]."""

    index: Tensor
    embedding: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def take(self, which: Tensor | slice) -> Candidates:
        """Those at ``which``, in that order."""
        return Candidates(self.index[which], self.embedding[which], self.logits[:, which])

    def __add__(self, other: Candidates) -> Candidates:
        return Candidates(
            torch.cat([self.index, other.index]),
            torch.cat([self.embedding, other.embedding]),
            torch.cat([self.logits, other.logits], 1),
        )


@dataclass(frozen=True)
class DualBuffer:
    """What the scan kept.

    Attributes:
        salient: P_M, at most M patches, most salient first.
        sub_salient: P_S, at most S patches, most salient first; empty where nothing was left.
    """

    salient: Candidates
    sub_salient: Candidates


def score(logits_JL: Tensor) -> Tensor:
    """Mean over J of the softmax over L, float32[L]."""
    if logits_JL.numel() < _FEW_LOGITS:
        return logits_JL.double().softmax(1).mean(0).float()
    total_L = torch.zeros_like(logits_JL[0], dtype=torch.float64)
    for row_L in logits_JL:  # all rows in float64 at a time would be most of a large slide's memory
        total_L += row_L.double().softmax(0)
    return (total_L / len(logits_JL)).float()


def ranked(candidates: Candidates) -> Candidates:
    """The same candidates by falling score over this set, ties by index."""
    by_index = candidates.index.argsort()
    by_score = score(candidates.logits[:, by_index]).argsort(descending=True, stable=True)
    return candidates.take(by_index[by_score])


def select_global(
    everything: Candidates,
    num_salient: int,
    num_sub_salient: int,
    rng: np.random.Generator | None = None,
) -> DualBuffer:
    """Both buffers from all N patches at once: independent of chunks and of patch order.

    Nothing is drawn from ``rng``. Source: METHODS section 2, ``score: global``; the rest is ranked
    by the softmax over the rest.
    """
    return _split(ranked(everything), num_salient, num_sub_salient)


def half_by_rank(
    everything: Candidates, num_salient: int, num_sub_salient: int, rng: np.random.Generator
) -> DualBuffer:
    """Half of M by rank, the other half drawn by score among all the rest; then as global."""
    order = ranked(everything)
    certain = (num_salient + 1) // 2
    tail = order.take(slice(certain, None))
    return _split(order.take(slice(certain)) + _drawn(tail, rng), num_salient, num_sub_salient)


def half_sampled(
    everything: Candidates, num_salient: int, num_sub_salient: int, rng: np.random.Generator
) -> DualBuffer:
    """Half of M drawn by score inside the top M, the other half by score among all the others.

    Source: METHODS section 2, the later variant (training only).
    """
    order = ranked(everything)
    inside = _drawn(order.take(slice(num_salient)), rng)
    outside = _drawn(order.take(slice(num_salient, None)), rng)
    num_inside = max((num_salient + 1) // 2, num_salient - len(outside))
    first = inside.take(slice(num_inside))
    return _split(
        first + outside + inside.take(slice(num_inside, None)), num_salient, num_sub_salient
    )


def _drawn(patches: Candidates, rng: np.random.Generator) -> Candidates:
    """In the order of a draw by score without replacement (Gumbel top-k)."""
    gumbel = torch.from_numpy(rng.gumbel(size=len(patches))).to(patches.logits.device)
    return patches.take((score(patches.logits).double().log() + gumbel).argsort(descending=True))


def _split(order: Candidates, num_salient: int, num_sub_salient: int) -> DualBuffer:
    """The first M are salient; of the others, ranked among themselves, the first S sub-salient."""
    rest = ranked(order.take(slice(num_salient, None)))
    return DualBuffer(order.take(slice(num_salient)), rest.take(slice(num_sub_salient)))


class BufferScan:
    """Fills both buffers from a stream; memory is M + S + I patches whatever N is.

    The first M patches enter P_M unscored; then every chunk of I competes with P_M, and what falls
    out competes with P_S. Source: DBPS, CVPR 2025 (METHODS section 2); unlike the released code,
    P_S starts empty instead of with zero embeddings.
    """

    def __init__(self, num_salient: int, num_sub_salient: int, chunk: int) -> None:
        self.num_salient = num_salient
        self.num_sub_salient = num_sub_salient
        self.chunk = chunk
        self._salient: Candidates | None = None
        self._sub_salient: Candidates | None = None
        self._pending: Candidates | None = None

    def push(self, patches: Candidates) -> None:
        """Take the next patches of the stream, any number of them."""
        self._pending = self._pending + patches if self._pending else patches
        if self._salient is None:
            if len(self._pending) < self.num_salient:
                return
            self._salient = self._pending.take(slice(self.num_salient))
            self._pending = self._pending.take(slice(self.num_salient, None))
        while len(self._pending) >= self.chunk:
            self._compete(self._pending.take(slice(self.chunk)))
            self._pending = self._pending.take(slice(self.chunk, None))

    def finish(self) -> DualBuffer:
        """Score what is pending (the last chunk may be short) and return the buffers."""
        if self._pending is None:
            raise ValueError("no patch was pushed")
        if self._salient is None:
            everything = ranked(self._pending)
            return DualBuffer(everything, everything.take(slice(0)))
        if len(self._pending):
            self._compete(self._pending)
            self._pending = self._pending.take(slice(0))
        sub_salient = self._sub_salient
        if sub_salient is None:
            sub_salient = self._salient.take(slice(0))
        return DualBuffer(ranked(self._salient), sub_salient)

    def _compete(self, newcomers: Candidates) -> None:
        assert self._salient is not None
        live = ranked(self._salient + newcomers)
        self._salient = live.take(slice(self.num_salient))
        if self.num_sub_salient:
            fallen = live.take(slice(self.num_salient, None))
            rest = fallen if self._sub_salient is None else fallen + self._sub_salient
            self._sub_salient = ranked(rest).take(slice(self.num_sub_salient))
