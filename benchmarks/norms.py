"""What batch norms normalise by, and what is learned: the exact gradient from random weights.

    python -m benchmarks.norms [--seed 0 ...] [--stats recalibrate ...] [--json OUT]

For every seed a cohort of the demo is made and tiled, and ``wsi-hr train`` learns from it by
PatchGD with the exact gradient, once for every way to normalise: the settings of the recipe
``demo_patchgd``, but for more epochs, of which the val side chooses one, and fewer patches of a
slide in each. Seeds, and within a seed the ways, differ in nothing else. What is kept of a run is
its record's figures of the held-out slides, and its history.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from pipelines.settings import resolve
from pipelines.tile import tile_stage
from wsi_hr.testing.cohort import make_cohort

SETTINGS = ("method.exact=true", "train.epochs=40", "sampler.drop=0.7")
STATS = ("recalibrate", "running")
NUM_SLIDES = 60
_COMMAND = "from pipelines.cli import main; main()"


def measure(
    folder: Path, seeds: Sequence[int], stats: Sequence[str], threads: int
) -> Iterator[Any]:
    """A run after the other, what came of each.

    Raises:
        CalledProcessError: one ended with an error.
    """
    for seed in seeds:
        cohort = folder / f"seed-{seed}"
        make_cohort(cohort, num_slides=NUM_SLIDES, seed=seed)
        tile_stage([cohort / "slides"], cohort / "store", resolve("demo_patchgd", {}, ()).tile)
        for way in stats:
            begun = time.monotonic()
            run = cohort / way
            settings = (*SETTINGS, f"encoder.norm_stats={way}", f"train.threads={threads}")
            subprocess.run(
                [
                    *(sys.executable, "-c", _COMMAND, "train", str(cohort / "store")),
                    *("--labels", str(cohort / "labels.csv"), "-o", str(run), "--device", "cpu"),
                    *("--recipe", "demo_patchgd", "--seed", str(seed)),
                    *(word for setting in settings for word in ("--set", setting)),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            record = json.loads((run / "run.json").read_text())
            history = [
                json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
            ]
            yield {
                "seed": seed,
                "norm_stats": way,
                "test": record["test"],
                "best_epoch": record["best"]["epoch"],
                "train_loss": [round(row["train_loss"], 4) for row in history],
                "val_loss": [round(row["val_loss"], 4) for row in history],
                "val_auc": [round(row["val_auc"], 4) for row in history],
                "seconds": round(time.monotonic() - begun, 1),
            }


def main() -> None:
    """Train, print, write the JSON after every run."""
    parser = argparse.ArgumentParser(description="What batch norms normalise by, and AUCs.")
    parser.add_argument("--seed", type=int, action="append", help="may be repeated (default 0 1 2)")
    parser.add_argument("--stats", choices=STATS, action="append", help="may be repeated")
    parser.add_argument("--threads", type=int, default=1, help="for arithmetic (default 1)")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    given = parser.parse_args()
    report: dict[str, Any] = {
        "settings": ["recipe demo_patchgd", *SETTINGS],
        "slides": NUM_SLIDES,
        "machine": machine(("torch", "timm")),
        "runs": [],
    }
    print(f"{'seed':>4}  {'norm_stats':12}{'held-out AUC':>13}{'epoch':>7}{'seconds':>9}")
    with tempfile.TemporaryDirectory(prefix="wsi-hr-bench-") as scratch:
        for found in measure(
            Path(scratch), given.seed or (0, 1, 2), given.stats or STATS, given.threads
        ):
            report["runs"].append(found)
            print(
                f"{found['seed']:4}  {found['norm_stats']:12}{found['test']['auc']:13.3f}"
                f"{found['best_epoch'] + 1:7}{found['seconds']:9.0f}",
                flush=True,
            )
            if given.json:
                given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
