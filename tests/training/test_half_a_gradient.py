"""A run that is killed when half of a batch's gradient is there: nothing of it may be left."""

from __future__ import annotations

import pytest

from wsi_hr.training.loop import BEST, LAST, METRICS, fit
from wsi_hr.training.update import AdamWUpdate

from .test_loop import VARIANTS, _Killed, config, data, method_for

SEVERAL = {
    "gd": ["method.micro_batch=1"],
    "abmil": [],
    "patchgd": ["method.accumulate=2", "method.max_sampled=4"],
    "patchgd exact": VARIANTS["patchgd exact"],
}
"""Methods that accumulate: several backward passes a step."""


class Steps:
    """The backward passes and steps of a run in their order; dies before one of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.deadly = -1
        for name in ("backward", "backward_from", "step"):
            patch.setattr(AdamWUpdate, name, self._counted(name, getattr(AdamWUpdate, name)))

    def _counted(self, name, sound):
        def called(*given):
            if len(self.seen) == self.deadly:
                raise _Killed
            self.seen.append(name)
            return sound(*given)

        return called


@pytest.mark.fault("A2c")
@pytest.mark.parametrize("name", SEVERAL)
def test_killed_between_two_backward_passes_it_ends_with_the_same_bits(
    tmp_path, monkeypatch, name: str
) -> None:
    cfg = config(name.split()[0], more=SEVERAL[name], epochs=3)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    steps = Steps(monkeypatch)
    expected = fit(method_for(cfg), data(), cfg, whole, {})
    between = [
        number
        for number, (before, after) in enumerate(zip(steps.seen, steps.seen[1:], strict=False), 1)
        if before.startswith("backward") and after.startswith("backward")
    ]
    steps.deadly, steps.seen = between[len(between) // 2], []
    with pytest.raises(_Killed):
        fit(method_for(cfg), data(), cfg, torn, {})
    assert (torn / LAST).exists(), "in the middle of the run"
    steps.deadly = -1
    assert fit(method_for(cfg), data(), cfg, torn, {}) == expected
    for file in (BEST, LAST, METRICS):
        assert (whole / file).read_bytes() == (torn / file).read_bytes()
