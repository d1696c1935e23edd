"""The table of learning targets: methods side by side, and what they cost in frozen passes.

    python benchmarks/learning.py [--quick] [--json OUT]

Every method learns with the same encoder on the same patches: milliseconds a step, peak memory
(above that of the same process before its first step; on CUDA the device's), and the held-out AUC
on a cohort with planted lesions, which has an encoder of its own. A frozen pass is the bare
encoder's forward over the same patches, timed before and after whatever is told in it. Medians are
printed with the least and greatest; all numbers are in the JSON. ``--quick`` measures the same
with a smaller encoder, fewer rounds, and a cohort too small for its AUC to say much.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.learning_cohort import Cohort, measure_metrics
from benchmarks.learning_memory import measure_memory
from benchmarks.learning_rows import ROWS, reason
from benchmarks.learning_time import Missing, measure_passes, measure_steps
from benchmarks.measure import TARGET_HEADING, Rounds, Target, machine
from wsi_hr.training.run import pick_device

_PACKAGES = ("torch", "timm", "numpy", "simplejpeg", "wsi-hr")

TARGETS = {
    "dbps_vs_gd_time_x": Target("DBPS step against all patches: time, x", 0.5, 0.4, low=True),
    "dbps_vs_gd_memory_x": Target("DBPS step against all patches: memory, x", 0.2, 0.15, low=True),
    "scan_overhead_x": Target("scan, frozen passes", 1.15, 1.05, low=True),
    "patchgd_exact_epoch_x": Target("epoch of exact PatchGD, frozen passes", 5.5, 4.5, low=True),
    "dbps_epoch_x": Target("epoch of DBPS, frozen passes", 1.3, 1.1, low=True),
    "dbps_refresh_epoch_x": Target(
        "epoch of DBPS, 20 % refreshed, frozen passes", 0.5, 0.3, low=True
    ),
    "prediction_x": Target("prediction of one slide, frozen passes", 1.15, 1.05, low=True),
    "memory_ratio_100k_1k": Target(
        "peak memory of the process, N = 100,000 / 1,000, worst", 1.05, 1.02, low=True
    ),
}


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
    """

    encoder: str = "resnet18"
    patch_px: int = 50
    num_bags: int = 4
    num_patches: int = 256
    pass_patches: int = 1024
    repeats: int = 3
    memory_encoder: str = "test_resnet"
    memory_px: int = 32
    memory_sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    cohort: Cohort = Cohort()

    @property
    def settings(self) -> list[str]:
        """Texts of ``--set``."""
        return [f"encoder.name={self.encoder}"]


FULL = Scale()
QUICK = Scale(
    encoder="resnet10t", patch_px=32, num_bags=1, pass_patches=512, repeats=3,
    memory_px=16, cohort=Cohort(num_slides=12, size_px=3072, epochs=2),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None, scale: Scale | None = None) -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Print the table of learning targets.")
    parser.add_argument("--quick", action="store_true", help="the same at a smaller scale")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    given = parser.parse_args(arguments)
    report = measure(scale or (QUICK if given.quick else FULL))
    print_table(report)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(scale: Scale) -> dict:
    """All figures at one scale."""
    facts = machine(_PACKAGES)
    device = pick_device("auto")
    facts["gpu"] = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    facts["threads"] = torch.get_num_threads()
    missing: Missing = {}
    steps, more = measure_steps(
        scale.settings, num_bags=scale.num_bags, num_patches=scale.num_patches,
        patch_px=scale.patch_px, repeats=scale.repeats,
    )  # fmt: skip
    missing |= more
    passes, more = measure_passes(
        scale.settings, num_patches=scale.pass_patches, patch_px=scale.patch_px,
        repeats=scale.repeats,
    )  # fmt: skip
    missing |= more
    peaks, more = measure_peaks(scale)
    missing |= more
    memory, more = measure_flatness(scale)
    missing |= more
    metrics, more = measure_metrics(scale.cohort)
    missing |= more
    report = {
        "methods": {
            name: {
                "ms_per_step": _median(steps, f"{name}_ms"),
                "peak_mib": peaks.get(name),
                "metric": metrics.get(name, {}).get("auc"),
                "accuracy": metrics.get(name, {}).get("accuracy"),
            }
            for name in ROWS
        },
        "metric": scale.cohort.metric,
        "dbps_vs_gd_time_x": _median(steps, "dbps_vs_gd_x"),
        "dbps_vs_gd_memory_x": _ratio(peaks.get("dbps"), peaks.get("gd")),
        **{name: _median(passes, name) for name in passes.values},
        "memory_ratio_100k_1k": _worst_ratio(memory, with_idle=True),
        "memory_above_idle_ratio_100k_1k": _worst_ratio(memory, with_idle=False),
        "memory": memory,
        "metrics": metrics,
        "missing": missing,
        "spread": {
            name: rounds.spread(name) for rounds in (steps, passes) for name in rounds.values
        },
        "rounds": {**steps.values, **passes.values},
        "scale": asdict(scale),
        "machine": facts,
    }
    return {name: _rounded(value) for name, value in report.items()}


