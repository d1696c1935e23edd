"""Settings of the samplers: which patches an epoch sees. Told apart by ``name``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, WrapSerializer

from wsi_hr.frozen import Frozen

_KEEP = "part of the patches that an epoch sees"


class SamplerSettings(Frozen):
    """What the settings of all samplers have in common."""

    @property
    def reads_attention(self) -> bool:
        """Whether the method's attention of the epoch before is asked for."""
        return False


class RandomDropConfig(SamplerSettings):
    """Keep a random part of the patches, anew every epoch."""

    name: Literal["random_drop"] = "random_drop"
    drop: float = Field(0.2, ge=0, lt=1, description="fraction of patches left out per epoch")


class WindowsConfig(SamplerSettings):
    """Keep what lies in a few square windows of the grid (Win-Win)."""

    name: Literal["windows"] = "windows"
    keep: float = Field(0.5, gt=0, le=1, description=f"{_KEEP}, about")
    num_windows: int = Field(2, ge=1, le=16, description="windows, which do not overlap")


class CheckerboardConfig(SamplerSettings):
    """Keep every other cell, the others in the next epoch."""

    name: Literal["checkerboard"] = "checkerboard"


class LeastSimilarConfig(SamplerSettings):
    """Keep the patches whose colours are least like those of the others."""

    name: Literal["least_similar"] = "least_similar"
    keep: float = Field(0.5, gt=0, le=1, description=_KEEP)
    temperature: float = Field(
        0.02, ge=0, description="tau of the draw; 0: the least similar, without drawing"
    )
    max_artifact: float = Field(
        0.05, ge=0, le=1, description="patches with more artifact (fraction) come last"
    )


class AttentionConfig(SamplerSettings):
    """Draw patches by attention: the method's own of the epoch before, or a thumbnail ViT's."""

    name: Literal["attention"] = "attention"
    keep: float = Field(0.5, gt=0, le=1, description=_KEEP)
    aggregate: Literal["entropy", "mean", "sum"] = Field(
        "mean", description="over the heads; mean and sum draw alike"
    )
    source: Literal["scan", "thumbnail"] = Field(
        "scan",
        description="scan: the method's attention of the epoch before; thumbnail: that of a "
        "vision transformer on the slide's thumbnail",
    )
    vit: str = Field(
        "vit_small_patch14_dinov2.lvd142m",
        min_length=1,
        description="a timm vision transformer with a class token, for source thumbnail",
    )
    vit_weights: str = Field(
        "pretrained", min_length=1, description="pretrained (timm's), or a local weights file"
    )

    @property
    def reads_attention(self) -> bool:
        """Whether the method's attention of the epoch before is asked for."""
        return self.source == "scan"


class LearnedConfig(SamplerSettings):
    """Keep what a small network expects the method's attention to rank highest."""

    name: Literal["learned"] = "learned"
    keep: float = Field(0.5, gt=0, le=1, description=_KEEP)
    random: float = Field(
        0.2, ge=0, le=1, description="part of the kept that is drawn at random from the rest"
    )
    momentum: float = Field(
        0.5, ge=0, lt=1, description="how much of the teacher stays from epoch to epoch"
    )
    lr: float = Field(1e-3, gt=0, description="learning rate of the small network")

    @property
    def reads_attention(self) -> bool:
        """Whether the method's attention of the epoch before is asked for."""
        return True


SAMPLER_CONFIGS: dict[str, type[SamplerSettings]] = {
    "random_drop": RandomDropConfig,
    "windows": WindowsConfig,
    "checkerboard": CheckerboardConfig,
    "least_similar": LeastSimilarConfig,
    "attention": AttentionConfig,
    "learned": LearnedConfig,
}
DEFAULT_SAMPLER = "random_drop"

SamplerConfig = Annotated[
    RandomDropConfig
    | WindowsConfig
    | CheckerboardConfig
    | LeastSimilarConfig
    | AttentionConfig
    | LearnedConfig,
    Field(discriminator="name"),
]


def _as_list(value: Any) -> Any:
    """One sampler is a list of one; a mapping without a name means the default sampler."""
    several = value if isinstance(value, list | tuple) else [value]
    return [
        {"name": DEFAULT_SAMPLER, **one} if isinstance(one, Mapping) else one for one in several
    ]


def _alone(value: Sequence[Any], dump: SerializerFunctionWrapHandler) -> Any:
    """A list of one is written as that one."""
    dumped = dump(value)
    return dumped[0] if len(dumped) == 1 else dumped


SamplerChain = Annotated[
    tuple[SamplerConfig, ...],
    BeforeValidator(_as_list),
    WrapSerializer(_alone),
]
"""One sampler, or several applied one after the other."""
