"""Heads that read Z and classify the slide, by the name that a config gives them.

A head takes any grid with holes: ``forward(block: ZBlock) -> logits [B, C]``, and is made by
``Head(dim, num_classes, dropout=...)``. Those that are a :class:`DenseHead` can tell patches apart
too: ``dense(block) -> logits [B, N, K]``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from wsi_hr.models.heads.abmil import ABMILHead
from wsi_hr.models.heads.abmilx import ABMILXHead
from wsi_hr.models.heads.attention import AttentionHead
from wsi_hr.models.heads.cnn import CNNHead
from wsi_hr.models.heads.transformer import TransformerHead
from wsi_hr.models.heads.window import WindowHead

HEADS: dict[str, Callable[..., nn.Module]] = {
    "attention": AttentionHead,
    "cnn": CNNHead,
    "abmil": ABMILHead,
    "abmilx": ABMILXHead,
    "transformer": TransformerHead,
    "window": WindowHead,
}
