"""A trained run seen from outside: the model, its classes, and what its patches must look like."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsi_hr.config import Config, TileConfig
from wsi_hr.errors import CheckpointError, ConfigError
from wsi_hr.method_config import encoder_px
from wsi_hr.methods import build_method
from wsi_hr.methods.method import Method
from wsi_hr.models.encoder import build_encoder
from wsi_hr.remote import Place
from wsi_hr.training.checkpoint import Checkpoint, load_checkpoint, restore_model
from wsi_hr.training.loop import BEST


@dataclass(frozen=True)
class TrainedRun:
    """The best epoch of a run, ready to predict.

    Attributes:
        method: on its device, weights loaded.
        config: the run's settings; ``config.tile`` is how its patches were cut.
        classes: names, in the order of the probabilities; those of patches are
            ``config.dense.names``, where it has classes.
        epoch: which epoch it is, from 0.
        digest: SHA-256 of the checkpoint's content.
    """

    method: Method
    config: Config
    classes: tuple[str, ...]
    epoch: int
    digest: str


def run_facts(config: Config, classes: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint carries so that it can be used without its run folder."""
    return {"config": config.model_dump(mode="json"), "classes": list(classes)}


def load_run(run_dir: Path, *, device: str = "auto") -> TrainedRun:
    """Load the best epoch.

    Args:
        run_dir: what ``wsi-hr train`` wrote.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        CheckpointError: the run was not trained, or its checkpoint is damaged.
        ConfigError: the device is not there.
    """
    path = run_dir / BEST
    where = pick_device(device)
    checkpoint: Checkpoint = load_checkpoint(path)
    try:
        config = Config.model_validate(checkpoint.meta["config"]).settled()
        classes = tuple(checkpoint.meta["classes"])
        epoch = int(checkpoint.meta["epoch"])
    except (KeyError, TypeError, ValueError) as cause:
        raise CheckpointError(
            f"{path}: written by another version of wsi-hr ({cause}); train again or use that one"
        ) from cause
    reads_px = encoder_px(config.method, config.tile.patch_size)
    encoder = build_encoder(config.encoder, reads_px, load_weights=False)
    method = build_method(config.method, encoder, [1.0] * len(classes), config.dense)
    restore_model(method, checkpoint, path)
    method = method.to(where).eval()
    return TrainedRun(method, config, classes, epoch, checkpoint.digest)


def require_same_tiling(run: TileConfig, store: TileConfig, where: Place) -> None:
    """A model is only used on patches cut as those it learned from.

    Raises:
        CheckpointError: naming every setting that differs, with both values.
    """
    differing = [
        f"{name} is {getattr(store, name)} in the store, {getattr(run, name)} in the run"
        for name in ("mpp", "patch_size", "icc", "stain")
        if getattr(store, name) != getattr(run, name)
    ]
    if differing:
        raise CheckpointError(
            f"{where}: does not fit the run: {'; '.join(differing)}; "
            "tile with the run's settings, or give wsi-hr predict the slides themselves"
        )


def pick_device(name: str) -> torch.device:
    """The device a setting names.

    Raises:
        ConfigError: it is unknown or not present.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name, re.ASCII):
        raise ConfigError(f"device {name}: unknown; use auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name}: {torch.cuda.device_count()} CUDA device(s) here; "
            "see wsi-hr doctor, or use --device cpu"
        )
    return device
