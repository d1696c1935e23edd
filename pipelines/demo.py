"""The demo: make a cohort with planted lesions, tile, train, predict, and say how well it went."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from pipelines.figures import slides_of_patients
from pipelines.lock import run_lock
from pipelines.predict import heatmap_of, predict_stage
from pipelines.run_folder import read_splits
from pipelines.sample import min_patches
from pipelines.sentences import say
from pipelines.settings import resolve
from pipelines.tile import tile_stage
from pipelines.train import LabelsSource, train_stage
from wsi_hr.config import Config
from wsi_hr.errors import ConfigError, MidwayError
from wsi_hr.file_names import file_in
from wsi_hr.machine import num_usable_cores
from wsi_hr.runtime import write_text_atomic
from wsi_hr.slide_prediction import SlidePrediction
from wsi_hr.testing.cohort import Lesions, load_lesions, make_cohort
from wsi_hr.training.intervals import proportion_interval
from wsi_hr.training.run import pick_device

RECIPES = {"dbps": "demo", "patchgd": "demo_patchgd"}
SUMMARY = "summary.json"
MIN_AUC = 0.95
MIN_POINTING = 0.8
NUM_SLIDES = 60


@dataclass(frozen=True)
class DemoReport:
    """What the demo found on its held-out slides.

    Attributes:
        auc: area under the ROC curve, and its 95 % interval.
        pointing: part of the lesion slides whose most salient patch lies on the lesion.
        seconds: of each stage.
        pictures: heatmaps of the held-out slides.
        num_slides: held out.
        num_patients: whose they are.
        pointing_ci: the 95 % interval of ``pointing``.
        num_lesion_slides: of the held-out ones.
        num_lesion_patients: whose they are.
    """

    auc: float
    auc_ci: tuple[float, float]
    pointing: float
    seconds: dict[str, float]
    pictures: tuple[Path, ...]
    num_slides: int = 0
    num_patients: int = 0
    pointing_ci: tuple[float, float] = (0.0, 1.0)
    num_lesion_slides: int = 0
    num_lesion_patients: int = 0

    @property
    def shortfalls(self) -> list[str]:
        """What fell short of what the demo should reach; empty when it held."""
        lines = []
        if self.auc < MIN_AUC:
            lines.append(f"the held-out AUC is below {MIN_AUC}")
        if self.pointing < MIN_POINTING:
            lines.append(f"pointing is below {MIN_POINTING}")
        return lines


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    method: str = "dbps",
    workers: int | None = None,
    assignments: Sequence[str] = (),
    console: Console | None = None,
) -> DemoReport:
    """Run the whole application on slides made here; writes ``out``/summary.json.

    Every stage resumes: killed and started again, the demo goes on where it was.

    Raises:
        WsiHrError: a stage could not do its work.
    """
    if method not in RECIPES:
        raise ConfigError(f"--method {method}: the demo knows {' and '.join(RECIPES)}")
    config = resolve(RECIPES[method], {"seed": seed}, assignments)
    pick_device(config.train.device)
    min_patches(config)  # what cannot be built is refused before a slide is made
    with run_lock(out):
        return _run_demo(out, config, seed, method, workers, console)


def _run_demo(
    out: Path,
    config: Config,
    seed: int,
    method: str,
    workers: int | None,
    console: Console | None,
) -> DemoReport:
    cohort, store, run, results = (
        file_in(out, name, of="folder of the demo")
        for name in (
            f"cohort-{seed}",
            f"store-{seed}",
            f"run-{seed}-{method}",
            f"predictions-{seed}-{method}",
        )
    )
    seconds: dict[str, float] = {}
    clock = _Clock(seconds, console)

    clock.start("cohort", f"making {NUM_SLIDES} slides in {cohort}")
    make_cohort(
        cohort,
        num_slides=NUM_SLIDES,
        seed=seed,
        workers=workers or num_usable_cores(),
    )
    clock.start("tile", f"tiling into {store}")
    rows = tile_stage([cohort / "slides"], store, config.tile, workers=workers, console=console)
    failed = [row for row in rows if row["status"] != "done"]
    if failed:
        raise MidwayError(
            f"{failed[0]['path']}: {failed[0]['status']} ({failed[0]['reason']}); "
            f"remove {out} and start again"
        )
    clock.start("train", f"training {method} into {run}")
    train_stage(store, LabelsSource(cohort / "labels.csv"), run, config, console)
    clock.start("predict", f"predicting the held-out slides into {results}")
    lesions, hits = load_lesions(cohort), {}

    def on_prediction(prediction: SlidePrediction) -> None:
        if lesions[prediction.slide_id].lesions:
            hits[prediction.slide_id] = pointing(prediction, lesions[prediction.slide_id])

    report = predict_stage(
        run, [store], results, split="test", console=console, on_prediction=on_prediction
    )
    done = [row.slide_id for row in report.rows if row.status == "done"]
    clock.stop()

    found = float(np.mean(list(hits.values())))
    lesion_patients = {r["patient_id"] for r in read_splits(run) if r["slide_id"] in hits}
    interval = proportion_interval(found, len(lesion_patients))
    demo = DemoReport(
        auc=report.metrics["auc"],
        auc_ci=(report.metrics["auc_low"], report.metrics["auc_high"]),
        pointing=found,
        seconds=seconds,
        pictures=tuple(heatmap_of(results, slide_id) for slide_id in done),
        num_slides=int(report.metrics["slides"]),
        num_patients=int(report.metrics["patients"]),
        pointing_ci=(interval.low, interval.high),
        num_lesion_slides=len(hits),
        num_lesion_patients=len(lesion_patients),
    )
    summary = {
        "auc": demo.auc,
        "auc_ci": list(demo.auc_ci),
        "pointing": demo.pointing,
        "pointing_ci": list(demo.pointing_ci),
        "lesion_slides": demo.num_lesion_slides,
        "lesion_patients": demo.num_lesion_patients,
        "seconds": {**seconds, "total": sum(seconds.values())},
        "seed": seed,
        "method": method,
        "held_out_slides": len(done),
        "held_out_patients": demo.num_patients,
        "shortfalls": demo.shortfalls,
        "pictures": [str(path) for path in demo.pictures],
    }
    write_text_atomic(out / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return demo


def pointing(prediction: SlidePrediction, lesions: Lesions) -> bool:
    """Whether the most salient patch has its centre on a lesion."""
    grid, best = prediction.grid, prediction.most_salient
    x0 = grid.coords[best, 0] + grid.patch_px0.x / 2
    y0 = grid.coords[best, 1] + grid.patch_px0.y / 2
    return bool(lesions.contains(x0, y0))


def print_report(report: DemoReport, out: Path, console: Console) -> None:
    """Say how it went, in words and numbers."""
    (low, high), (least, most) = report.auc_ci, report.pointing_ci
    lines = [
        f"held-out AUC   {report.auc:.3f} (95 % CI {low:.3f} to {high:.3f}), of "
        + slides_of_patients(report.num_slides, report.num_patients),
        f"pointing       {report.pointing:.2f} (95 % CI {least:.2f} to {most:.2f}) of lesion "
        "slides have their most salient patch on the lesion, of "
        + slides_of_patients(report.num_lesion_slides, report.num_lesion_patients),
        "seconds        "
        + ", ".join(f"{name} {value:.0f}" for name, value in report.seconds.items())
        + f", total {sum(report.seconds.values()):.0f}",
        f"pictures       {report.pictures[0].parent}",
        f"summary        {out / SUMMARY}",
    ]
    lines += [f"FELL SHORT     {text}" for text in report.shortfalls]
    say(console, *lines)


class _Clock:
    """Times the stages, and tells the reader which one runs."""

    def __init__(self, seconds: dict[str, float], console: Console | None) -> None:
        self._seconds = seconds
        self._console = console
        self._stage: str | None = None
        self._since = 0.0

    def start(self, stage: str, sentence: str) -> None:
        self.stop()
        say(self._console, f"[{stage}] {sentence}")
        self._stage, self._since = stage, time.perf_counter()

    def stop(self) -> None:
        if self._stage is not None:
            self._seconds[self._stage] = round(time.perf_counter() - self._since, 1)
        self._stage = None
