"""The table of learning targets: methods side by side, and what they cost in frozen passes.

    python benchmarks/learning.py [--quick] [--only PART] [--row METHOD] [--json OUT]

Every method learns with the same encoder on the same patches: milliseconds a step, peak memory
(above that of the same process before its first step; on CUDA the device's), and the held-out AUC
on a cohort with planted lesions, which has an encoder of its own. A frozen pass is the bare
encoder's forward over the same patches, timed before and after whatever is told in it. On a cohort
of larger slides the choices of a scan that is refreshed in part are held against those of a full
one. Medians are printed with the least and greatest; all numbers are in the JSON. ``--quick``
measures the same with a smaller encoder, fewer rounds, and cohorts too small to say much. The JSON
is written after every part; ``--only`` measures one part anew and keeps the others that stand
there, and of that part the rows that ``--row`` does not name.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.learning_cohort import Cohort, measure_metrics
from benchmarks.learning_memory import measure_memory
from benchmarks.learning_refresh import measure_refresh
from benchmarks.learning_report import Part, print_table, report_of
from benchmarks.learning_rows import ROWS, reason
from benchmarks.learning_time import Missing, measure_passes, measure_steps
from benchmarks.measure import machine
from wsi_hr.training.run import pick_device

_PACKAGES = ("torch", "timm", "numpy", "simplejpeg", "wsi-hr")


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        encoder: a timm model; of everything but the cohort.
        patch_px: edge of a patch; of everything but the cohort.
        num_bags: slides of a step.
        num_patches: of each of them.
        pass_patches: of the slide whose passes are timed.
        repeats: rounds.
        memory_encoder: a timm model, where memory is measured over N.
        memory_px: edge of a patch there.
        memory_sizes: N there, rising.
        cohort: what the methods are told apart on.
        refresh_cohort: what DBPS learns while its refreshed scan is held against a full one.
    """

    encoder: str = "resnet18"
    patch_px: int = 50
    num_bags: int = 4
    num_patches: int = 256
    pass_patches: int = 2048
    repeats: int = 3
    memory_encoder: str = "test_resnet"
    memory_px: int = 32
    memory_sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    cohort: Cohort = Cohort()
    refresh_cohort: Cohort = Cohort(num_slides=30, size_px=12288, epochs=12)

    @property
    def settings(self) -> list[str]:
        """Texts of ``--set``."""
        return [f"encoder.name={self.encoder}"]


FULL = Scale()
QUICK = Scale(
    encoder="resnet10t", patch_px=32, num_bags=1, pass_patches=512, repeats=3,
    memory_px=16, cohort=Cohort(num_slides=12, size_px=3072, epochs=2),
    refresh_cohort=Cohort(num_slides=12, size_px=6144, epochs=6),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None, scale: Scale | None = None) -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Print the table of learning targets.")
    parser.add_argument("--quick", action="store_true", help="the same at a smaller scale")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="PART",
        help=f"measure this part only, may be repeated: {', '.join(PARTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--row", action="append", choices=ROWS, metavar="METHOD",
        help="with --only peaks, flatness or cohort: this method only, may be repeated",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    if given.row and not set(given.only or PARTS) <= {"peaks", "flatness", "cohort"}:
        parser.error("--row: steps and passes compare all methods; add --only")
    scale = scale or (QUICK if given.quick else FULL)
    parts: dict[str, Part] = {}
    if given.only and given.json and given.json.exists():
        parts = kept_parts(json.loads(given.json.read_text()), scale)
    for name in given.only or PARTS:
        kept = parts.get(name, {}) if given.row else {}
        on = {"machine": facts()}
        for found in PARTS[name](scale, given.row or list(ROWS)):
            parts[name] = joined(kept, found) | on
            if given.json:
                given.json.write_text(json.dumps(report_of(parts, asdict(scale)), indent=1) + "\n")
    print_table(report_of(parts, asdict(scale)))


def kept_parts(report: dict, scale: Scale) -> dict[str, Part]:
    """The parts of an earlier report.

    Raises:
        SystemExit: they were measured at another scale.
    """
    if json.loads(json.dumps(asdict(scale))) != report["scale"]:
        sys.exit("the JSON is of another scale; write to another file")
    return report["parts"]


