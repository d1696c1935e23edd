"""Networks of timm by name, with their weights. The only door to timm."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wsi_hr.errors import ConfigError

logger = logging.getLogger(__name__)


class SettingKeys(NamedTuple):
    """Where a network's name and weights are set, for what is said when they will not do."""

    name: str
    weights: str


_ENCODER = SettingKeys("encoder.name", "encoder.weights")


def load_net(name: str, weights: str, keys: SettingKeys = _ENCODER, **options: Any) -> nn.Module:
    """A timm network without its classifier.

    Args:
        name: a timm name.
        weights: ``none``, ``pretrained`` or a local weights file.
        keys: the settings that name and weights come from.
        options: timm's own, for this kind of network.

    Raises:
        ConfigError: unknown name, or weights that cannot be had or do not fit.
    """
    # timm takes `hf-hub:` and `local-dir:` for places that say what to build, and from where
    if {":", "/"} & set(name) or name.split(".")[0] not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.3)
        hint = f"near: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise ConfigError(f"{keys.name} {name}: timm has no such model; {hint}")
    net = _create(name, keys, pretrained=weights == "pretrained", **options)
    if weights not in ("none", "pretrained"):
        _load_local(net, Path(weights), keys.weights)
    return net


def _create(name: str, keys: SettingKeys, *, pretrained: bool, **options: Any) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except Exception as cause:
        if not pretrained:
            raise ConfigError(
                f"{keys.name} {name}: timm cannot build it ({first_line(cause)})"
            ) from cause
        raise ConfigError(
            f"{keys.weights} pretrained: the weights of {name} could not be fetched "
            f"({first_line(cause)}); on a machine without internet give a local file instead: "
            f"--set {keys.weights}=FILE"
        ) from cause


def _load_local(net: nn.Module, path: Path, key: str) -> None:
    """Load a state dict from .safetensors, or from .pt/.pth/.bin without unpickling code."""
    state = _read_weights(path, key)
    own = net.state_dict()
    missing = [key for key in own if key not in state]
    if missing:
        raise ConfigError(
            f"{key} {path}: {len(missing)} of {len(own)} tensors are not in it, "
            f"e.g. {missing[0]}; is it for another architecture?"
        )
    wrong = [key for key in own if own[key].shape != state[key].shape]
    if wrong:
        raise ConfigError(
            f"{key} {path}: {wrong[0]} is {tuple(state[wrong[0]].shape)} there, "
            f"{tuple(own[wrong[0]].shape)} in this encoder; is it for another architecture?"
        )
    unused = [key for key in state if key not in own and not key.startswith(_classifiers(net))]
    if unused:
        logger.warning(
            "%s %s: %d tensors have no place in this encoder and are left out, "
            "e.g. %s; is it for another architecture?", key, path, len(unused), unused[0],
        )  # fmt: skip
    net.load_state_dict({key: state[key] for key in own})


def _read_weights(path: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a weights file by name, without what training tools wrap around them."""
    if not path.is_file():
        raise ConfigError(f"{key} {path}: no such file (or: none, pretrained)")
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:
        raise ConfigError(
            f"{key} {path}: not a weights file that can be loaded safely "
            f"({type(cause).__name__}: {first_line(cause)}); convert it to .safetensors"
        ) from cause
    for wrapper in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict):
        raise ConfigError(
            f"{key} {path}: holds a {type(found).__name__}, not tensors by name; "
            "save the network's state_dict()"
        )
    return {
        str(key).removeprefix("module."): value
        for key, value in found.items()
        if isinstance(value, Tensor)
    }


def _classifiers(net: nn.Module) -> tuple[str, ...]:
    """Prefixes of the classifier's tensors; the encoder ends at its embedding, on purpose."""
    names = getattr(net, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
