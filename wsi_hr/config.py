"""Every setting of a study: frozen, checked before a slide is opened, written nowhere after.

Precedence: defaults < recipe < command-line options < ``--set``. Unions are told apart by ``name``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from wsi_hr.errors import ConfigError
from wsi_hr.frozen import Frozen
from wsi_hr.geometry import ARTIFACTS, PatchSpec
from wsi_hr.method_config import (
    DEFAULT_METHOD,
    GIVE_ATTENTION,
    METHOD_CONFIGS,
    ABMILConfig,
    DBPSConfig,
    DenseConfig,
    EncoderConfig,
    MethodConfig,
    sees_pictures,
    settled_norms,
)
from wsi_hr.plain_yaml import MAX_DEPTH, PlainYamlError, plain_yaml, read_plain_yaml
from wsi_hr.recipe import load_recipe
from wsi_hr.refused_settings import RefusedSettings, shortened
from wsi_hr.sampler_config import (
    DEFAULT_SAMPLER,
    SAMPLER_CONFIGS,
    RandomDropConfig,
    SamplerChain,
)

__all__ = [
    "SEGMENTERS",
    "Config",
    "PredictConfig",
    "SplitConfig",
    "TileConfig",
    "TrainConfig",
    "dump_config",
    "load_recipe",
    "resolve_config",
]

SEGMENTERS = ("saturation_otsu", "luminance", "entropy")
Artifact = Literal["pen", "blur", "fold", "bubble"]
# Sections whose settings are told apart by their name.
_TABLES: dict[str, Mapping[str, type[BaseModel]]] = {
    "method": METHOD_CONFIGS,
    "sampler": SAMPLER_CONFIGS,
}
_DEFAULTS = {"method": DEFAULT_METHOD, "sampler": DEFAULT_SAMPLER}
_ENTRY = re.compile(r"\w+(\.\w+)*:\w+")


class TileConfig(Frozen):
    """Slides -> patch stores."""

    mpp: float = Field(0.5, gt=0, le=100, description="um per patch pixel")
    more_mpp: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field(
        (), description="further scales in the same store, um per patch pixel"
    )
    patch_size: int = Field(256, ge=8, le=8192, description="patch edge, px at mpp")
    stride: int | None = Field(None, ge=1, description="grid step, px at mpp; default: patch_size")
    mpp_tolerance: float = Field(
        0.02, ge=0, lt=0.5, description="a level this close to mpp (relative) is not resampled"
    )
    min_tissue: float = Field(0.25, ge=0, le=1, description="least tissue fraction of a patch")
    max_artifact: float = Field(
        0.5, ge=0, le=1, description="a patch with more artifact (fraction) is left out"
    )
    segmenter: str = Field(
        "saturation_otsu",
        description="how tissue is told from glass: saturation_otsu, luminance, entropy, or "
        "package.module:function",
    )
    min_fragment_um2: float = Field(
        10_000, ge=0, description="smaller pieces of tissue are dust (um^2)"
    )
    max_hole_um2: float | None = Field(
        40_000, ge=0, description="smaller holes count as tissue (um^2); null: all of them"
    )
    artifacts: tuple[Artifact, ...] = Field(
        ARTIFACTS, description="artifacts looked for: pen, blur, fold, bubble; []: none"
    )
    resample: Literal["fast", "exact"] = Field(
        "fast",
        description="fast: the JPEG decoder reduces (44 dB against area averages), and colours at "
        "half the resolution are not interpolated only to be halved again; exact: averages",
    )
    codec: Literal["auto", "jpeg", "raw", "virtual"] = Field(
        "auto",
        description="how patches are stored; auto: the slide's own JPEG tiles where they are the "
        "patches (bit-exact), else jpeg; virtual: not at all, the slide is read when needed",
    )
    jpeg_quality: int = Field(90, ge=50, le=100, description="JPEG quality of stored patches")
    icc: Literal["keep", "srgb"] = Field(
        "keep", description="srgb: convert colours by the slide's ICC profile; keep: as scanned"
    )
    stain: Literal["none", "macenko", "reinhard"] = Field(
        "none", description="bring the slide's stains to a reference"
    )
    max_unreadable: float = Field(
        0.01, ge=0, le=1, description="a slide with more unreadable patches (fraction) fails"
    )
    deadline_s: float = Field(
        3600, gt=0, allow_inf_nan=True, description="a slide that takes longer is killed"
    )
    memory_gib: float = Field(
        4, gt=0, allow_inf_nan=True, description="memory limit of one slide's process, GiB"
    )

    @model_validator(mode="after")
    def _each_scale_once(self) -> TileConfig:
        if len(set(self.scales)) < len(self.scales):
            raise ValueError("mpp and more_mpp must all differ")
        return self

    @property
    def needs_import(self) -> bool:
        """Whether the segmenter is not of wsi-hr; no file's word is enough to import it."""
        return self.segmenter not in SEGMENTERS

    @property
    def scales(self) -> tuple[float, ...]:
        """All mpp asked, the main one first."""
        return (self.mpp, *self.more_mpp)

    def at(self, mpp: float) -> TileConfig:
        """The same settings with ``mpp`` as the only scale."""
        return self.model_copy(update={"mpp": mpp, "more_mpp": ()})

    @field_validator("segmenter")
    @classmethod
    def _name_a_segmenter(cls, name: str) -> str:
        if name not in SEGMENTERS and not _ENTRY.fullmatch(name):
            near = difflib.get_close_matches(name, SEGMENTERS, n=1)
            hint = f"; the nearest known one is {near[0]}" if near else ""
            raise ValueError(
                f"no such segmenter{hint}; use {', '.join(SEGMENTERS)} or package.module:function"
            )
        return name

    @field_validator("artifacts")
    @classmethod
    def _order_artifacts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in ARTIFACTS if name in names)

    @property
    def stride_px(self) -> int:
        """Grid step in px at ``mpp``."""
        return self.patch_size if self.stride is None else self.stride

    def spec(self) -> PatchSpec:
        """What is asked of every slide."""
        return PatchSpec(
            patch_px=self.patch_size,
            stride_px=self.stride_px,
            mpp=self.mpp,
            mpp_tolerance=self.mpp_tolerance,
            min_tissue=self.min_tissue,
        )


