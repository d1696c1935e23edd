"""What of a network's build can be set beside its name: a short list, and never code."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from wsi_hr.frozen import Frozen

MlpName = Literal["Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked"]
ActName = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]
NormName = Literal["layernorm", "rmsnorm"]
PoolName = Literal["token", "avg", "max", "avgmax", "map"]


class EncoderArgs(Frozen):
    """Arguments of timm's networks that decide which weights fit; not set: timm's own value.

    A checkpoint repeats them, so they are numbers, truths and names of a short list: bounded, and
    nothing that is imported.
    """

    img_size: int | None = Field(
        None, ge=8, le=16384, description="edge of the picture its position codes are for, px"
    )
    patch_size: int | None = Field(None, ge=1, le=256, description="edge of a token, px")
    embed_dim: int | None = Field(None, ge=1, le=16384, description="width of a token")
    depth: int | None = Field(None, ge=1, le=256, description="number of blocks")
    num_heads: int | None = Field(
        None, ge=1, le=1024, description="attention heads; no tensor tells how many there are"
    )
    mlp_ratio: float | None = Field(
        None, gt=0, le=64, description="hidden width of the MLP, in widths of a token"
    )
    init_values: float | None = Field(
        None, gt=0, le=10, description="LayerScale, and where it starts without weights"
    )
    class_token: bool | None = Field(None, description="whether there is a class token")
    reg_tokens: int | None = Field(None, ge=0, le=256, description="number of register tokens")
    no_embed_class: bool | None = Field(
        None, description="class and register tokens have no position code"
    )
    pos_embed: Literal["learn", "none"] | None = Field(None, description="position codes")
    qkv_bias: bool | None = Field(None, description="bias of queries, keys and values")
    proj_bias: bool | None = Field(None, description="bias behind attention and MLP")
    qk_norm: bool | None = Field(None, description="norm of queries and keys")
    pre_norm: bool | None = Field(None, description="norm before the blocks, as in CLIP")
    final_norm: bool | None = Field(None, description="norm behind the blocks")
    fc_norm: bool | None = Field(None, description="that norm stands behind the pooling")
    global_pool: PoolName | None = Field(None, description="what of the tokens is the embedding")
    pool_include_prefix: bool | None = Field(
        None, description="class and register tokens are pooled too"
    )
    dynamic_img_size: bool | None = Field(None, description="takes pictures of any size")
    dynamic_img_pad: bool | None = Field(None, description="pads them to whole tokens")
    mlp_layer: MlpName | None = Field(
        None, description="kind of MLP; but for Mlp, `act_layer` has to be said too"
    )
    act_layer: ActName | None = Field(None, description="activation in the MLP")
    norm_layer: NormName | None = Field(None, description="kind of norm")
    norm_eps: float | None = Field(
        None, gt=0, le=0.1, description="what its norm_layer adds to the variance"
    )
    window_size: int | None = Field(None, ge=1, le=1024, description="of Swin and its kin, tokens")
    swiglu_mlp: bool | None = Field(None, description="of EVA-02 and its kin")
    scale_mlp: bool | None = Field(None, description="of EVA-02 and its kin: norm in the MLP")

    @property
    def given(self) -> dict[str, Any]:
        """Those that are set, by timm's names."""
        return {
            name: value
            for name in type(self).model_fields
            if (value := getattr(self, name)) is not None
        }

    @model_validator(mode="after")
    def _gate_is_said(self) -> Self:
        if self.mlp_layer not in (None, "Mlp") and self.act_layer is None:
            raise ValueError(
                f"mlp_layer {self.mlp_layer}: set act_layer too; without it timm takes gelu, no "
                "tensor tells which it was, and most networks with such an MLP have silu"
            )
        return self

    @model_serializer(mode="wrap")
    def _only_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


def choices_of(name: str) -> str:
    """Which values an argument takes, for people."""
    kind = EncoderArgs.model_fields[name].annotation
    plain = next(one for one in get_args(kind) if one is not type(None))
    if options := get_args(plain):
        return ", ".join(options)
    return {int: "a whole number", float: "a number", bool: "true or false"}[plain]
