"""Timing on a machine that others use too: rounds, medians, targets, and the machine itself."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, without a garbage collection in between."""
    gc.collect()
    gc.disable()
    try:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun
    finally:
        gc.enable()


@dataclass(frozen=True)
class Target:
    """One line of a table of targets.

    Attributes:
        what: for people.
        must: the least (or, where ``low``, the greatest) that is good enough.
        aim: what is hoped for.
        low: whether less is better.
    """

    what: str
    must: float
    aim: float
    low: bool = False

    def line(self, value: float, least: float, most: float) -> str:
        """The figure, its spread, and whether it is good enough; no number is not."""
        reached = value <= self.must if self.low else value >= self.must
        return (
            f"{self.what:60}{value:9.4g}  {least:8.4g} - {most:8.4g}{self.must:8g}"
            f"{self.aim:7g}{'' if reached else '  missed'}"
        )


TARGET_HEADING = f"{'':60}{'median':>9}  {'least - greatest':>19}{'must':>8}{'aim':>7}"


class Rounds:
    """Numbers that were measured side by side, round by round.

    A ratio is formed inside a round, from times a few seconds apart, so that a slow minute of the
    machine touches both of its terms.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> None:
        """Note one round's number."""
        self.values[name].append(value)

    def median(self, name: str) -> float:
        """The middle of all rounds."""
        return statistics.median(self.values[name])

    def spread(self, name: str) -> tuple[float, float]:
        """Least and greatest."""
        return min(self.values[name]), max(self.values[name])


def machine(packages: tuple[str, ...]) -> dict[str, object]:
    """What it was measured on and with."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
