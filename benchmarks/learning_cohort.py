"""How well methods tell lesion from normal slides, each trained on the same cohort."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.learning_rows import ROWS, reason
from pipelines.settings import resolve
from pipelines.tile import tile_stage
from pipelines.train import LabelsSource, train_stage
from wsi_hr.config import Config
from wsi_hr.testing.cohort import make_cohort


@dataclass(frozen=True)
class Cohort:
    """The demo's slides and settings, or fewer and smaller ones.

    Attributes:
        num_slides: half of them carry a lesion; a third is held out.
        size_px: edge of a slide, level-0 px.
        epochs: that every method learns for.
        seed: of slides and training.
    """

    num_slides: int = 60
    size_px: int = 6144
    epochs: int = 20
    seed: int = 0

    @property
    def metric(self) -> str:
        """What the figure is."""
        return (
            f"held-out AUC on {self.num_slides} slides with planted lesions, {self.epochs} epochs, "
            "encoder test_resnet from scratch"
        )


# Steady-state settings of the table's rows would leave out what makes a method learn from scratch.
AS_SHIPPED = "method.explore="


@contextmanager
def tiled(cohort: Cohort) -> Iterator[Path]:
    """A folder that holds ``store`` and ``labels.csv`` of a cohort, for as long as it is asked."""
    with tempfile.TemporaryDirectory(prefix="wsi-hr-bench-") as scratch:
        folder = Path(scratch)
        make_cohort(folder, num_slides=cohort.num_slides, size_px=cohort.size_px, seed=cohort.seed)
        tile_stage([folder / "slides"], folder / "store", resolve("demo", {}, ()).tile)
        yield folder


def settings_for(cohort: Cohort, assignments: Sequence[str]) -> Config:
    """The demo's settings, but for what is assigned as by ``--set``."""
    return resolve("demo", {"seed": cohort.seed, "train.epochs": cohort.epochs}, assignments)


Metrics = dict[str, dict[str, float]]


def measure_metrics(
    cohort: Cohort, rows: Sequence[str]
) -> Iterator[tuple[Metrics, dict[str, str]]]:
    """Metrics of ``rows`` on the held-out slides, and which have none, and why; so far."""
    metrics: Metrics = {}
    missing: dict[str, str] = {}
    with tiled(cohort) as folder:
        for name in rows:
            chosen = [text for text in ROWS[name].settings if not text.startswith(AS_SHIPPED)]
            try:
                config = settings_for(cohort, chosen)
                labels = LabelsSource(folder / "labels.csv")
                report = train_stage(folder / "store", labels, folder / name, config, None)
            except Exception as error:  # one method's failure is no other's
                missing[name] = reason(error)
            else:
                metrics[name] = report.test
            yield metrics, missing
