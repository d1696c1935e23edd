"""Networks of timm by name, with their weights. The only door to timm."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import timm
import timm.models._builder as timm_builder
import torch
from timm.layers.activations import GELUTanh, QuickGELU
from timm.layers.mlp import GluMlp, Mlp, SwiGLU, SwiGLUPacked
from timm.layers.norm import LayerNorm, RmsNorm
from torch import Tensor, nn

from wsi_hr.encoder_args import EncoderArgs
from wsi_hr.errors import ConfigError
from wsi_hr.models.input_size import set_size, sized_net
from wsi_hr.models.provenance import LoadedWeights
from wsi_hr.models.weight_advice import args_in_file
from wsi_hr.models.weight_fit import Fit, TimmsOwn, beginnings, fit, misfit, no_numbers
from wsi_hr.models.weight_layouts import Convert
from wsi_hr.models.weight_wrappers import NotUnwrapped, unwrap
from wsi_hr.models.weights_file import first_line, read_weights

_NO_ARGS = EncoderArgs()  # pyright: ignore[reportCallIssue]


class SettingKeys(NamedTuple):
    """Where a network's name and weights are set, for what is said when they will not do."""

    name: str
    weights: str
    args: str | None = None


_ENCODER = SettingKeys("encoder.name", "encoder.weights", "encoder.args")

_MLPS = {
    "Mlp": Mlp,
    "GluMlp": GluMlp,
    "SwiGLU": SwiGLU,
    "SwiGLUPacked": SwiGLUPacked,
}
_ACTS = {
    "gelu": nn.GELU,
    "gelu_tanh": GELUTanh,
    "quick_gelu": QuickGELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
}
_NORMS = {"layernorm": LayerNorm, "rmsnorm": RmsNorm}


class LoadedNet(NamedTuple):
    """A network, and where its weights are from.

    Attributes:
        net: of timm, without its classifier.
        dim: D, width of what it gives; None where no size of patches was asked for.
        weights: the file that was loaded; None: there was none.
    """

    net: nn.Module
    dim: int | None
    weights: LoadedWeights | None


def is_built_in(name: str) -> bool:
    """Whether timm has a network of this name, with or without a tag behind a dot."""
    # timm takes `hf-hub:` and `local-dir:` for places that say what to build, and from where
    return not {":", "/"} & set(name) and name.split(".")[0] in timm.list_models()


def load_net(
    name: str,
    weights: str,
    keys: SettingKeys = _ENCODER,
    *,
    args: EncoderArgs = _NO_ARGS,
    patch_px: int | None = None,
    **options: Any,
) -> LoadedNet:
    """A timm network without its classifier.

    Args:
        name: a timm name; a place that says what to build, such as ``hf-hub:``, is none.
        weights: ``none``, ``pretrained`` or a local weights file, every tensor of which must fit.
        keys: the settings that name and weights come from.
        args: of the network's build.
        patch_px: edge of the patches that it must take; None: timm's own size.
        options: timm's own, for this kind of network.

    Raises:
        ConfigError: unknown name, weights that cannot be had or do not fit, or a network that
            cannot take such patches.
    """
    if not is_built_in(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.3)
        hint = f"near: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise ConfigError(f"{keys.name} {name}: timm has no such model; {hint}")
    plan = _Plan(name, keys, args, options)
    is_file = weights not in ("none", "pretrained")
    file = read_weights(Path(weights), keys.weights) if is_file else None
    net, dim = plan.build(pretrained=weights == "pretrained"), None
    if patch_px is not None:
        net, dim = sized_net(net, name, patch_px, lambda px: plan.build(img_size=px))
    if file is None:
        return LoadedNet(net, dim, None)
    where = f"{keys.weights} {weights}"
    try:
        inner = unwrap(file.content, net.state_dict())
    except NotUnwrapped as cause:
        raise ConfigError(f"{where}: {cause}") from cause
    found = fit(inner.tensors, net, plan.timms_own())
    if not found.exact:
        raise ConfigError(f"{where}: {_why(found, inner.tensors, net, plan, patch_px)}")
    problem = no_numbers(found.tensors, net)
    if problem is not None:
        raise ConfigError(f"{where}: {problem}")
    net.load_state_dict(found.tensors, strict=not found.defaulted)
    said = (*inner.said, *found.said)
    loaded = LoadedWeights(file.identity, file.form, said, found.left_out, found.defaulted)
    return LoadedNet(net, dim, loaded)


