"""Self-distillation: the model's own attention teaches a small network where to look."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wsi_hr.geometry import Float32Array, Int64Array
from wsi_hr.models.encoder import frozen
from wsi_hr.models.patch_scorer import PatchScorer
from wsi_hr.runtime import seed_for
from wsi_hr.sampler_config import LearnedConfig
from wsi_hr.samplers.features import NUM_FEATURES
from wsi_hr.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer

# Letters: N patches of the slide, J rows of attention (heads x queries), F features.

_SCORER, _OPTIMIZER = "sampler.", "sampler_"
_CLIP_NORM = 1.0


class Distillation:
    """The small network and its training; its state belongs in the checkpoint.

    Args:
        config: learning rate.
        seed: of the study; the first weights follow from it and leave torch's generator alone.
        device: where the model is.
    """

    def __init__(self, config: LearnedConfig, seed: int, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "scorer"))
            self.scorer = PatchScorer(NUM_FEATURES).to(device)
        self._device = device
        self._optimizer = torch.optim.AdamW(self.scorer.parameters(), lr=config.lr)

    def learn(
        self, features_NF: Float32Array, cells_N2: Int64Array, teacher_N: Float32Array
    ) -> float:
        """One step down the divergence KL(teacher || softmax of scores) of one slide.

        Args:
            features_NF: of all its patches.
            cells_N2: where they lie.
            teacher_N: attention of each patch, NaN where it is not known; these do not count.

        Returns:
            The divergence before the step.
        """
        known = torch.from_numpy(~np.isnan(teacher_N)).to(self._device)
        target = torch.from_numpy(teacher_N).to(self._device)[known]
        target = target / target.sum()
        scores_N = self._scores(features_NF, cells_N2)
        loss = nn.functional.kl_div(scores_N[known].log_softmax(0), target, reduction="sum")
        loss.backward()
        nn.utils.clip_grad_norm_(self.scorer.parameters(), _CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def scores(self, features_NF: Float32Array, cells_N2: Int64Array) -> Float32Array:
        """f32[N], the higher the more attention is expected."""
        with frozen(self.scorer):
            return self._scores(features_NF, cells_N2).cpu().numpy()

    def _scores(self, features_NF: Float32Array, cells_N2: Int64Array) -> Tensor:
        features, cells = torch.from_numpy(features_NF), torch.from_numpy(cells_N2)
        return self.scorer(features.to(self._device), cells.to(self._device))

    def tensors(self) -> dict[str, Tensor]:
        """Weights and the optimiser's state under names of their own, for a checkpoint."""
        weights = {f"{_SCORER}{name}": t for name, t in self.scorer.state_dict().items()}
        state = optimizer_tensors(self._optimizer)
        return weights | {f"{_OPTIMIZER}{name}": tensor for name, tensor in state.items()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take both from a checkpoint."""
        tensors = checkpoint.tensors
        self.scorer.load_state_dict(
            {k.removeprefix(_SCORER): t for k, t in tensors.items() if k.startswith(_SCORER)}
        )
        state = {
            k.removeprefix(_OPTIMIZER): t for k, t in tensors.items() if k.startswith(_OPTIMIZER)
        }
        restore_optimizer(self._optimizer, Checkpoint(state, checkpoint.meta))


def smoothed(
    before_N: Float32Array | None, logits_JN: Float32Array, momentum: float
) -> Float32Array:
    """The teacher: attention of each patch, averaged over the epochs with exponential weights.

    An epoch's attention is the mean over rows of the softmax over the patches it looked at. What
    it did not look at (NaN) keeps its average, and the others share what they had together.

    Args:
        before_N: f32[N] of the epoch before, NaN where never looked at; None: there is none.
        logits_JN: f32[J, N] of this epoch.
        momentum: how much of the average stays.
    """
    seen = ~np.isnan(logits_JN).any(axis=0)
    teacher = np.full(logits_JN.shape[1], np.nan) if before_N is None else before_N.astype(float)
    if not seen.any():
        return teacher.astype(np.float32)
    logits = logits_JN[:, seen].astype(np.float64)
    attention = np.exp(logits - logits.max(axis=1, keepdims=True))
    now = (attention / attention.sum(axis=1, keepdims=True)).mean(axis=0)
    old = teacher[seen]
    now *= np.nansum(old) or 1.0
    teacher[seen] = np.where(np.isnan(old), now, momentum * old + (1 - momentum) * now)
    return teacher.astype(np.float32)
