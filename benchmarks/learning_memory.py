"""Peak memory of a method, above that of the same process before its first step.

A process of its own for every method, since a peak never falls. On CUDA it is the device's memory.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.learning_rows import EndlessPatches, Trial, noise_bags
from wsi_hr.bags.bag import Bag

_MIB = 1 << 20
_TINY = 8  # patches

# forked from a server that has imported everything and computed nothing
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


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


@dataclass(frozen=True)
class Peaks:
    """Greatest memory of a process, MiB.

    Attributes:
        idle: in use before the first step.
        above: by how much more, after slides of each size.
    """

    idle: float
    above: list[float]


def measure_memory(
    settings: Sequence[str],
    sizes: Sequence[int],
    *,
    patch_px: int,
    num_bags: int = 1,
    endless: bool = False,
    predict: bool = False,
) -> Peaks:
    """Peaks after slides of each size, the sizes rising, of a process that did nothing before.

    The encoder, the method and the pixels of the slides count as idle; gradients, the optimiser and
    all that is computed do not.

    Args:
        settings: texts of ``--set``.
        sizes: N of every slide of a step.
        patch_px: edge of a patch.
        num_bags: slides of a step.
        endless: make patches when they are read, instead of holding them.
        predict: predict every slide, too.

    Raises:
        WsiHrError: there is no such method, or it could not do its work.
        ChildProcessError: the process was killed.
    """
    job = {
        "settings": list(settings), "sizes": list(sizes), "patch_px": patch_px,
        "num_bags": num_bags, "endless": endless, "predict": predict,
    }  # fmt: skip
    with ProcessPoolExecutor(1, mp_context=_processes) as pool:
        try:
            return pool.submit(_run, job).result()
        except BrokenProcessPool as cause:
            raise ChildProcessError("its process was killed, as one is for memory") from cause


def _run(job: dict) -> Peaks:
    patch_px, sizes = job["patch_px"], job["sizes"]
    slides = {size: _bags(job, size) for size in sizes}
    with tempfile.TemporaryDirectory(prefix="wsi-hr-bench-") as folder:
        _load_libraries(job, Path(folder) / "tiny")
        trial = Trial(job["settings"], patch_px, Path(folder))
        memory, peaks = PeakMemory(trial.device), []
        # the first twice: what an optimiser keeps is there from the first step's end on
        for size in [sizes[0], *sizes]:
            trial.step(slides[size])
            if job["predict"]:
                trial.predict(slides[size])
            peaks.append(memory.peak_mib())
    return Peaks(memory.idle_mib, peaks[1:])


def _load_libraries(job: dict, folder: Path) -> None:
    """Run on a tiny slide and give all memory back: code counts as idle, not as the method's."""
    trial, bags = Trial(job["settings"], job["patch_px"], folder), _bags(job, _TINY)
    trial.step(bags)
    trial.predict(bags)
    del trial
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _bags(job: dict, num_patches: int) -> list[Bag]:
    num_bags, patch_px = job["num_bags"], job["patch_px"]
    if not job["endless"]:
        return noise_bags(num_bags, num_patches, patch_px)
    return [Bag.of(EndlessPatches(num_patches, patch_px), 1) for _ in range(num_bags)]
