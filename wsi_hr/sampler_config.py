"""Settings of the samplers: which patches an epoch sees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wsi_hr.frozen import Frozen


class RandomDropConfig(Frozen):
    """Keep a random part of the patches, anew every epoch; training only."""

    name: Literal["random_drop"] = "random_drop"
    drop: float = Field(0.2, ge=0, lt=1, description="fraction of patches left out per epoch")
