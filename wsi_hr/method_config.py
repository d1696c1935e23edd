"""Settings of the encoder and of every method; the method's are told apart by ``name``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from wsi_hr.encoder_args import EncoderArgs
from wsi_hr.frozen import Frozen

HeadName = Literal["attention", "cnn", "abmil", "abmilx", "transformer", "window"]
Channels = tuple[float, float, float]
NormStats = Literal["running", "batch", "recalibrate"]
BACKGROUND = "background"
"""The class of a patch that no annotation covers enough of."""


class EncoderConfig(Frozen):
    """The network that embeds one patch."""

    name: str = Field(
        "resnet18",
        min_length=1,
        description="a timm model name; or, with weights, hf-hub:ORG/MODEL or local-dir:FOLDER",
    )
    weights: str = Field(
        "none", description="none (from scratch), pretrained (timm's), or a local weights file"
    )
    args: EncoderArgs = Field(
        EncoderArgs(),  # pyright: ignore[reportCallIssue]
        description="how timm builds it, e.g. {init_values: 1e-5}, see docs/encoders.md",
    )
    mean: Channels | None = Field(
        None, description="of pixels in 0..1, per channel; null: as timm says for the weights"
    )
    std: Channels | None = Field(None, description="likewise")
    cut: str | None = Field(
        None, description="last stage that is kept, e.g. layer3; null: the whole network"
    )
    norm: Literal["batch", "group"] = Field(
        "batch", description="group: every batch norm becomes a group norm, weights kept"
    )
    norm_stats: NormStats | None = Field(
        None,
        description="what batch norms normalise by while training; batch: the patches at hand; "
        "running: the statistics they came with; recalibrate: those of a fixed sample of training "
        "patches, renewed before each epoch; null: recalibrate for method.exact and for norms that "
        "are frozen without weights, running for abmil with weights, else batch",
    )
    norm_patches: int = Field(
        512, ge=2, description="patches of that sample; their pixels stay in memory"
    )
    freeze_bn: bool | None = Field(
        None, exclude=True, description="old name of norm_stats; true: running, or recalibrate "
        "where weights are none; false: batch"
    )  # fmt: skip
    chunk: int = Field(64, ge=1, description="patches embedded at a time without gradient")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: bfloat16 on a GPU that has it, not where it is emulated, else float32",
    )
    decode: Literal["auto", "cpu"] = Field(
        "auto", description="who decodes JPEG; auto: the GPU (nvJPEG) if the model is on one"
    )
    compile: bool = Field(
        False, description="compile the network of the scan (torch.compile; minutes at first)"
    )

    @field_validator("mean", "std")
    @classmethod
    def _of_0_to_1(cls, values: Channels | None, info: ValidationInfo) -> Channels | None:
        if values is None:
            return None
        if min(values) < 0 or (info.field_name == "std" and min(values) == 0):
            raise ValueError("must be of pixels in 0..1")
        if max(values) > 1:
            by_255 = ", ".join(f"{value / 255:.4g}" for value in values)
            hint = f", which would be [{by_255}]" if max(values) <= 255 else ""
            raise ValueError(f"is of pixels in 0..1; divide numbers of 0..255 by 255{hint}")
        return values

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if self.freeze_bn is not None and self.norm_stats is not None:
            raise ValueError(
                "freeze_bn is the old name of norm_stats; leave it out, norm_stats says more"
            )
        return self


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
    aggregation: Literal["dual", "concat", "abmilx"] = Field(
        "dual",
        description="dual: sub-salient seen in the light of salient; concat: both in one "
        "attention; abmilx: both in ABMILX's",
    )


_HEADS_WITH = {
    "heads": ("attention", "transformer", "window"),
    "layers": ("window",),
    "positions": ("transformer",),
}
"""Settings that only some heads of PatchGD read, and which."""


class PatchGDConfig(Frozen):
    """Patch gradient descent (METHODS: PatchGD)."""

    name: Literal["patchgd"] = "patchgd"
    head: HeadName = Field("attention", description="the head that reads Z; all take any grid")
    heads: int | None = Field(
        None, ge=1, description="heads of its attention; null: 8 (attention), 2 of 192 "
        "(transformer), 3 of 64 (window)"
    )  # fmt: skip
    layers: int | None = Field(None, ge=1, description="layers of the window head; null: 2")
    positions: bool | None = Field(
        None, description="the transformer head sees row and column of a patch; null: it does not"
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


class GDConfig(Frozen):
    """Plain gradient descent over the whole slide (METHODS: GD): what the others are held to."""

    name: Literal["gd"] = "gd"
    input: Literal["patches", "image"] = Field(
        "patches", description="patches: all of them, embedded one by one; image: the slide as one"
    )
    head: HeadName = Field("attention", description="the head that reads Z; not for image")
    image_px: int = Field(1024, ge=8, le=16384, description="longest edge of the image, px")
    memory: Literal["none", "checkpoint", "offload"] = Field(
        "none", description="activations: kept; computed again, chunk by chunk; kept in host memory"
    )
    segments: int = Field(4, ge=1, description="chunks that memory: checkpoint cuts patches into")
    micro_batch: int | None = Field(
        None, ge=1, description="slides per backward pass; null: the whole batch"
    )
    max_patches: int = Field(2048, ge=1, description="a slide with more is refused; not for image")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout in the head")
    num_salient: int = Field(16, ge=1, description="patches a prediction marks salient")
    num_sub_salient: int = Field(32, ge=0, description="patches it marks sub-salient, after those")

    @model_validator(mode="after")
    def _checkpoint_patches_only(self) -> GDConfig:
        if self.input == "image" and self.memory == "checkpoint":
            raise ValueError(
                "checkpoint goes by chunks of patches, and with input: image there is one image; "
                "use memory: offload"
            )
        return self


class ABMILConfig(Frozen):
    """Attention over the features of a frozen encoder (METHODS: ABMIL): what most use today."""

    name: Literal["abmil"] = "abmil"
    attention: Literal["gated", "plain"] = Field("gated", description="how patches are scored")
    width: int = Field(512, ge=2, description="what features are reduced to")
    features: Literal["f16", "f32"] = Field("f16", description="how they are kept on disk")
    chunk: int = Field(4096, ge=1, description="features in memory at a time")
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout in the head")
    num_salient: int = Field(16, ge=1, description="patches a prediction marks salient")
    num_sub_salient: int = Field(32, ge=0, description="patches it marks sub-salient, after those")


class ABMILXConfig(Frozen):
    """End-to-end ABMILX (METHODS: ABMILX): a sample of each slide, at two magnifications."""

    name: Literal["abmilx"] = "abmilx"
    sample: int = Field(128, ge=1, description="s: patches of a slide with gradient per step")
    low_mpp: float | None = Field(
        None, gt=0, le=100, description="scale of the low magnification; null: one scale only"
    )
    ratio: float = Field(4.0, ge=1, description="rho: floor(s / rho) of them are of the low one")
    width: int = Field(256, ge=1, description="width of the head; encoder.cut layer3 goes with it")
    heads: int = Field(8, ge=1, description="m: attention heads; must divide the width")
    alpha: float = Field(1.0, description="weight of the refined attention at the start; learned")
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout in the head")
    num_salient: int = Field(16, ge=1, description="patches a prediction marks salient")
    num_sub_salient: int = Field(32, ge=0, description="patches it marks sub-salient, after those")


AnyMethodConfig = DBPSConfig | IPSConfig | PatchGDConfig | GDConfig | ABMILConfig | ABMILXConfig

METHOD_CONFIGS: dict[str, type[Frozen]] = {
    "dbps": DBPSConfig,
    "ips": IPSConfig,
    "patchgd": PatchGDConfig,
    "gd": GDConfig,
    "abmil": ABMILConfig,
    "abmilx": ABMILXConfig,
}
DEFAULT_METHOD = "dbps"
GIVE_ATTENTION = ("dbps", "ips", "patchgd")
"""Methods that keep what they looked at for the next epoch, which some samplers ask for."""

MethodConfig = Annotated[AnyMethodConfig, Field(discriminator="name")]


def settled_norms(encoder: EncoderConfig, method: AnyMethodConfig) -> EncoderConfig:
    """The encoder's settings with ``norm_stats`` decided, where it was left open.

    Norms that are frozen on what a blank network has, mean 0 and variance 1, normalise nothing:
    whatever the patch, the embeddings are nearly the same (METHODS section 3d).
    """
    return encoder.model_copy(
        update={"norm_stats": _norm_stats(encoder, method), "freeze_bn": None}
    )


def _norm_stats(encoder: EncoderConfig, method: AnyMethodConfig) -> NormStats:
    if encoder.norm_stats is not None:
        return encoder.norm_stats
    exact = isinstance(method, PatchGDConfig) and method.exact
    if exact and encoder.freeze_bn is None:
        return "recalibrate"
    if not (encoder.freeze_bn or isinstance(method, ABMILConfig)):
        return "batch"
    return "recalibrate" if encoder.weights == "none" and not sees_pictures(method) else "running"


def sees_pictures(method: AnyMethodConfig) -> bool:
    """Whether the encoder reads pictures of whole slides, not their patches."""
    return isinstance(method, GDConfig) and method.input == "image"


def encoder_px(method: AnyMethodConfig, patch_px: int) -> int:
    """Edge, in px, of the squares that the encoder reads under this method."""
    if isinstance(method, GDConfig) and sees_pictures(method):
        return method.image_px
    return patch_px


def low_mpp(method: AnyMethodConfig) -> float | None:
    """The scale that the method reads beside the run's own; None: no other."""
    return method.low_mpp if isinstance(method, ABMILXConfig) else None