class _Plan(NamedTuple):
    """How a network is built."""

    name: str
    keys: SettingKeys
    args: EncoderArgs
    options: dict[str, Any]

    def build(self, *, pretrained: bool = False, **more: Any) -> nn.Module:
        """The network.

        Raises:
            ConfigError: timm cannot build it, or has no weights for it.
        """
        name, keys = self.name, self.keys
        options = {**self.options, **as_timm_takes_them(self.args), **more}
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
        except Exception as cause:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
            if unknown is not None and unknown[1] in options:
                raise ConfigError(
                    f"{keys.args}.{unknown[1]}: {name} has no such argument; leave it out, or "
                    f"choose another {keys.name}"
                ) from cause
            if not pretrained:
                given = f" with {keys.args} {self.args.given}" if self.args.given else ""
                raise ConfigError(
                    f"{keys.name} {name}: timm cannot build it{given} ({first_line(cause)})"
                ) from cause
            if "loading state_dict" in str(cause):
                raise ConfigError(
                    f"{keys.weights} pretrained: the weights of {name} do not fit with "
                    f"{keys.args} {self.args.given}; leave those out that timm's weights have not"
                ) from cause
            raise ConfigError(
                f"{keys.weights} pretrained: the weights of {name} could not be fetched "
                f"({first_line(cause)}); on a machine without internet give a local file instead: "
                f"--set {keys.weights}=FILE"
            ) from cause

    def timms_own(self) -> TimmsOwn:
        """What timm does to files of weights for this network, and how it classifies.

        timm hands the function to its loader; here a loader that only takes note stands in, and
        the network is not the one that is used: some are built otherwise with weights of timm's.
        """
        found: list[Convert | None] = [None]

        def note(*_: Any, filter_fn: Convert | None = None, **__: Any) -> None:
            found[0] = filter_fn

        options = {**self.options, **as_timm_takes_them(self.args), "num_classes": 2}
        with _loader(note), torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"):
                    whole = timm.create_model(self.name, pretrained=True, **options)
            except (NotImplementedError, RuntimeError):  # asks a number of a tensor as it is built
                whole = timm.create_model(self.name, pretrained=True, **options)
        return TimmsOwn(found[0], frozenset(whole.state_dict()))


@contextmanager
def _loader(stand_in: Any) -> Iterator[None]:
    whole = timm_builder.load_pretrained
    timm_builder.load_pretrained = stand_in
    try:
        yield
    finally:
        timm_builder.load_pretrained = whole


def as_timm_takes_them(args: EncoderArgs) -> dict[str, Any]:
    """Arguments with timm's layers in place of their names."""
    given = args.given
    if "mlp_layer" in given:
        given["mlp_layer"] = _MLPS[given["mlp_layer"]]
    if "act_layer" in given:
        given["act_layer"] = _ACTS[given["act_layer"]]
    eps = given.pop("norm_eps", None)
    if "norm_layer" in given or eps is not None:
        norm = _NORMS[given.get("norm_layer", "layernorm")]
        given["norm_layer"] = norm if eps is None else functools.partial(norm, eps=eps)
    if given.get("pos_embed") == "none" and "no_embed_class" in given:
        del given["no_embed_class"]
    return given


def _why(
    found: Fit, tensors: dict[str, Tensor], net: nn.Module, plan: _Plan, patch_px: int | None
) -> str:
    """Why a file does not fit, what is in it, and what it would fit."""
    why = f"does not fit {plan.name}: {misfit(found)}"
    in_file = f"names in the file begin with {beginnings(tensors)}"
    return f"{why}; {in_file}; {_advice(found, tensors, net, plan, patch_px)}"


def _advice(
    found: Fit, tensors: dict[str, Tensor], net: nn.Module, plan: _Plan, patch_px: int | None
) -> str:
    if found.only_codes:
        return (
            "timm resamples no position codes of this architecture: choose the --patch-size that "
            "the file is for, or another encoder"
        )
    if plan.keys.args is None:
        return "is it for another architecture?"
    wanted = {
        name: value
        for name, value in args_in_file(tensors, net).items()
        if plan.args.given.get(name) != value
    }
    if not wanted or not _would_fit(wanted, tensors, plan, patch_px):
        return f"is it for another architecture, or are {plan.keys.args} missing?"
    given = ", ".join(f"{name}: {_as_yaml(value)}" for name, value in wanted.items())
    unknown = ["its activation"] if "mlp_layer" in wanted else []
    unknown += ["num_heads"] if {"embed_dim", "depth"} & set(wanted) else []
    told = f" ({' and '.join(unknown)} no tensor tells: see where it was published)"
    return f"it would fit with --set '{plan.keys.args}={{{given}}}'{told if unknown else ''}"


def _would_fit(
    wanted: dict[str, Any], tensors: dict[str, Tensor], plan: _Plan, patch_px: int | None
) -> bool:
    try:
        args = EncoderArgs.model_validate({**plan.args.given, **wanted})
        other = plan._replace(args=args)
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            net = other.build()
            if patch_px is not None:
                set_size(net, patch_px)
        return fit(tensors, net, other.timms_own()).exact
    except Exception:  # what a file says may be built or not: it is a guess
        return False


def _as_yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"