class TrainConfig(Frozen):
    """The optimisation."""

    epochs: int = Field(50, ge=1, description="passes over the training slides")
    batch_size: int = Field(4, ge=1, description="slides per step")
    lr: float = Field(3e-4, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.1, ge=0, description="AdamW weight decay")
    warmup_epochs: float = Field(1.0, ge=0, description="linear warm-up from 0")
    final_lr: float = Field(1e-3, ge=0, le=1, description="cosine end, as a part of lr")
    clip_norm: float | None = Field(None, gt=0, description="gradient norm limit; null: none")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of averaged weights, which are judged; null: none"
    )
    class_weights: bool = Field(False, description="weigh classes by inverse frequency")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="CPU threads of the arithmetic; null: all")


class SplitConfig(Frozen):
    """How labelled slides are divided when the labels table does not say."""

    val: float = Field(0.15, ge=0, lt=1, description="fraction of patients for validation")
    test: float = Field(0.15, ge=0, lt=1, description="fraction of patients held out")

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> SplitConfig:
        if self.val + self.test >= 1:
            raise ValueError("val + test must leave something to train on")
        return self


class PredictConfig(Frozen):
    """Predictions and pictures."""

    heatmap_px: int = Field(1600, ge=128, le=8192, description="longest edge of a heatmap PNG")


class Config(Frozen):
    """A whole study."""

    seed: int = Field(0, ge=0, description="all randomness derives from it")
    tile: TileConfig = TileConfig()  # pyright: ignore[reportCallIssue]
    encoder: EncoderConfig = EncoderConfig()  # pyright: ignore[reportCallIssue]
    sampler: SamplerChain = (RandomDropConfig(),)  # pyright: ignore[reportCallIssue]
    method: MethodConfig = DBPSConfig()  # pyright: ignore[reportCallIssue]
    dense: DenseConfig = DenseConfig()  # pyright: ignore[reportCallIssue]
    train: TrainConfig = TrainConfig()  # pyright: ignore[reportCallIssue]
    split: SplitConfig = SplitConfig()  # pyright: ignore[reportCallIssue]
    predict: PredictConfig = PredictConfig()  # pyright: ignore[reportCallIssue]

    @model_validator(mode="after")
    def _chain_what_can_be_chained(self) -> Config:
        names = [sampler.name for sampler in self.sampler]
        if not names:
            raise ValueError("sampler: is empty; random_drop with drop: 0 leaves out nothing")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"sampler: {name} is there twice; each goes into a list once")
        for sampler in self.sampler:
            if sampler.reads_attention and self.method.name not in GIVE_ATTENTION:
                raise ValueError(
                    f"sampler: {sampler.name} asks for the attention of the epoch before, which "
                    f"{self.method.name} does not keep; use {', '.join(GIVE_ATTENTION)}, another "
                    "sampler, or attention with sampler.source=thumbnail"
                )
        return self

    @model_validator(mode="after")
    def _norms_of_what_is_trained(self) -> Config:
        if isinstance(self.method, ABMILConfig) and self.encoder.norm_stats == "batch":
            raise ValueError(
                "encoder.norm_stats: abmil's encoder never trains, so its norms see no batch; use "
                "running, or recalibrate"
            )
        if sees_pictures(self.method) and self.encoder.norm_stats == "recalibrate":
            raise ValueError(
                "encoder.norm_stats: recalibrate looks at patches, and with method.input image the "
                "encoder sees whole slides; use batch, or running"
            )
        return self

    def settled(self) -> Config:
        """The same study, with what hangs on several settings decided."""
        return self.model_copy(update={"encoder": settled_norms(self.encoder, self.method)})


