"""An encoder that its maker describes by timm's config.json: read as data, never obeyed as code.

What is taken of it is a built-in architecture, the arguments of a short list, and the numbers that
pixels are normalised by. A run records those, and nothing of a place: who uses its checkpoint is
sent nowhere by it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from pydantic import ValidationError

from wsi_hr.encoder_args import EncoderArgs
from wsi_hr.errors import ConfigError, reading
from wsi_hr.method_config import EncoderConfig
from wsi_hr.models.timm_nets import is_built_in
from wsi_hr.models.weights_file import first_line

_HUBS = ("hf-hub", "hf_hub")
_FOLDER = "local-dir"
_CONFIG = "config.json"
_LONGEST_CONFIG = 10_000_000  # bytes
_OF_TRAINING = {
    *("num_classes", "in_chans", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate"),
    *("attn_drop_rate", "drop_path_rate", "weight_init", "fix_init", "checkpoint_path"),
}
"""Arguments that change nothing of an embedding."""


class NamedEncoder(NamedTuple):
    """What an encoder's name stands for.

    Attributes:
        config: its name is built in, its weights are a file, if it has any.
        said: what was found; None: the name was built in already.
        normalisation_from: who says how pixels are normalised; None: not the place.
    """

    config: EncoderConfig
    said: str | None = None
    normalisation_from: str | None = None


def resolve_encoder(config: EncoderConfig, *, weights: bool = True) -> NamedEncoder:
    """Look up a name that the user gave and that is a place: ``hf-hub:`` or ``local-dir:``.

    Not for names out of a checkpoint: :func:`load_net` refuses those.

    Args:
        config: of the user; the weights are the place's, unless it says otherwise.
        weights: False where they will not be loaded: they are not fetched then.

    Raises:
        ConfigError: the place cannot be had, or describes what is not built here.
        ReadError: it cannot be read just now.
    """
    source, separator, place = config.name.partition(":")
    if not separator or source.lower() not in (*_HUBS, _FOLDER) or not place:
        return NamedEncoder(config)
    where = f"encoder.name {config.name}"
    at = _Folder(Path(place)) if source.lower() == _FOLDER else _Hub(place)
    with reading(place):
        described = _read(at.file(_CONFIG, where), where)
    name, args, cfg = _described(described, where)
    args = _args({**args, **config.args.given}, where)
    changes: dict[str, Any] = {"name": name, "args": args}
    theirs = [kind for kind in ("mean", "std") if getattr(config, kind) is None and kind in cfg]
    changes |= {kind: _three(cfg[kind], f"{where}: {kind}") for kind in theirs}
    normalisation_from = f"{' and '.join(theirs)} by {_CONFIG} of {config.name}" if theirs else None
    wanted = config.weights == "pretrained" or "weights" not in config.model_fields_set
    if wanted:
        with reading(place):
            changes["weights"] = str(at.weights(where)) if weights else "none"
    given = f" with encoder.args {args.given}" if args.given else ""
    told = f"encoder: {config.name} is {name}{given}"
    if not wanted and config.weights == "none":
        told += "; without its weights, as encoder.weights none says"
    settled = EncoderConfig.model_validate({**config.model_dump(mode="json"), **changes})
    return NamedEncoder(settled, told, normalisation_from)


class _Folder(NamedTuple):
    """A folder as timm writes it for others."""

    folder: Path

    def file(self, name: str, where: str) -> Path:
        path = self.folder / _CONFIG
        if name != _CONFIG or not path.is_file():
            raise ConfigError(f"{where}: has no {name}; give a folder with timm's {_CONFIG}")
        return path

    def weights(self, where: str) -> Path:
        usual = (
            self.folder / "model.safetensors",
            self.folder / "pytorch_model.bin",
            self.folder / "pytorch_model.pth",
            self.folder / "model.pth",
            self.folder / "open_clip_model.safetensors",
            self.folder / "open_clip_pytorch_model.bin",
        )
        found = [path for path in usual if path.is_file()][:1]
        found = found or sorted(
            path
            for path in self.folder.iterdir()
            if path.suffix in (".safetensors", ".pth", ".pt", ".bin") and path.is_file()
        )
        if len(found) != 1:
            what = f"{len(found)} weights files" if found else "no weights file"
            raise ConfigError(f"{where}: has {what}; say which: --set encoder.weights=FILE")
        return found[0]


class _Hub(NamedTuple):
    """A model of the Hugging Face hub, or of its cache on this machine."""

    place: str

    def file(self, name: str, where: str) -> Path:
        repo, _, revision = self.place.partition("@")
        try:
            return Path(hf_hub_download(repo, name, revision=revision or None))
        except Exception as cause:
            raise ConfigError(
                f"{where}: {name} could not be fetched ({first_line(cause)}); on a machine without "
                "internet fill the cache elsewhere (HF_HOME), or give its files in a folder: "
                "encoder.name=local-dir:FOLDER"
            ) from cause

    def weights(self, where: str) -> Path:
        try:
            return self.file("model.safetensors", where)
        except ConfigError:
            return self.file("pytorch_model.bin", where)


def _read(path: Path, where: str) -> Mapping[str, Any]:
    size = path.stat().st_size
    text = path.read_bytes() if size <= _LONGEST_CONFIG else b""
    try:
        found = json.loads(text) if size <= _LONGEST_CONFIG else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{where}: its {_CONFIG} is not timm's, which is a table in JSON")
    return found


def _described(
    found: Mapping[str, Any], where: str
) -> tuple[str, dict[str, Any], Mapping[str, Any]]:
    """Architecture, arguments and facts of the weights, of the present form or of the older one."""
    cfg = found.get("pretrained_cfg", found)
    name, args = found.get("architecture"), found.get("model_args") or {}
    if not isinstance(name, str) or not isinstance(cfg, dict) or not isinstance(args, dict):
        raise ConfigError(
            f"{where}: its {_CONFIG} does not say `architecture`, so it is not timm's; set "
            "encoder.name to timm's name, and encoder.weights to the file"
        )
    if not is_built_in(name):
        raise ConfigError(f"{where}: its {_CONFIG} says {name[:80]!r}, which timm does not build")
    if args.get("in_chans", 3) != 3:
        raise ConfigError(f"{where}: is for pictures of {args['in_chans']} channels, not 3")
    args = {key: one for key, one in args.items() if key not in _OF_TRAINING and one is not None}
    size = args.get("img_size")
    if size is None and cfg.get("fixed_input_size") and not args.get("dynamic_img_size"):
        size = cfg.get("input_size")
    if isinstance(size, list | tuple) and len(size) in (2, 3) and size[-1] == size[-2]:
        size = size[-1]
    return name, {**args, **({} if size is None else {"img_size": size})}, cfg


def _args(given: dict[str, Any], where: str) -> EncoderArgs:
    unknown = [name for name in given if name not in EncoderArgs.model_fields]
    if unknown:
        raise ConfigError(
            f"{where}: its {_CONFIG} has the argument {unknown[0][:80]!r}, which is not among "
            "encoder.args (docs/encoders.md lists them)"
        )
    try:
        return EncoderArgs.model_validate(given)
    except ValidationError as cause:
        first = cause.errors()[0]
        raise ConfigError(
            f"{where}: its {_CONFIG} sets {first['loc'][0]} to {str(first['input'])[:80]!r}: "
            f"{first['msg']}"
        ) from cause


def _three(values: Any, where: str) -> list[float]:
    if (
        not isinstance(values, list | tuple)
        or len(values) != 3
        or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
    ):
        raise ConfigError(f"{where} in its {_CONFIG} is not three numbers; set encoder.mean")
    return [float(one) for one in values]