def joined(kept: Part, found: Part) -> Part:
    """A part of which some rows were measured anew."""
    part = {
        key: kept.get(key, {}) | value if isinstance(value, dict) else value
        for key, value in found.items()
    }
    anew = {row for value in found.values() if isinstance(value, dict) for row in value}
    part["missing"] = found["missing"] | {
        row: why for row, why in kept.get("missing", {}).items() if row not in anew
    }
    return part


def facts() -> dict[str, object]:
    """What a part is measured on and with."""
    device = pick_device("auto")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {**machine(_PACKAGES), "gpu": gpu, "threads": torch.get_num_threads()}


def measure_all_steps(scale: Scale, _: Sequence[str]) -> Iterator[Part]:
    """Times of a step of every row."""
    rounds, missing = measure_steps(
        scale.settings, num_bags=scale.num_bags, num_patches=scale.num_patches,
        patch_px=scale.patch_px, repeats=scale.repeats,
    )  # fmt: skip
    yield {"rounds": rounds.values, "missing": missing}


def measure_all_passes(scale: Scale, _: Sequence[str]) -> Iterator[Part]:
    """What is told in frozen passes."""
    rounds, missing = measure_passes(
        scale.settings, num_patches=scale.pass_patches, patch_px=scale.patch_px,
        repeats=scale.repeats,
    )  # fmt: skip
    yield {"rounds": rounds.values, "missing": missing}


def measure_peaks(scale: Scale, rows: Sequence[str]) -> Iterator[Part]:
    """MiB of a step of each of ``rows``, with the slides of :func:`measure_steps`."""
    peaks: dict[str, float] = {}
    missing: Missing = {}
    for name in rows:
        try:
            (peaks[name],) = measure_memory(
                [*scale.settings, *ROWS[name].settings], [scale.num_patches],
                num_bags=scale.num_bags, patch_px=scale.patch_px,
            ).above  # fmt: skip
        except Exception as error:  # one method's failure is no other's
            missing[name] = reason(error)
        yield {"peaks": peaks, "missing": missing}


def measure_flatness(scale: Scale, rows: Sequence[str]) -> Iterator[Part]:
    """MiB of a step and a prediction of a slide of N patches, for each N, where flat is meant.

    Above what the process had before, which stands there as ``idle``.
    """
    memory: dict[str, dict[str, float]] = {}
    missing: Missing = {}
    for name in rows:
        row = ROWS[name]
        if row.streaming is None:
            continue
        settings = [f"encoder.name={scale.memory_encoder}", *row.settings, *row.streaming]
        try:
            peaks = measure_memory(
                settings, scale.memory_sizes, patch_px=scale.memory_px, endless=True, predict=True
            )
        except Exception as error:  # one method's failure is no other's
            missing[name] = reason(error)
        else:
            above = dict(zip(map(str, scale.memory_sizes), peaks.above, strict=True))
            memory[name] = {"idle": peaks.idle, **above}
        yield {"memory": memory, "missing": missing}


def measure_cohort(scale: Scale, rows: Sequence[str]) -> Iterator[Part]:
    """Metrics of each of ``rows`` on held-out slides."""
    for metrics, missing in measure_metrics(scale.cohort, rows):
        yield {"metrics": metrics, "missing": missing, "metric": scale.cohort.metric}


def measure_refreshed(scale: Scale, _: Sequence[str]) -> Iterator[Part]:
    """What a scan that is refreshed in part misses."""
    try:
        yield {"refresh": measure_refresh(scale.refresh_cohort), "missing": {}}
    except Exception as error:  # one part's failure is no other's
        yield {"refresh": {}, "missing": {"dbps": reason(error)}}


PARTS: dict[str, Callable[[Scale, Sequence[str]], Iterator[Part]]] = {
    "steps": measure_all_steps,
    "passes": measure_all_passes,
    "peaks": measure_peaks,
    "flatness": measure_flatness,
    "cohort": measure_cohort,
    "refresh": measure_refreshed,
}


if __name__ == "__main__":
    main()