def resolve_config(
    recipe: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> Config:
    """Build the study's config from its three sources, later ones winning.

    Args:
        recipe: nested mapping; errors in a :class:`Recipe` name its line.
        options: dotted keys to values from the command line, e.g. ``{"tile.mpp": 0.5}``; ``None``
            values were not given and are left out.
        assignments: ``key=value`` texts of ``--set``; the value is read as YAML.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a value out of range, or a
            segmenter of somebody's own that only the recipe names.
    """
    tree: dict[str, Any] = {}
    _merge(tree, dict(recipe or {}))
    given: list[tuple[str, Any]] = []
    for key, value in (options or {}).items():
        given += [] if value is None else _flat(key, value)
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"--set {text}: expected key=value, e.g. --set train.epochs=20")
        try:
            given += _flat(key.strip(), read_plain_yaml(value).data)
        except PlainYamlError as cause:
            raise ConfigError(f"--set {text}: the value is not YAML ({cause.reason})") from cause
    for section in _TABLES:
        _choose(tree, section, [value for key, value in given if key == f"{section}.name"])
    for key, value in given:
        _assign(tree, key, value)
    if isinstance(tree.get("method"), dict):
        tree["method"].setdefault("name", DEFAULT_METHOD)
    try:
        config = Config.model_validate(tree)
    except ValidationError as cause:
        several = isinstance(tree.get("sampler"), list)
        words = RefusedSettings(Config, _TABLES, several_samplers=several)
        said = words.explain(cause, recipe, [key for key, _ in given])
        raise ConfigError("; ".join(said)) from cause
    if config.tile.needs_import and "tile.segmenter" not in {key for key, _ in given}:
        raise ConfigError(
            f"tile.segmenter {config.tile.segmenter}: is to be imported, and a recipe does not say "
            f"what is run here; name it yourself: --set tile.segmenter={config.tile.segmenter}"
        )
    return config


def dump_config(config: BaseModel) -> str:
    """The resolved config as YAML; :func:`load_recipe` reads it back to an equal one."""
    return plain_yaml(config.model_dump(mode="json"))


def _flat(key: str, value: Any) -> list[tuple[str, Any]]:
    """``key``: {a: 1, b: 2} as ``key.a``: 1 and ``key.b``: 2."""
    if not isinstance(value, Mapping) or not value:
        return [(key, value)]
    return [item for name, inner in value.items() for item in _flat(f"{key}.{name}", inner)]


def _choose(tree: dict[str, Any], section: str, names: Sequence[Any]) -> None:
    """Choosing another method or sampler than the recipe's drops what it sets for its own."""
    settings = tree.get(section)
    if not names:
        return
    if isinstance(settings, dict):
        if settings.get("name", _DEFAULTS[section]) != names[-1]:
            settings.clear()
    elif section == "sampler" and isinstance(settings, list):
        tree[section] = {}


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    if len(parents) > MAX_DEPTH:
        raise ConfigError(f"{shortened(dotted)}: no setting lies so deep")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if isinstance(child, list):
            raise ConfigError(f"{dotted}: {parent} is a list here; set the whole list")
        if not isinstance(child, dict):
            raise ConfigError(f"{dotted}: {parent} is a value, it has no settings below it")
        node = child
    node[last] = value


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping):
            node = tree.setdefault(key, {})
            if isinstance(node, dict):
                _merge(node, value)
                continue
        tree[key] = value
