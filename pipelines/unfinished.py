"""Whether a run has ended: until then it can be looked at, but its test side stays closed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pipelines.record import RECORD
from pipelines.run_folder import SPLITS
from wsi_hr.errors import CheckpointError
from wsi_hr.listing import is_there
from wsi_hr.training.checkpoint import checkpoint_meta
from wsi_hr.training.loop import BEST, LAST
from wsi_hr.training.run import TrainedRun


def why_unfinished(run_dir: Path, run: TrainedRun) -> str | None:
    """Why a run's test side stays closed, to be said of it; None: it has ended, or has none here.

    Raises:
        CheckpointError: the best checkpoint's header is damaged.
    """
    wanted = run.config.train.epochs
    if len(checkpoint_meta(run_dir / BEST)["history"]) >= wanted:
        return None
    with suppress(CheckpointError):  # gone or damaged: what else is there tells less
        done = len(checkpoint_meta(run_dir / LAST)["history"])
        return f"has not ended ({done} of {wanted} epochs are done)" if done < wanted else None
    if is_there(run_dir / RECORD) or not is_there(run_dir / SPLITS):
        return None  # written when it ended; or there is nothing but a model to predict with
    return f"may not have ended (it has neither {LAST} nor {RECORD}, which would tell)"
