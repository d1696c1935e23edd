"""Peak memory of a method, above that of the same process before its first step.

    python -m benchmarks.learning_memory '{"settings": [...], "num_patches": 256, ...}'

A process of its own for every figure, since a peak never falls. On CUDA it is the device's memory.
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.learning_rows import EndlessPatches, Trial, noise_bags
from wsi_hr.bags.bag import Bag

_MIB = 1 << 20


class PeakMemory:
    """Greatest memory from now on, above what is in use now, MiB."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.idle_mib = torch.cuda.memory_allocated(device) / _MIB
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of the imports
            self.idle_mib = _status_mib("VmRSS")

    def peak_mib(self) -> float:
        """The peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / _MIB - self.idle_mib
        return _status_mib("VmHWM") - self.idle_mib


def _status_mib(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"Linux tells {name} of every process"
    return int(found[1]) / 1024


def measure_memory(
    settings: Sequence[str],
    *,
    num_patches: int,
    patch_px: int,
    num_bags: int = 1,
    endless: bool = False,
    predict: bool = False,
) -> dict[str, float]:
    """``peak_mib`` above ``idle_mib`` of a process that takes two steps (one, if ``endless``).

    The encoder, the method and the pixels of ``num_bags`` slides count as idle; gradients, the
    optimiser and all that is computed do not.

    Args:
        settings: texts of ``--set``.
        num_patches: N of every slide.
        patch_px: edge of a patch.
        num_bags: slides of a step.
        endless: make patches when they are read, instead of holding them.
        predict: predict every slide, too.

    Raises:
        ChildProcessError: the process ended otherwise; says why.
    """
    job = {
        "settings": list(settings), "num_patches": num_patches, "patch_px": patch_px,
        "num_bags": num_bags, "endless": endless, "predict": predict,
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.learning_memory", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise ChildProcessError(lines[-1])
    return json.loads(done.stdout)


def _run(job: dict) -> dict[str, float]:
    num_patches, patch_px = job["num_patches"], job["patch_px"]
    if job["endless"]:
        bags = [Bag.of(EndlessPatches(num_patches, patch_px), 1) for _ in range(job["num_bags"])]
    else:
        bags = noise_bags(job["num_bags"], num_patches, patch_px)
    with tempfile.TemporaryDirectory(prefix="wsi-hr-bench-") as folder:
        trial = Trial(job["settings"], bags, patch_px, Path(folder))
        memory = PeakMemory(trial.device)
        trial.step()
        if not job["endless"]:
            trial.step()  # the optimiser's own memory is there from the first step's end on
        if job["predict"]:
            trial.predict()
        return {"peak_mib": memory.peak_mib(), "idle_mib": memory.idle_mib}


if __name__ == "__main__":
    print(json.dumps(_run(json.loads(sys.argv[1]))))
