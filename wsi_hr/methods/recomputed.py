"""Embeddings whose activations are not kept: computed again for the gradient, or moved to the host.

Source: activation checkpointing (Chen et al., arXiv 1604.06174) as torch has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from wsi_hr.models.encoder import Encoder
from wsi_hr.store.jpeg_patches import Patches

# Letters: K patches, P patch edge, D embedding.


def embed_checkpointed(encoder: Encoder, patches_KPP3: Patches, num_chunks: int) -> Tensor:
    """Embed [K, D] in chunks, each of which is computed again when its gradient is asked.

    Randomness is replayed, so dropout is the same both times. Batch norm in train mode sees a chunk
    at a time, and counts it into its running statistics once.
    """
    parts = np.array_split(np.arange(len(patches_KPP3)), min(num_chunks, len(patches_KPP3)))
    embedded = [
        checkpoint(
            encoder,
            patches_KPP3[part[0] : part[-1] + 1],
            use_reentrant=False,
            preserve_rng_state=True,
            context_fn=lambda: (nullcontext(), _statistics_kept(encoder)),
        )
        for part in parts
    ]
    return torch.cat(embedded)


def offloaded(device: torch.device) -> AbstractContextManager[None]:
    """What is kept for the gradient inside this context lies in the host's memory."""
    return save_on_cpu(pin_memory=device.type == "cuda")


@contextmanager
def _statistics_kept(encoder: nn.Module) -> Iterator[None]:
    """Batch norms use their batch as in train mode, but leave their running statistics alone."""
    norms = [
        module
        for module in encoder.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    before = [(norm, norm.momentum, _count(norm)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # the batch's part in the new running statistics
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)


def _count(norm: nn.modules.batchnorm._BatchNorm) -> Tensor | None:
    return None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
