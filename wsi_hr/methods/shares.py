"""What each patch adds to the answer of a model that reads all embeddings of a slide at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wsi_hr.geometry import UInt8Array
from wsi_hr.slide_prediction import Role

# Letters: N patches of a slide, D embedding, C classes.

_PATH_STEPS = 32  # of the integral; each is a pass of the head alone


def margin(logits_C: Tensor, top: int) -> Tensor:
    """By how much class ``top`` is ahead of all others together, []."""
    others = torch.arange(len(logits_C), device=logits_C.device) != top
    return logits_C[top] - logits_C[others].logsumexp(0)


def integrated_shares(logits_of: Callable[[Tensor], Tensor], z_ND: Tensor, top: int) -> Tensor:
    """Integrated gradients [N] of the margin of class ``top`` (midpoint rule).

    The path begins at a slide whose patches are all this slide's mean one: the shares of all
    patches sum up to what the margin gains over that slide. Source: Sundararajan et al., ICML 2017;
    a plain gradient would vanish where the model is certain.

    Args:
        logits_of: class logits [C] of embeddings [N, D]; differentiable.
        z_ND: the slide's embeddings.
        top: the class.
    """
    mean_D = z_ND.mean(0)
    away_ND = z_ND - mean_D
    total_ND = torch.zeros_like(z_ND)
    for step in range(_PATH_STEPS):
        part = (step + 0.5) / _PATH_STEPS
        with torch.enable_grad():
            leaf = (mean_D + part * away_ND).requires_grad_()
            total_ND += torch.autograd.grad(margin(logits_of(leaf), top), leaf)[0]
    return (away_ND * total_ND).sum(1) / _PATH_STEPS


def rank_roles(score_N: Tensor, num_salient: int, num_sub_salient: int) -> UInt8Array:
    """A role u8[N] per patch: the highest scores are salient, the next ones sub-salient."""
    order = score_N.argsort(descending=True, stable=True).cpu().numpy()
    role = np.full(len(order), Role.BACKGROUND, np.uint8)
    role[order[:num_salient]] = Role.SALIENT
    role[order[num_salient : num_salient + num_sub_salient]] = Role.SUB_SALIENT
    return role
