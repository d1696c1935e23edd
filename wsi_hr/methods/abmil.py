"""Attention MIL over the features of a frozen encoder: what most slide classifiers are today.

Source: Ilse et al., ICML 2018; CLAM, Lu et al., 2021. The encoder learns nothing, so its features
are computed once a slide, and kept for all epochs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsi_hr.bags.bag import Bag
from wsi_hr.errors import TrainingError
from wsi_hr.geometry import Int64Array
from wsi_hr.method_config import ABMILConfig
from wsi_hr.methods.exact import randomness_of
from wsi_hr.methods.feature_files import FeatureFiles, FloatArray
from wsi_hr.methods.method import Method, StepContext, Update
from wsi_hr.methods.shares import rank_roles
from wsi_hr.models.encoder import Encoder, embed_packed, frozen
from wsi_hr.models.heads.abmil import ABMILHead, join_parts
from wsi_hr.slide_prediction import SlidePrediction

# Letters: B slides, N patches of a slide, K patches, D embedding, C classes, P parts of a slide,
# W width of the head, V = 1 + W.

_Reader = Callable[[Int64Array], Tensor]

_DTYPES = {"f16": np.float16, "f32": np.float32}


class ABMIL(Method):
    """A head that learns over features that do not.

    A slide is read a part at a time, once without gradient and once with it, as for the exact
    gradient of :mod:`wsi_hr.methods.exact`: memory is that of ``chunk`` features, whatever N is.
    """

    def __init__(
        self, config: ABMILConfig, encoder: Encoder, class_weights: Sequence[float]
    ) -> None:
        super().__init__(encoder, class_weights)
        self.config = config
        self.head = ABMILHead(
            encoder.dim,
            self.num_classes,
            dropout=config.dropout,
            attention=config.attention,
            width=config.width,
        )
        self.encoder.requires_grad_(False)
        self.encoder.eval()
        self._files: FeatureFiles | None = None
        self._encoder_digest: bytes | None = None

    @property
    def min_patches(self) -> int:
        """One."""
        return 1

    def train(self, mode: bool = True) -> ABMIL:
        """As ``nn.Module.train``, but the encoder stays in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def keep_in(self, folder: Path) -> None:
        """Keep features in ``folder``; without one they are computed each time."""
        self._files = FeatureFiles(folder, _DTYPES[self.config.features])

    @property
    def less_memory(self) -> str:
        """See :meth:`wsi_hr.methods.method.Method.less_memory`."""
        return "lower method.chunk"

    def train_bags(self, bags: Sequence[Bag], update: Update, context: StepContext) -> float:
        """One optimiser step, a backward pass a slide; the gradient is that of the whole batch."""
        total = 0.0
        for bag in bags:
            read, parts = self._reader(bag), self._parts(len(bag))
            seed = int(context.rng(bag.slide_id).integers(2**62))
            leaf_PV = self._pooled(read, parts, seed).requires_grad_()
            z_W = join_parts([(each[0], each[1:]) for each in leaf_PV])
            loss = self._loss(self.head.classifier(z_W)[None], [bag]) / len(bags)
            update.backward(loss)
            assert leaf_PV.grad is not None, "the classifier reads every part"
            for n, part in enumerate(parts):
                update.backward_from(self._pool(read, part, seed + n), leaf_PV.grad[n])
            total += float(loss.detach())
        update.step()
        return total

    def _pooled(self, read: _Reader, parts: Sequence[Int64Array], seed: int) -> Tensor:
        """:meth:`_pool` of every part [P, V], without gradient."""
        # one block for all: small tensors kept alive between large ones would fragment the heap
        pooled_PV = self.head.classifier.weight.new_empty(len(parts), 1 + self.config.width)
        with torch.no_grad():
            for n, part in enumerate(parts):
                pooled_PV[n] = self._pool(read, part, seed + n)
        return pooled_PV

    def _pool(self, read: _Reader, part: Int64Array, seed: int) -> Tensor:
        """What the head says of a part [1 + W]: the logsumexp of its scores, then z over it."""
        with randomness_of(self.encoder.device, seed):
            lse, z_W = self.head.pool_part(read(part))
        return torch.cat([lse[None], z_W])

    def predict_bag(self, bag: Bag) -> SlidePrediction:
        """The attention over all N patches is their saliency, and sums to 1."""
        logits_N = torch.empty(len(bag))
        with frozen(self):
            read = self._reader(bag)
            parts = []
            for part in self._parts(len(bag)):
                features_KD = read(part)
                parts.append(self.head.pool_part(features_KD))
                logits_N[part] = self.head.attention_logits(features_KD).float().cpu()
            logits_C = self.head.classifier(join_parts(parts))
        score_N = logits_N.softmax(0)
        role = rank_roles(score_N, self.config.num_salient, self.config.num_sub_salient)
        probs = logits_C.softmax(0).cpu().numpy()
        return SlidePrediction(bag.slide_id, probs, score_N.numpy(), role, bag.grid)

    def _parts(self, num: int) -> list[Int64Array]:
        size = self.config.chunk
        return [np.arange(first, min(first + size, num)) for first in range(0, num, size)]

    def _reader(self, bag: Bag) -> _Reader:
        """Gives features [K, D] of patches at positions of ``bag``, kept or computed."""
        if self._files is None:
            return lambda part: self._to_device(np.concatenate([*self._embed(bag, part)]))
        everything = Bag.of(bag.source)
        made_from = self._made_from(everything)
        rows = self._files.find(bag.slide_id, made_from)
        if rows is None:
            shape = (len(everything), self.encoder.dim)
            rows = self._files.write(bag.slide_id, made_from, shape, self._embed(everything))
        where = np.searchsorted(everything.indices, bag.indices)
        return lambda part: self._to_device(rows.read(where[part]))

    def _embed(self, bag: Bag, positions: Int64Array | None = None) -> Iterator[FloatArray]:
        """Features as they are kept, also where nothing is: rounding is part of the method."""
        wanted = None if positions is None else [positions]
        for _, _, embedding_KD in embed_packed(self.encoder, [bag], wanted):
            with np.errstate(over="ignore"):
                values = embedding_KD.float().cpu().numpy().astype(_DTYPES[self.config.features])
            if not np.isfinite(values).all():
                raise TrainingError(
                    f"{bag.slide_id}: the encoder's features are no numbers as "
                    f"method.features {self.config.features} keeps them; try f32, or other weights"
                )
            yield values

    def _to_device(self, rows_KD: FloatArray) -> Tensor:
        return torch.from_numpy(rows_KD).to(self.head.classifier.weight)

    def _made_from(self, everything: Bag) -> bytes:
        """What features depend on: the encoder, and which patches they are of."""
        if self._encoder_digest is None:
            facts = (self.encoder.chunk, self.config.features, self.encoder.decodes)
            digest = hashlib.sha256(repr(facts).encode())
            for name, tensor in sorted(self.encoder.state_dict().items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            self._encoder_digest = digest.digest()
        patches = np.ascontiguousarray(everything.grid.coords)
        return self._encoder_digest + everything.indices.tobytes() + patches.tobytes()
