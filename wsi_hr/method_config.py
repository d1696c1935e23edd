"""Settings of the encoder and of every method; the method's are told apart by ``name``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wsi_hr.frozen import Frozen


class EncoderConfig(Frozen):
    """The network that embeds one patch."""

    name: str = Field("resnet18", min_length=1, description="a timm model name")
    weights: str = Field(
        "none", description="none (from scratch), pretrained (timm's), or a local weights file"
    )
    freeze_bn: bool = Field(
        False, description="keep batch norm on its running statistics while training"
    )
    chunk: int = Field(64, ge=1, description="patches embedded at a time without gradient")


class DBPSConfig(Frozen):
    """Dual-buffer patch selection (METHODS: DBPS). ``num_sub_salient: 0`` is IPS."""

    name: Literal["dbps"] = "dbps"
    num_salient: int = Field(16, ge=1, description="M: patches trained with gradient")
    num_sub_salient: int = Field(32, ge=0, description="S: patches seen without gradient")
    scan_chunk: int = Field(32, ge=1, description="I: patches scored at a time")
    score: Literal["paper", "global"] = Field(
        "paper", description="paper: softmax over buffer + chunk; global: over all patches"
    )
    heads: int = Field(8, ge=1, description="attention heads; must divide the embedding width")
    positions: bool = Field(False, description="add a sinusoidal code of the grid cell")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout in the attention block")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden width of the MLP, in embedding widths")
    explore: Literal["none", "random", "half_sampled"] = Field(
        "random", description="how gradient patches are chosen in the first epochs"
    )
    explore_epochs: float = Field(0.4, ge=0, le=1, description="part of the epochs that explore")
    explore_patches: int = Field(64, ge=1, description="gradient patches while explore is random")


class PatchGDConfig(Frozen):
    """Patch gradient descent (METHODS: PatchGD)."""

    name: Literal["patchgd"] = "patchgd"
    head: Literal["attention", "cnn"] = Field(
        "attention", description="the head that reads Z; both take any grid"
    )
    sample: float = Field(
        0.5, gt=0, le=1, description="fraction of a slide's patches drawn per inner step (K / N)"
    )
    max_sampled: int = Field(256, ge=1, description="at most this many patches per inner step (K)")
    coverage: float = Field(
        1.0, gt=0, le=1, description="part of a slide visited with gradient per outer step"
    )
    accumulate: int | None = Field(
        1, ge=1, description="epsilon: inner steps per optimiser step; null: all of them"
    )
    fill_mode: Literal["eval", "train"] = Field("eval", description="batch norm while Z is filled")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout in the head")
    num_salient: int = Field(16, ge=1, description="patches a prediction marks salient")
    num_sub_salient: int = Field(32, ge=0, description="patches it marks sub-salient, after those")


METHOD_CONFIGS: dict[str, type[DBPSConfig] | type[PatchGDConfig]] = {
    "dbps": DBPSConfig,
    "patchgd": PatchGDConfig,
}
DEFAULT_METHOD = "dbps"
GIVE_ATTENTION = ("dbps",)
"""Methods that keep what they looked at for the next epoch, which some samplers ask for."""

MethodConfig = Annotated[DBPSConfig | PatchGDConfig, Field(discriminator="name")]
