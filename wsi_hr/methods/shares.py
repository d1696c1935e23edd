"""What each vector adds to what a head decides, and which patches that makes salient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wsi_hr.geometry import UInt8Array
from wsi_hr.slide_prediction import Role

# Letters: N patches, U vectors of Z, D embedding, C classes.

_PATH_STEPS = 32  # of the integral; each is a pass of the head alone


def margin(logits_C: Tensor, top: int) -> Tensor:
    """By how much class ``top`` is ahead of all others together, []."""
    others = torch.arange(len(logits_C), device=logits_C.device) != top
    return logits_C[top] - logits_C[others].logsumexp(0)


def margin_shares(head: Callable[[Tensor], Tensor], z_UD: Tensor, top: int) -> Tensor:
    """Integrated gradients [U] of the margin of class ``top`` over all others (midpoint rule).

    The path begins at a slide whose vectors are all this slide's mean one, so the shares of all
    vectors sum up to what the margin gains over that slide. A plain gradient would vanish where the
    model is certain. Source: Sundararajan et al., ICML 2017.

    Args:
        head: class logits [C] of Z [U, D].
        z_UD: the slide's Z.
        top: the class.
    """
    mean_D = z_UD.mean(0)
    away_UD = z_UD - mean_D
    total_UD = torch.zeros_like(z_UD)
    for step in range(_PATH_STEPS):
        part = (step + 0.5) / _PATH_STEPS
        with torch.enable_grad():
            leaf = (mean_D + part * away_UD).requires_grad_()
            total_UD += torch.autograd.grad(margin(head(leaf), top), leaf)[0]
    return (away_UD * total_UD).sum(1) / _PATH_STEPS


def log_relevance(z_UD: Tensor, gradient_UD: Tensor) -> Tensor:
    """Logits [U] whose softmax is how much the loss depends on each vector of a slide's Z.

    To first order: the gradient of the loss times how far the vector is from the slide's mean one,
    without its sign. One pass of the head, where :func:`margin_shares` takes many.
    """
    relevance_U = (gradient_UD * (z_UD - z_UD.mean(0))).sum(1).abs()
    return relevance_U.clamp_min(torch.finfo(relevance_U.dtype).tiny).log()


def rank_roles(score_N: Tensor, num_salient: int, num_sub_salient: int) -> UInt8Array:
    """A role u8[N] per patch: the highest scores are salient, the next ones sub-salient."""
    order = score_N.argsort(descending=True, stable=True).cpu().numpy()
    role = np.full(len(order), Role.BACKGROUND, np.uint8)
    role[order[:num_salient]] = Role.SALIENT
    role[order[num_salient : num_salient + num_sub_salient]] = Role.SUB_SALIENT
    return role
