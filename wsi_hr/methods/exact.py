"""The exact gradient of whole slides, of any number of patches, in the memory of one chunk.

Fill Z without gradient, let the head say how the loss depends on every vector of Z, then embed the
patches again, chunk by chunk, and push these gradients through the encoder: four passes of the
encoder's cost instead of three, and no activation kept longer than its chunk. Sources: gradient
caching (Gao et al. 2021, arXiv 2101.06983); for attention MIL on small images Andersson et al. 2022
(arXiv 2203.03981); for any head and slides streamed from a store: METHODS section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from wsi_hr.errors import ConfigError
from wsi_hr.methods.method import Update
from wsi_hr.methods.units import Units, span_of
from wsi_hr.models.encoder import ChunkMemoryError, Encoder
from wsi_hr.models.norm_stats import has_statistics, norms_of

# Letters: B slides, U units of a slide, D embedding.


def require_exact(encoder: Encoder) -> None:
    """See that a patch's embedding is the same in whatever chunk it stands.

    Raises:
        ConfigError: it is not, and why.
    """
    for name, norm in norms_of(encoder.net).items():
        why = (
            f"method.exact: {name} of the encoder is a batch norm, which makes a patch's embedding "
            "depend on the other patches of its chunk, so the gradient would not be exact; "
        )
        if not has_statistics(norm):
            raise ConfigError(
                f"{why}it keeps no statistics that it could be frozen on: set encoder.norm=group, "
                "or choose another encoder"
            )
        if not encoder.norms_are_frozen:
            raise ConfigError(
                f"{why}set encoder.norm_stats=recalibrate, or running where weights are loaded, or "
                "choose an encoder without batch norm"
            )


def exact_backward(
    units: Sequence[Units],
    encoder: Encoder,
    loss_of: Callable[[list[Tensor]], Tensor],
    seeds: Sequence[int],
    update: Update,
    on_gradient: Callable[[list[Tensor]], None] = lambda _: None,
) -> Tensor:
    """Accumulate the gradient of a batch's loss by all weights.

    The encoder is in train mode, in the fill as in the second pass: dropout and stochastic depth
    are the same in both, as their randomness is drawn from a seed per chunk.

    Args:
        units: of every slide.
        encoder: embeds.
        loss_of: the loss of Z [U, D] of every slide.
        seeds: of every slide's randomness in this step.
        update: accumulates.
        on_gradient: told Z of every slide, the gradient in its ``grad``.

    Returns:
        The loss, detached.

    Raises:
        ChunkMemoryError: the device's memory is too small for a chunk; what was accumulated is to
            be thrown away, and all of it done again with a smaller one.
    """
    with encoder.folded(update.backward_from):
        leaves = [
            _fill(slide, encoder, seed).requires_grad_()
            for slide, seed in zip(units, seeds, strict=True)
        ]
        loss = loss_of(leaves)
        update.backward(loss)
        on_gradient(leaves)
        for slide, seed, leaf in zip(units, seeds, leaves, strict=True):
            assert leaf.grad is not None, "the head reads every vector of Z"
            for number, (group, pixels) in enumerate(slide.stream(slide.groups())):
                with randomness_of(encoder.device, seed + number):
                    vectors, _ = slide.vectors(group, encoder.embed_padded(pixels))
                try:
                    update.backward_from(vectors, leaf.grad[span_of(group)])
                except torch.OutOfMemoryError as cause:
                    raise ChunkMemoryError(str(cause)) from cause
    return loss.detach()


def _fill(slide: Units, encoder: Encoder, seed: int) -> Tensor:
    """Z [U, D], without gradient."""
    z_UD = encoder.scale.new_empty(len(slide), encoder.dim)
    with torch.no_grad():
        for number, (group, pixels) in enumerate(slide.stream(slide.groups())):
            with randomness_of(encoder.device, seed + number):
                z_UD[span_of(group)] = slide.vectors(group, encoder.embed_padded(pixels))[0]
    return z_UD


@contextmanager
def randomness_of(device: torch.device, seed: int) -> Iterator[None]:
    """Torch's randomness from ``seed`` inside; outside it goes on as if nothing had been drawn."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
