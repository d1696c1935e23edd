"""Each vector's share of what a head decides, by integrated gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Letters: U vectors of Z, D embedding, C classes.

_PATH_STEPS = 32  # of the integral; each is a pass of the head alone


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
            logits_C = head(leaf)
            others = torch.arange(len(logits_C), device=logits_C.device) != top
            margin = logits_C[top] - logits_C[others].logsumexp(0)
            total_UD += torch.autograd.grad(margin, leaf)[0]
    return (away_UD * total_UD).sum(1) / _PATH_STEPS
