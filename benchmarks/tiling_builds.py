"""The table of tiling targets of two builds, measured in turn.

    python -m benchmarks.tiling_builds OTHER_CHECKOUT [--rounds 5] [--json OUT]

Each round runs ``benchmarks.tiling`` once in a checkout of the other build and once in this one, on
the same slide with the same Python; who is first changes from round to round. A figure is the
median over the rounds of this build's number over the other's of the same round, with the least and
the greatest. Above 1 is better, but for memory and the mask's time, where below 1 is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Rounds, machine
from benchmarks.tiling import TARGETS, make_slide

HERE = Path(__file__).resolve().parent.parent


def commit_of(checkout: Path) -> str:
    """The commit a checkout stands on."""
    call = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


def figures_of(checkout: Path, slide: Path) -> Mapping[str, float]:
    """One round of ``benchmarks.tiling`` with the code of a checkout."""
    with tempfile.TemporaryDirectory(prefix="wsi-hr-bench-") as folder:
        out = Path(folder) / "figures.json"
        call = [sys.executable, "-m", "benchmarks.tiling", "--slide", str(slide), "--repeats", "1"]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        subprocess.run(
            [*call, "--json", str(out)], cwd=checkout, env=environment, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return json.loads(out.read_text())


def compare(other: Path, slide: Path, rounds: int) -> dict[str, Any]:
    """Ratios of this build's figures to the other's, and the figures themselves."""
    ratios = Rounds()
    raw: dict[str, list[Mapping[str, float]]] = {"other": [], "this": []}
    for number in range(rounds):
        sides: Sequence[tuple[str, Path]] = [("other", other), ("this", HERE)]
        for side, checkout in sides if number % 2 == 0 else sides[::-1]:
            found = figures_of(checkout, slide)
            raw[side].append({name: found[name] for name in TARGETS})
        for name in TARGETS:
            ratios.add(name, raw["this"][-1][name] / raw["other"][-1][name])
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return {
        "this": commit_of(HERE),
        "other": commit_of(other),
        "ratio": {name: round(ratios.median(name), 4) for name in TARGETS},
        "spread": {name: [round(end, 4) for end in ratios.spread(name)] for name in TARGETS},
        "rounds": raw,
        "machine": machine(("simplejpeg", "numpy", "opencv-python-headless", "zarr")),
    }


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description="Tiling speed of two builds, in turn.")
    parser.add_argument("other", type=Path, help="a checkout of another commit")
    parser.add_argument("--slide", type=Path, help="a tiled JPEG slide of about 0.25 um/px")
    parser.add_argument("--rounds", type=int, default=5, help="of both builds (default 5)")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wsi-hr-bench-") as folder:
        slide = given.slide or make_slide(Path(folder) / "synthetic.svs")
        report = compare(given.other.resolve(), slide.resolve(), given.rounds)
    print(f"{'':60}{'this / other':>13}  {'least - greatest':>18}")
    for name, target in TARGETS.items():
        least, most = report["spread"][name]
        print(f"{target.what:60}{report['ratio'][name]:13.3f}  {least:8.3f} - {most:8.3f}")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
