"""Seconds of two builds at the same tiling work, call by call in turn.

    python -m benchmarks.tiling_builds OTHER_CHECKOUT [--calls 15] [--json OUT]

A process of either build does the same piece of work on the same slide when it is told to; who is
first changes from call to call, and only one works at a time. A figure is the median over the calls
of this build's seconds over the other's, with the quartiles: a slow minute of the machine touches
both terms. Below 1 this build is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent

WORK = {
    "mpp224": "224 px @ 0.5 from 0.25, to a JPEG store",
    "native224": "224 px at full resolution, to a JPEG store",
    "passthrough": "whole tiles copied to a store",
    "mpp224_two_threads": "224 px @ 0.5 from 0.25, two threads",
    "mpp224_whole": "the same as one command: hash, mask, store",
    "native224_whole": "full resolution as one command",
    "passthrough_whole": "copies as one command",
    "open_and_mask": "open the slide, overview, mask and grid",
    "random_patches": "500 single patches out of a store",
    "batches": "500 patches out of a store, 64 at a time",
}
_READS, _BATCH = 500, 64


def work_of(slide: Path, folder: Path) -> dict[str, Callable[[], float]]:
    """By name: does a piece of work with the build whose code is imported, and gives its seconds.

    The other build may be older: nothing is used here that ``57b8f1e`` had not.
    """
    import numpy as np

    from benchmarks.measure import seconds
    from benchmarks.tiling import Workload, config
    from wsi_hr.slides.open import open_slide
    from wsi_hr.store.patch_store import PatchStore
    from wsi_hr.tiling.survey import survey_slide

    with open_slide(slide) as opened:
        tiles, mpp = opened.jpeg_tiles(0), opened.mpp
    assert tiles is not None, "the slide has JPEG tiles"
    assert mpp is not None, "the slide tells its mpp"
    loads = {
        "mpp224": Workload(slide, config(2 * mpp.mean, 224), folder),
        "native224": Workload(slide, config(mpp.mean, 224), folder),
        "passthrough": Workload(slide, config(mpp.mean, tiles.tile_size.w), folder),
    }
    order = np.random.default_rng(0).permutation(len(loads["mpp224"].grid))[:_READS]

    def survey() -> None:
        with open_slide(slide) as again:
            survey_slide(again, loads["mpp224"].config)

    def reading(size: int) -> float:
        if not loads["mpp224"].store.exists() or len(PatchStore.open(loads["mpp224"].store)) != len(
            loads["mpp224"].grid
        ):
            loads["mpp224"].whole_s()
        store = PatchStore.open(loads["mpp224"].store)
        parts = [order[first : first + size] for first in range(0, len(order), size)]
        return seconds(lambda: [store.read(part) for part in parts])

    return {
        **{name: load.store_s for name, load in loads.items()},
        "mpp224_two_threads": partial(loads["mpp224"].store_s, 2),
        **{f"{name}_whole": load.whole_s for name, load in loads.items()},
        "open_and_mask": lambda: seconds(survey),
        "random_patches": lambda: reading(1),
        "batches": lambda: reading(_BATCH),
    }


def serve(slide: Path, folder: Path) -> None:
    """Work when told to by a line of stdin, and answer in a line of stdout."""
    work = work_of(slide, folder)
    for line in sys.stdin:
        print(work[line.strip()](), flush=True)


class Build:
    """A process with the code of a checkout."""

    def __init__(self, checkout: Path, slide: Path, folder: Path) -> None:
        folder.mkdir()
        call = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
        self.commit = subprocess.run(call, check=True, capture_output=True, text=True).stdout
        self.commit = self.commit.strip()
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--serve", str(folder), "--slide", str(slide)],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, name: str) -> float:
        """Of a piece of work."""
        pipes = self._process.stdin, self._process.stdout
        assert pipes[0] is not None, "stdin is a pipe"
        assert pipes[1] is not None, "stdout is a pipe"
        print(name, file=pipes[0], flush=True)
        return float(pipes[1].readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def compare(this: Build, other: Build, calls: int) -> dict[str, Any]:
    """Ratios of this build's seconds to the other's, and the seconds themselves."""
    ratios: dict[str, float] = {}
    quartiles: dict[str, list[float]] = {}
    raw: dict[str, dict[str, list[float]]] = {}
    for name in WORK:
        for build in (this, other):
            build.seconds(name)  # pages into memory, libraries in
        found: Mapping[Build, list[float]] = {this: [], other: []}
        for number in range(calls):
            for build in (this, other) if number % 2 else (other, this):
                found[build].append(build.seconds(name))
        each = [ours / theirs for ours, theirs in zip(found[this], found[other], strict=True)]
        low, middle, high = statistics.quantiles(each, n=4)
        ratios[name], quartiles[name] = round(middle, 4), [round(low, 4), round(high, 4)]
        raw[name] = {
            side: [round(value, 5) for value in found[build]]
            for side, build in (("this", this), ("other", other))
        }
        print(f"{WORK[name]:50}{middle:8.3f}  {low:8.3f} - {high:.3f}", flush=True)
    return {
        "this": this.commit,
        "other": other.commit,
        "ratio_of_seconds": ratios,
        "quartiles": quartiles,
        "seconds": raw,
    }


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description="Tiling speed of two builds, in turn.")
    parser.add_argument("other", type=Path, nargs="?", help="a checkout of another commit")
    parser.add_argument("--slide", type=Path, help="a tiled JPEG slide of about 0.25 um/px")
    parser.add_argument("--calls", type=int, default=15, help="of both builds (default 15)")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.slide, given.serve)
        return
    if given.other is None:
        parser.error("give a checkout of another commit")
    from benchmarks.measure import machine
    from benchmarks.tiling import make_slide

    with tempfile.TemporaryDirectory(prefix="wsi-hr-bench-") as scratch:
        folder = Path(scratch)
        slide = given.slide or make_slide(folder / "synthetic.svs")
        slide = slide.resolve()
        this = Build(HERE, slide, folder / "this")
        other = Build(given.other.resolve(), slide, folder / "other")
        try:
            report = compare(this, other, given.calls)
        finally:
            this.close()
            other.close()
    if given.json:
        report["machine"] = machine(("simplejpeg", "numpy", "opencv-python-headless", "zarr"))
        given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
