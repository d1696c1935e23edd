"""Settings of the encoder and of every method; the method's are told apart by ``name``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wsi_hr.frozen import Frozen

BACKGROUND = "background"
"""The class of a patch that no annotation covers enough of."""


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


_HEADS_WITH = {
    "heads": ("attention", "transformer", "window"),
    "layers": ("window",),
    "positions": ("transformer",),
}
"""Settings that only some heads of PatchGD read, and which."""


class PatchGDConfig(Frozen):
    """Patch gradient descent (METHODS: PatchGD)."""

    name: Literal["patchgd"] = "patchgd"
    head: Literal["attention", "cnn", "transformer", "window"] = Field(
        "attention", description="the head that reads Z; all take any grid"
    )
    heads: int | None = Field(
        None, ge=1, description="heads of its attention; null: 8 (attention), 2 of 192 "
        "(transformer), 3 of 64 (window)"
    )  # fmt: skip
    layers: int | None = Field(None, ge=1, description="layers of the window head; null: 2")
    positions: bool | None = Field(
        None, description="the transformer head sees row and column of a patch; null: it does not"
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
    def _read_by_the_head(self) -> PatchGDConfig:
        for name in self.head_settings:
            if self.head not in _HEADS_WITH[name]:
                raise ValueError(
                    f"{name} is for head {' or '.join(_HEADS_WITH[name])}, not for {self.head}"
                )
        return self

    @property
    def head_settings(self) -> dict[str, int]:
        """What of the head's own settings is given, by name."""
        given = {name: getattr(self, name) for name in _HEADS_WITH}
        return {name: value for name, value in given.items() if value is not None}


class DenseConfig(Frozen):
    """Classes of patches, learned from annotations beside the slides' classes."""

    classes: tuple[str, ...] = Field(
        (), description="annotation classes that count; []: all that are found"
    )
    min_cover: float = Field(
        0.5, gt=0, le=1, description="a patch has the class that covers at least this much of it"
    )
    weight: float = Field(1.0, ge=0, description="of the patches' loss beside the slides'")
    balanced: bool = Field(
        True, description="every class counts alike in the loss of a slide, however rare it is"
    )
    unannotated: Literal["ignore", "background"] = Field(
        "ignore", description="patches of slides without a file: not learned from, or background"
    )

    @model_validator(mode="after")
    def _each_class_once(self) -> DenseConfig:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes must all differ")
        if BACKGROUND in self.classes:
            raise ValueError(f"{BACKGROUND} is there of itself, for what no class covers")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The classes of patches by number: background first."""
        return (BACKGROUND, *self.classes)


METHOD_CONFIGS: dict[str, type[DBPSConfig] | type[PatchGDConfig]] = {
    "dbps": DBPSConfig,
    "patchgd": PatchGDConfig,
}
DEFAULT_METHOD = "dbps"

MethodConfig = Annotated[DBPSConfig | PatchGDConfig, Field(discriminator="name")]
