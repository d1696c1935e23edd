"""Figures in words: with the slides and patients they are of, and what these leave open."""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
}
_SHOWN_EACH_EPOCH = {"val_loss": "val loss", "val_auc": "val AUC", "val_patch_auc": "val patch AUC"}


def in_words(metrics: Mapping[str, float]) -> str:
    """``loss 0.412 (95 % 0.310 to 0.514), ... AUC 0.912 (...), of 12 slides of 9 patients``.

    Args:
        metrics: as :func:`wsi_hr.training.loop.evaluate` gives them.
    """
    parts = []
    for prefix, of in (("", _slides(metrics)), ("patch_", _patches(metrics))):
        named = [
            f"{prefix.replace('_', ' ')}{name} {figure(metrics, prefix + key)}"
            for key, name in _NAMES.items()
            if prefix + key in metrics
        ]
        parts += [f"{', '.join(named)}{of}"] if named else []
    return "; ".join(parts)


def epoch_in_words(row: Mapping[str, float], trained_on: str) -> str:
    """One line on an epoch.

    Args:
        row: of ``metrics.jsonl``.
        trained_on: whose the training loss is, such as ``40 slides of 31 patients``.
    """
    line = f"epoch {int(row['epoch']) + 1}: loss {row['train_loss']:.3f} of {trained_on}"
    judged = [f"{name} {figure(row, key)}" for key, name in _SHOWN_EACH_EPOCH.items() if key in row]
    return f"{line}; {', '.join(judged)}{_slides(row, 'val_')}" if judged else line


def figure(metrics: Mapping[str, float], key: str) -> str:
    """``0.912 (95 % 0.812 to 0.967)``."""
    value = f"{metrics[key]:.3f}"
    if f"{key}_low" in metrics:
        return f"{value} (95 % {metrics[f'{key}_low']:.3f} to {metrics[f'{key}_high']:.3f})"
    return f"{value} (no interval)"


def slides_of_patients(num_slides: float, num_patients: float) -> str:
    """``12 slides of 9 patients``."""
    return f"{_several(num_slides, 'slide')} of {_several(num_patients, 'patient')}"


def _slides(metrics: Mapping[str, float], prefix: str = "") -> str:
    if f"{prefix}patients" not in metrics:  # an epoch that an earlier wsi-hr judged
        return ""
    return f", of {slides_of_patients(metrics[f'{prefix}slides'], metrics[f'{prefix}patients'])}"


def _patches(metrics: Mapping[str, float]) -> str:
    if "patch_count" not in metrics:
        return ""
    patients = _several(metrics["patch_patients"], "patient")
    return f", of {_several(metrics['patch_count'], 'patch', 'patches')} of {patients}"


def _several(num: float, one: str, many: str | None = None) -> str:
    return f"{int(num)} {one if num == 1 else many or f'{one}s'}"