def measure_peaks(scale: Scale) -> tuple[dict[str, float], Missing]:
    """MiB of a step of every row, with the slides of :func:`measure_steps`."""
    peaks, missing = {}, {}
    for name, row in ROWS.items():
        try:
            (peaks[name],) = measure_memory(
                [*scale.settings, *row.settings], [scale.num_patches],
                num_bags=scale.num_bags, patch_px=scale.patch_px,
            ).above  # fmt: skip
        except Exception as error:  # one method's failure is no other's
            missing[f"{name} peak"] = reason(error)
    return peaks, missing


def measure_flatness(scale: Scale) -> tuple[dict[str, dict[str, float]], Missing]:
    """MiB of a step and a prediction of a slide of N patches, for each N, where flat is meant.

    Above what the process had before, which stands there as ``idle``.
    """
    memory, missing = {}, {}
    for name, row in ROWS.items():
        if row.streaming is None:
            continue
        settings = [f"encoder.name={scale.memory_encoder}", *row.settings, *row.streaming]
        try:
            peaks = measure_memory(
                settings, scale.memory_sizes, patch_px=scale.memory_px, endless=True, predict=True
            )
        except Exception as error:  # one method's failure is no other's
            missing[f"{name} memory"] = reason(error)
            continue
        above = dict(zip(map(str, scale.memory_sizes), peaks.above, strict=True))
        memory[name] = {"idle": peaks.idle, **above}
    return memory, missing


def print_table(report: dict) -> None:
    """The methods side by side, then the figures against their targets."""
    facts, scale = report["machine"], report["scale"]
    print(f"{facts['gpu'] or facts['cpu']}, {facts['cores']} cores")
    print(
        f"step: {scale['num_bags']} x {scale['num_patches']} patches of {scale['patch_px']} px, "
        f"{scale['encoder']}; metric: {report['metric']}"
    )
    print(f"{'':24}{'ms/step':>10}{'peak MiB':>10}{'AUC':>8}{'accuracy':>10}")
    for name, found in report["methods"].items():
        cells = [found[key] for key in ("ms_per_step", "peak_mib", "metric", "accuracy")]
        widths = (10, 10, 8, 10)
        texts = ["-" if cell is None else f"{cell:.4g}" for cell in cells]
        line = "".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))
        print(f"{ROWS[name].what:24}{line}")
    sizes = scale["memory_sizes"]
    print(f"\n{'peak MiB above idle, N =':24}" + "".join(f"{num:>10,}" for num in sizes))
    for name, found in report["memory"].items():
        cells = "".join(f"{found[str(num)]:10.4g}" for num in sizes)
        print(f"{ROWS[name].what:24}{cells}")
    print(f"\n{TARGET_HEADING}")
    for name, target in TARGETS.items():
        value = report.get(name)
        value = math.nan if value is None else value
        print(target.line(value, *report["spread"].get(name, (value, value))))
    above = report["memory_above_idle_ratio_100k_1k"]
    print(f"peak above the idle process, N = 100,000 / 1,000, worst: {above or math.nan:.4g}")
    for name, why in report["missing"].items():
        print(f"not measured: {name}: {why}")


def _worst_ratio(memory: dict[str, dict[str, float]], *, with_idle: bool) -> float | None:
    """Peak at N = 100,000 in peaks at N = 1,000, the worst of all methods."""
    return max(
        (
            (found["100000"] + found["idle"] * with_idle)
            / (found["1000"] + found["idle"] * with_idle)
            for found in memory.values()
            if "100000" in found
        ),
        default=None,
    )


def _median(rounds: Rounds, name: str) -> float | None:
    return rounds.median(name) if name in rounds.values else None


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def _rounded(value: object) -> object:
    """Five digits tell all."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value


if __name__ == "__main__":
    main()
