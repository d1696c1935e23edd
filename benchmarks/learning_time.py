"""Times of the learning table: steps side by side, and epochs in frozen passes.

One frozen pass is the bare encoder's forward, in eval mode, without gradient, bfloat16 where the
method computes in it, over patches that lie on the device as the network takes them.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.learning_rows import REFRESHED, ROWS, Trial, noise_bags, reason
from benchmarks.measure import Rounds, seconds
from wsi_hr.bags.bag import Bag
from wsi_hr.methods.dbps import DBPS

# Letters: N patches of a slide.

_EPOCHS = {
    "ips_epoch_x": ROWS["ips"].settings,
    "dbps_refresh_epoch_x": REFRESHED,
    "patchgd_epoch_x": ROWS["patchgd"].settings,
    "patchgd_exact_epoch_x": ROWS["patchgd_exact"].settings,
    "abmilx_epoch_x": ROWS["abmilx"].settings,
}

Missing = dict[str, str]
"""What could not be measured, and why."""


def measure_steps(
    settings: Sequence[str], *, num_bags: int, num_patches: int, patch_px: int, repeats: int
) -> tuple[Rounds, Missing]:
    """``<row>_ms`` of one step of every row, and ``<row>_vs_gd_x`` from the same round.

    A row whose step fails is left out of further rounds.
    """
    rounds, missing = Rounds(), {}
    with tempfile.TemporaryDirectory(prefix="wsi-hr-bench-") as folder:
        trials: dict[str, Trial] = {}
        bags = noise_bags(num_bags, num_patches, patch_px)
        for name, row in ROWS.items():
            try:
                trial = Trial([*settings, *row.settings], patch_px, Path(folder) / name)
                trial.step(bags)  # what is done once is no part of a step
                trials[name] = trial
            except Exception as error:  # one method's failure is no other's
                missing[name] = reason(error)
        for _ in range(repeats):
            for name, trial in trials.items():
                rounds.add(f"{name}_ms", 1000 * seconds(partial(trial.step, bags)))
            if "gd" in trials:
                gd_ms = rounds.values["gd_ms"][-1]
                for name in trials:
                    rounds.add(f"{name}_vs_gd_x", rounds.values[f"{name}_ms"][-1] / gd_ms)
    return rounds, missing


def measure_passes(
    settings: Sequence[str], *, num_patches: int, patch_px: int, repeats: int
) -> tuple[Rounds, Missing]:
    """What a scan, a prediction and epochs over one slide cost, in frozen passes (``*_x``)."""
    rounds, missing = Rounds(), {}
    (bag,) = noise_bags(1, num_patches, patch_px)
    with tempfile.TemporaryDirectory(prefix="wsi-hr-bench-") as folder:

        def made(more: Sequence[str]) -> Trial:
            return Trial([*settings, *more], patch_px, Path(folder))

        dbps = made(ROWS["dbps"].settings)
        frozen_pass = bare_pass(dbps, bag)
        frozen_pass()
        works: dict[str, Callable[[], object]] = {
            "scan_overhead_x": scan(dbps, bag),
            "prediction_x": partial(dbps.predict, [bag]),
            "dbps_epoch_x": partial(dbps.step, [bag]),
        }
        for work in works.values():
            work()  # buffers, and what an epoch leaves for the next
        for name, more in _EPOCHS.items():
            try:
                works[name] = partial(made(more).step, [bag])
                works[name]()
            except Exception as error:  # one method's failure is no other's
                works.pop(name, None)
                missing[name] = reason(error)
        for _ in range(repeats):
            for name, work in works.items():
                before_s, work_s, after_s = (seconds(w) for w in (frozen_pass, work, frozen_pass))
                rounds.add("frozen_pass_s", (before_s + after_s) / 2)
                rounds.add(name, work_s / rounds.values["frozen_pass_s"][-1])
    return rounds, missing


def scan(trial: Trial, bag: Bag) -> Callable[[], object]:
    """The scan that an epoch begins with, alone."""
    method = trial.method
    assert isinstance(method, DBPS)

    def work() -> None:
        method.scan([bag])
        trial.wait()

    return work


def bare_pass(trial: Trial, bag: Bag) -> Callable[[], object]:
    """The frozen pass over ``bag`` of the trial's encoder."""
    encoder = trial.method.encoder
    net = copy.deepcopy(encoder.net).eval()
    pixels = torch.from_numpy(bag.read(np.arange(len(bag)))).to(trial.device)
    x_N3PP = pixels.permute(0, 3, 1, 2).to(encoder.scale.dtype)  # channels_last, as the network is
    x_N3PP = x_N3PP * encoder.scale.view(3, 1, 1) + encoder.shift.view(3, 1, 1)
    chunks = x_N3PP.split(encoder.chunk)

    def work() -> None:
        autocast = torch.autocast(trial.device.type, torch.bfloat16, enabled=encoder.autocast)
        with torch.no_grad(), autocast:
            for chunk in chunks:
                net(chunk)
        trial.wait()

    return work
