"""Training: epochs over bags, the best epoch by validation alone, resumable at any moment."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.bag_set import BagSet
from wsi_hr.config import Config
from wsi_hr.errors import CheckpointError, TrainingError
from wsi_hr.geometry import Float32Array, Int64Array
from wsi_hr.listing import is_there
from wsi_hr.method_config import DenseConfig
from wsi_hr.methods.dense import patch_loss
from wsi_hr.methods.method import Method, NoMemory, SlideMemory, StepContext
from wsi_hr.models.encoder import ChunkMemoryError
from wsi_hr.runtime import remove_folder, rng_for, seed_for, write_text_atomic
from wsi_hr.training.calibration import Calibration
from wsi_hr.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    model_tensors,
    restore_model,
    save_checkpoint,
)
from wsi_hr.training.epoch_memory import EpochMemory, forget
from wsi_hr.training.metrics import loss_metrics, slide_metrics
from wsi_hr.training.sampling import Sampling
from wsi_hr.training.update import AdamWUpdate

BEST = "best.safetensors"
LAST = "last.safetensors"
METRICS = "metrics.jsonl"
KEPT = "kept"

_LEAST_PROB = 1e-12  # of the class that is true, for its logarithm
_WAY_OUT = (
    "the last good checkpoint is kept. Lower train.lr or set train.clip_norm, and train into "
    "another folder"
)


@dataclass(frozen=True)
class TrainingSet:
    """What is learned from.

    Attributes:
        bags: opens a slide.
        train: slide ids with gradient.
        val: slide ids that choose the best epoch; may be empty, then the last epoch is best.
        labels: class index of every slide above.
        patients: whose each slide is; one that is not there is its patient's only one.
    """

    bags: BagSet
    train: tuple[str, ...]
    val: tuple[str, ...]
    labels: dict[str, int]
    patients: Mapping[str, str] = field(default_factory=dict)


def fit(
    method: Method,
    data: TrainingSet,
    config: Config,
    run_dir: Path,
    facts: dict[str, Any],
    on_epoch: Callable[[dict[str, float]], None] = lambda _: None,
    on_slides: Callable[[int], None] = lambda _: None,
) -> list[dict[str, float]]:
    """Train to the last epoch, or go on where a killed run stopped.

    All randomness derives from (seed, epoch, slide), and a checkpoint is written after every
    epoch, so a run killed anywhere and started again ends with the files of an undisturbed one
    (bit for bit on the CPU with the same number of threads).

    Args:
        method: freshly built; its weights are overwritten on resume.
        data: bags, slides and labels.
        config: seed, sampler and optimisation.
        run_dir: receives ``best.safetensors``, ``last.safetensors``, ``metrics.jsonl``; until the
            last epoch is done also ``kept/``, what the method need not compute twice.
        facts: stored with every checkpoint, so that it can be used without the run folder.
        on_epoch: told the metrics of every epoch, those of earlier runs included.
        on_slides: told how many slides each step took.

    Returns:
        Metrics per epoch, also in ``metrics.jsonl``.

    Raises:
        TrainingError: the loss is no longer a number, or the device's memory is too small.
        DeviceMemoryError: it is too small for one patch.
        StoreError: a slide's store is damaged.
        CheckpointError: what a stopped run left is damaged or does not fit.
        ConfigError: a sampler's network cannot be had.
    """
    method.keep_in(run_dir / KEPT)
    update = AdamWUpdate(method, config.train)
    sampling = Sampling(config.sampler, config.seed, method.encoder.device, run_dir)
    calibration = Calibration(
        method.encoder, data.bags, data.train, config.encoder.norm_patches, config.seed
    )

    @contextmanager
    def judged() -> Iterator[None]:
        """Inside, the model is what is judged and saved as best, statistics and all."""
        with update.judged():
            calibration.renew()
            yield

    history: list[dict[str, float]] = []
    last = run_dir / LAST
    if is_there(last):
        checkpoint = load_checkpoint(last)
        restore_model(method, checkpoint, last)
        update.restore(checkpoint)
        sampling.restore(checkpoint)
        history = checkpoint.meta["history"]
        with judged():
            _complete(run_dir, model_tensors(method), checkpoint.meta)
        _require_best(run_dir, history)
        for row in history:
            on_epoch(row)
    else:  # what a run that was stopped in its first epoch left need not be of the same settings
        forget(run_dir)
        sampling.forget()
    for epoch in range(len(history), config.train.epochs):
        torch.manual_seed(seed_for(config.seed, "torch", epoch))
        calibration.renew()
        remembers = method.remembers or sampling.reads_attention
        memory = EpochMemory(run_dir, epoch) if remembers else NoMemory()
        row = {
            "epoch": epoch,
            "train_loss": _train_epoch(
                method, data, config, update, epoch, on_slides, memory, sampling
            ),
        }
        with judged():
            found = evaluate(method, data, data.val, config.dense)
            _require_finite(method, epoch)
        row |= {f"val_{name}": value for name, value in found.items()}
        if "val_patch_loss" in row:
            row["val_total_loss"] = row["val_loss"] + config.dense.weight * row["val_patch_loss"]
        history.append(row)
        meta = {**facts, "epoch": epoch, "history": history}
        # first of all files: the others can be made from it, should the run be killed in between
        state = update.tensors() | sampling.tensors()
        save_checkpoint(last, Checkpoint(model_tensors(method) | state, meta))
        with judged():
            _complete(run_dir, model_tensors(method), meta)
        on_epoch(row)
    remove_folder(run_dir / KEPT)
    forget(run_dir)
    sampling.forget()
    return history


def _complete(run_dir: Path, model: Mapping[str, Tensor], meta: dict[str, Any]) -> None:
    """Write what follows from the last checkpoint: the best one, if it is that, and metrics."""
    history = meta["history"]
    if best_epoch(history) == history[-1]["epoch"]:
        save_checkpoint(run_dir / BEST, Checkpoint(dict(model), meta))
    lines = (json.dumps(row, sort_keys=True) + "\n" for row in history)
    write_text_atomic(run_dir / METRICS, "".join(lines))


def _require_best(run_dir: Path, history: Sequence[dict[str, float]]) -> None:
    """See that the best checkpoint is there and sound before hours are spent on going on."""
    path, wanted = run_dir / BEST, best_epoch(history)
    if load_checkpoint(path).meta["epoch"] != wanted:
        raise CheckpointError(
            f"{path}: is not of epoch {wanted + 1}, which was the best; restore it, or train again "
            "into another folder"
        )


def best_epoch(history: Sequence[dict[str, float]]) -> int:
    """The epoch of least validation loss, the earliest on a tie; the last without validation.

    Where classes of patches were learned, it is the sum of both losses, as in training.
    """
    if "val_loss" not in history[-1]:
        return int(history[-1]["epoch"])
    return int(min(history, key=lambda row: row.get("val_total_loss", row["val_loss"]))["epoch"])


def evaluate(
    method: Method, data: TrainingSet, slide_ids: Sequence[str], dense: DenseConfig
) -> dict[str, float]:
    """Metrics of the method as it is on these slides (:func:`slide_metrics`); empty for no slides.

    Those of patches, where the method learned their classes and they are known, begin with
    ``patch_``; ``patch_count`` is how many there are. Their loss is the one that is learned from,
    with every class counting as ``dense`` has it; the others are over the patches of all slides
    together.
    """
    if not slide_ids:
        return {}
    slides: list[Float32Array] = []
    losses: list[float] = []
    patches: list[Float32Array] = []
    patch_labels: list[Int64Array] = []
    patients = [data.patients.get(slide_id, slide_id) for slide_id in slide_ids]
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    patch_patients: list[Int64Array] = []
    for slide_id, patient in zip(slide_ids, patients, strict=True):
        bag = data.bags.open(slide_id)
        prediction = method.judge_bag(bag)
        slides.append(prediction.probs)
        losses.append(0.0)  # of patches: a slide whose patches are not known has none
        if prediction.patch_probs is not None and bag.patch_labels is not None:
            known = bag.patch_labels >= 0
            log_NK = torch.from_numpy(prediction.patch_probs).double().clamp_min(_LEAST_PROB).log()
            losses[-1] = float(patch_loss(log_NK[None], [bag], balanced=dense.balanced))
            patches.append(prediction.patch_probs[known])
            patch_labels.append(bag.patch_labels[known])
            patch_patients.append(np.full(len(patch_labels[-1]), numbers[patient]))
    for probs in (*slides, *patches):
        if not np.isfinite(probs).all():
            raise TrainingError(f"the model gives probabilities that are no numbers; {_WAY_OUT}")
    labels = np.array([data.labels[slide_id] for slide_id in slide_ids])
    metrics = slide_metrics(np.stack(slides), labels, patients)
    if any(map(len, patch_labels)):
        of_patches = slide_metrics(
            np.concatenate(patches), np.concatenate(patch_labels), np.concatenate(patch_patients)
        )
        metrics["patch_count"] = of_patches.pop("slides")
        metrics |= {f"patch_{name}": value for name, value in of_patches.items()}
        metrics |= loss_metrics(np.array(losses), patients, "patch_loss")
    return metrics


def _require_finite(method: Method, epoch: int) -> None:
    for name, tensor in method.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise TrainingError(f"epoch {epoch + 1}: {name} is no longer a number; {_WAY_OUT}")


def _train_epoch(
    method: Method,
    data: TrainingSet,
    config: Config,
    update: AdamWUpdate,
    epoch: int,
    on_slides: Callable[[int], None],
    memory: SlideMemory,
    sampling: Sampling,
) -> float:
    context = StepContext(
        progress=epoch / config.train.epochs,
        rng=lambda slide_id: rng_for(config.seed, epoch, slide_id, "method"),
        memory=memory,
    )
    method.train()
    losses: list[float] = []
    batches = list(_batches(data, config, epoch))
    for number, batch in enumerate(batches):
        update.set_epoch(epoch + (number + 1) / len(batches))
        bags = [
            sampling.choose(data.bags.open(slide_id), epoch, method.min_patches, memory)
            for slide_id in batch
        ]
        losses.append(_step(method, bags, update, context) * len(batch))
        on_slides(len(batch))
    return math.fsum(losses) / len(data.train)


def _step(method: Method, bags: list[Bag], update: AdamWUpdate, context: StepContext) -> float:
    """One step; where a chunk is too large for the device's memory, all of it with smaller ones."""
    while True:
        drawn = _randomness(method.encoder.device)
        try:
            return method.train_bags(bags, update, context)
        except ChunkMemoryError as cause:
            method.encoder.halve_chunk(cause)
        except torch.OutOfMemoryError as cause:
            raise TrainingError(
                f"the device's memory is too small to learn from {len(bags)} slide(s) at a time; "
                f"{method.less_memory}"
            ) from cause
        except ValueError as cause:
            if "more than 1 value per channel" not in str(cause):
                raise
            raise TrainingError(
                f"slide(s) {', '.join(bag.slide_id for bag in bags)}: too few patches for batch "
                "norm; raise train.batch_size, or set encoder.norm_stats=recalibrate (running, "
                "where weights are loaded)"
            ) from cause
        # out here nothing holds what the failed attempt kept for its gradient
        update.discard()
        _draw_again(method.encoder.device, drawn)


def _randomness(device: torch.device) -> list[Tensor]:
    """Where torch's generators stand."""
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]


def _draw_again(device: torch.device, drawn: list[Tensor]) -> None:
    torch.set_rng_state(drawn[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(drawn[1], device)
        torch.cuda.empty_cache()


def _batches(data: TrainingSet, config: Config, epoch: int) -> Iterator[list[str]]:
    """Shuffled slides in batches; a last batch of one joins the one before (batch norm)."""
    order = rng_for(config.seed, epoch, "order").permutation(len(data.train))
    size = config.train.batch_size
    firsts = list(range(0, len(order), size))
    if size > 1 and len(firsts) > 1 and len(order) - firsts[-1] == 1:
        firsts.pop()
    for first, end in zip(firsts, [*firsts[1:], len(order)], strict=True):
        yield [data.train[i] for i in order[first:end]]
