"""Settings of the encoder and of every method; the method's are told apart by ``name``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

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
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on a GPU that has it, else float32"
    )
    compile: bool = Field(
        False, description="compile the network of the scan (torch.compile; minutes at first)"
    )


class IPSConfig(Frozen):
    """Iterative patch selection (METHODS: IPS): DBPS without sub-salient patches."""

    name: Literal["ips"] = "ips"
    num_salient: int = Field(16, ge=1, description="M: patches trained with gradient")
    scan_chunk: int = Field(32, ge=1, description="I: patches scored at a time")
    score: Literal["paper", "global"] = Field(
        "paper", description="paper: softmax over buffer + chunk; global: over all patches"
    )
    selection: Literal["hard", "half_sampled"] = Field(
        "hard",
        description="while training, hard: the M best; half_sampled: half drawn among these, half "
        "among all others",
    )
    scan_scale: float = Field(1.0, description="the scan sees patches at 1, 0.5 or 0.25 scale")
    scan_refresh: float = Field(
        1.0,
        gt=0,
        le=1,
        description="part of the patches an epoch scores anew, beside the best; 1: all of them",
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

    @field_validator("scan_scale")
    @classmethod
    def _halves(cls, scale: float) -> float:
        if scale not in (1.0, 0.5, 0.25):
            raise ValueError("must be 1, 0.5 or 0.25")
        return scale

    @model_validator(mode="after")
    def _refresh_what_is_comparable(self) -> Self:
        if self.scan_refresh < 1 and self.score == "paper":
            raise ValueError(
                "scan_refresh below 1 keeps scores across epochs, which only global ones can be; "
                "set method.score=global"
            )
        return self


class DBPSConfig(IPSConfig):
    """Dual-buffer patch selection (METHODS: DBPS)."""

    name: Literal["dbps"] = "dbps"  # pyright: ignore[reportIncompatibleVariableOverride]
    num_sub_salient: int | None = Field(
        32, ge=0, description="S: patches seen without gradient; null: all others"
    )
    aggregation: Literal["dual", "concat"] = Field(
        "dual",
        description="dual: sub-salient seen in the light of salient; concat: both in one attention",
    )


class PatchGDConfig(Frozen):
    """Patch gradient descent (METHODS: PatchGD)."""

    name: Literal["patchgd"] = "patchgd"
    head: Literal["attention", "cnn"] = Field(
        "attention", description="the head that reads Z; all take any grid"
    )
    exact: bool = Field(
        False,
        description="the exact gradient of the whole slide, in the memory of one chunk, instead of "
        "sampled inner steps",
    )
    block: int | None = Field(
        None,
        ge=2,
        description="hierarchical Z: edge of the blocks of patches that are pooled into one vector "
        "each (cells); null: a vector per patch",
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

    @model_validator(mode="after")
    def _exact_visits_all(self) -> Self:
        if self.exact and (self.coverage < 1 or self.fill_mode == "train"):
            raise ValueError(
                "exact visits every patch, and sees it in the fill as in the gradient: coverage "
                "must be 1 and fill_mode eval"
            )
        return self


METHOD_CONFIGS: dict[str, type[Frozen]] = {
    "dbps": DBPSConfig,
    "ips": IPSConfig,
    "patchgd": PatchGDConfig,
}
DEFAULT_METHOD = "dbps"

MethodConfig = Annotated[DBPSConfig | IPSConfig | PatchGDConfig, Field(discriminator="name")]
