"""What batch norms of a run normalise by: decided before it begins, and said."""

from __future__ import annotations

from pathlib import Path

from pipelines.run_folder import CONFIG, begun_with
from wsi_hr.config import Config
from wsi_hr.listing import is_there
from wsi_hr.method_config import ABMILConfig
from wsi_hr.models.encoder import Encoder
from wsi_hr.models.norm_stats import norms_of
from wsi_hr.training.loop import LAST

_WORDS = {
    "batch": "by the patches at hand while training",
    "running": "by the statistics they came with, which stay as they are",
    "recalibrate": "by the statistics of {num} training patches, renewed before each epoch",
}


def settle(config: Config, run_dir: Path) -> Config:
    """The config with ``encoder.norm_stats`` decided; a run goes on as it was begun.

    Raises:
        ConfigError: the run's config.yaml cannot be read.
    """
    asked = config.encoder
    goes_on = is_there(run_dir / LAST) and is_there(run_dir / CONFIG)
    if goes_on and asked.norm_stats is None:
        begun = begun_with(run_dir).get("encoder", {}).get("norm_stats")
        if asked.freeze_bn in (None, begun != "batch"):  # else it is another run, and refused
            encoder = asked.model_copy(update={"norm_stats": begun})
            config = config.model_copy(update={"encoder": encoder})
    return config.settled()


def norms_in_words(asked: Config, config: Config, encoder: Encoder) -> list[str]:
    """What is done, and warnings of what will hardly do.

    Args:
        asked: the settings as they were given.
        config: the same, settled.
        encoder: made from them.
    """
    stats, blank = config.encoder.norm_stats, config.encoder.weights == "none"
    lines = []
    if asked.encoder.freeze_bn is not None:
        lines.append(
            f"note: encoder.freeze_bn is an old name; encoder.norm_stats={stats} says what is done"
        )
    if not norms_of(encoder.net):
        lines.append(
            f"batch norms: {config.encoder.name} has none as it is set here, so "
            "encoder.norm_stats has no effect"
        )
    else:
        words = _WORDS[encoder.norm_stats].format(num=config.encoder.norm_patches)
        lines.append(f"batch norms: {stats} ({words})")
        if stats == "running" and blank:
            lines.append(
                "warning: encoder.norm_stats running with encoder.weights none: mean 0 and "
                "variance 1 of a blank network normalise nothing, and embeddings of different "
                "patches are nearly the same; use recalibrate, or give weights"
            )
    if isinstance(config.method, ABMILConfig) and blank:
        lines.append(
            "warning: encoder.weights none: abmil's encoder never learns, so its features are "
            "those of random weights; give encoder.weights, or train end to end by another method"
        )
    return lines
