"""Checkpoints: one safetensors file, no pickle, written whole or not at all, checked on load."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from wsi_hr.errors import CheckpointError, reading
from wsi_hr.listing import is_there
from wsi_hr.runtime import atomic_path

_OURS = "wsi_hr"
_HEADER_SIZE = 8  # bytes in front of the header, which say how long it is
_LONGEST_REASON = 300  # characters; torch lists every tensor


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and what they mean.

    Attributes:
        tensors: weights under ``model.*``, optimiser state under ``optimizer.*``.
        meta: JSON-able facts: config, classes, epoch, history.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 over names, types, shapes, bytes and facts."""
        return _digest(self.tensors, json.dumps(self.meta, sort_keys=True))


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically, with a SHA-256 over names, types, shapes, bytes and facts.

    Raises:
        WriteError: it cannot be written, e.g. because the disk is full; the old one stays.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    meta = json.dumps(checkpoint.meta, sort_keys=True)
    # one key only: safetensors writes several in random order, and equal runs give equal bytes
    facts = json.dumps({"meta": meta, "sha256": _digest(tensors, meta)})
    # not by the library's save_file: it writes under a name, and with a mode, of its own
    with atomic_path(path) as tmp:
        tmp.write_bytes(save(tensors, {_OURS: facts}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint; code in it is never run.

    Raises:
        CheckpointError: missing, truncated, altered, or not one of ours.
        ReadError: it cannot be read just now.
    """
    if not is_there(path):
        raise CheckpointError(f"{path}: no such checkpoint; was this run folder trained?")
    # not by the library's safe_open: it maps the file, and a disk that fails then ends the process
    with reading(path):
        content = path.read_bytes()
    try:
        tensors = load(content)
        end = _HEADER_SIZE + int.from_bytes(content[:_HEADER_SIZE], "little")
        header = json.loads(content[_HEADER_SIZE:end])
        ours = header.get("__metadata__", {}).get(_OURS)
    except (SafetensorError, ValueError) as cause:
        raise CheckpointError(
            f"{path}: damaged or not a checkpoint ({cause}); restore it or train again"
        ) from cause
    if ours is None:
        raise CheckpointError(f"{path}: not a wsi-hr checkpoint; give a folder wsi-hr train wrote")
    try:
        facts = json.loads(ours)
        meta, sha256 = facts["meta"], facts["sha256"]
    except (ValueError, KeyError, TypeError) as cause:
        raise CheckpointError(
            f"{path}: its header is damaged; restore it or train again"
        ) from cause
    if _digest(tensors, meta) != sha256:
        raise CheckpointError(
            f"{path}: its content does not match its checksum; restore it or train again"
        )
    return Checkpoint(tensors, json.loads(meta))


def checkpoint_meta(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint alone: cheap, and not held against its checksum.

    Raises:
        CheckpointError: missing, damaged in its header, or not one of ours.
        ReadError: it cannot be read just now.
    """
    if not is_there(path):
        raise CheckpointError(f"{path}: no such checkpoint; was this run folder trained?")
    with reading(path), path.open("rb") as file:
        size = min(int.from_bytes(file.read(_HEADER_SIZE), "little"), path.stat().st_size)
        header = file.read(size)
    try:
        return json.loads(json.loads(json.loads(header)["__metadata__"][_OURS])["meta"])
    except (ValueError, KeyError, TypeError) as cause:
        raise CheckpointError(
            f"{path}: its header is damaged; restore it or train again"
        ) from cause


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's state under checkpoint names."""
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def restore_model(model: nn.Module, checkpoint: Checkpoint, where: Path) -> None:
    """Load the weights; every one of them must fit.

    Raises:
        CheckpointError: a weight is missing, extra, or of another shape.
    """
    state = _under("model.", checkpoint.tensors)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as cause:
        reasons = " ".join(str(cause).split())[:_LONGEST_REASON]
        raise CheckpointError(
            f"{where}: its weights do not fit the run's model ({reasons}); use the version of "
            "wsi-hr and timm that wrote it, or train again into another folder"
        ) from cause


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state under checkpoint names ``optimizer.<parameter>.<what>``."""
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{what}": tensor
        for number, facts in state.items()
        for what, tensor in facts.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Load the optimiser's state; the learning rate is set anew by the trainer."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", checkpoint.tensors).items():
        number, what = name.split(".", 1)
        state.setdefault(int(number), {})[what] = tensor
    own = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _digest(tensors: dict[str, Tensor], meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
