"""Iterative patch selection: one buffer of salient patches, and nothing of the others.

Source: IPS (Bergner et al., ICLR 2023; METHODS section 1). It is DBPS whose second buffer has no
room, exactly, and is written as that.
"""

from __future__ import annotations

from collections.abc import Sequence

from wsi_hr.method_config import DBPSConfig, IPSConfig
from wsi_hr.methods.dbps import DBPS
from wsi_hr.models.encoder import Encoder


class IPS(DBPS):
    """Scan all patches without gradient, keep the best, learn from them."""

    def __init__(self, config: IPSConfig, encoder: Encoder, class_weights: Sequence[float]) -> None:
        shared = config.model_dump(exclude={"name"})
        super().__init__(DBPSConfig(num_sub_salient=0, **shared), encoder, class_weights)
