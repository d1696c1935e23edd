"""The learning table: what its figures are, given what was measured, and how it is printed."""

from __future__ import annotations

import math
import statistics
from typing import Any

from benchmarks.learning_rows import ROWS
from benchmarks.measure import TARGET_HEADING, Rounds, Target

Part = dict[str, Any]
"""What one part of the benchmark found: ``rounds``, ``peaks``, ``memory``, ``metrics`` or
``refresh`` by name; ``missing`` and why; ``machine``."""

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


def report_of(parts: dict[str, Part], scale: dict[str, Any]) -> dict[str, Any]:
    """All figures that follow from what was measured, and that itself."""
    rounds = Rounds()
    for name in ("steps", "passes"):
        rounds.values.update(parts.get(name, {}).get("rounds", {}))
    peaks: dict[str, float] = parts.get("peaks", {}).get("peaks", {})
    memory = parts.get("flatness", {}).get("memory", {})
    metrics = parts.get("cohort", {}).get("metrics", {})
    refresh = parts.get("refresh", {}).get("refresh", {})
    report = {
        "methods": {
            name: {
                "ms_per_step": _median(rounds, f"{name}_ms"),
                "peak_mib": peaks.get(name),
                "metric": metrics.get(name, {}).get("auc"),
                "accuracy": metrics.get(name, {}).get("accuracy"),
            }
            for name in ROWS
        },
        "metric": parts.get("cohort", {}).get("metric"),
        "dbps_vs_gd_time_x": _median(rounds, "dbps_vs_gd_x"),
        "dbps_vs_gd_memory_x": _ratio(peaks.get("dbps"), peaks.get("gd")),
        **{name: _median(rounds, name) for name in parts.get("passes", {}).get("rounds", {})},
        "memory_ratio_100k_1k": _worst_ratio(memory, with_idle=True),
        "memory_above_idle_ratio_100k_1k": _worst_ratio(memory, with_idle=False),
        "refreshed_scan": {
            name: statistics.median(values)
            for name, values in refresh.items()
            if name != "metrics" and values
        }
        | {"auc": refresh.get("metrics", {}).get("auc")},
        "spread": {name: rounds.spread(name) for name in rounds.values},
        "scale": scale,
        "parts": parts,
    }
    return {name: _rounded(value) for name, value in report.items()}


def print_table(report: dict) -> None:
    """The methods side by side, then the figures against their targets."""
    parts, scale = report["parts"], report["scale"]
    on = {(part["machine"]["gpu"], part["machine"]["cpu"], part["machine"]["cores"]): None
          for part in parts.values()}  # fmt: skip
    for gpu, cpu, cores in on:
        print(f"{gpu or cpu}, {cores} cores")
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
    for name, found in parts.get("flatness", {}).get("memory", {}).items():
        cells = "".join(f"{found[str(num)]:10.4g}" for num in sizes)
        print(f"{ROWS[name].what:24}{cells}")
    print(f"\n{TARGET_HEADING}")
    for name, target in TARGETS.items():
        value = report.get(name)
        value = math.nan if value is None else value
        print(target.line(value, *report["spread"].get(name, (value, value))))
    above = report["memory_above_idle_ratio_100k_1k"]
    print(f"peak above the idle process, N = 100,000 / 1,000, worst: {above or math.nan:.4g}")
    if "salient" in report["refreshed_scan"]:
        print(_refreshed_line(report["refreshed_scan"], parts["refresh"]["refresh"]))
    for what, part in parts.items():
        for name, why in part.get("missing", {}).items():
            print(f"not measured: {what} of {name}: {why}")


def _refreshed_line(found: dict[str, float], epochs: dict[str, list[float]]) -> str:
    def percent(name: str) -> str:
        return f"{100 * found[name]:.0f} % (worst epoch {100 * min(epochs[name]):.0f})"

    return (
        f"refreshed scan: scores {100 * found['scored']:.0f} % of the patches anew and finds "
        f"{percent('salient')} of the salient patches of a full one, {percent('sub_salient')} of "
        f"the sub-salient ones; AUC {found['auc']:.4g}"
    )


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
