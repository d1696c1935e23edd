"""The statistics that batch norms normalise by, set to those of a sample of patches.

Source: METHODS section 3d. ``torch.optim.swa_utils.update_bn`` averages the statistics of batches,
each seen behind norms that normalised by that batch alone. Here a norm gets the mean and variance
of its input over the whole sample, as the network gives it with the norms before it already set: so
the frozen network normalises the sample exactly, in whatever chunks it is embedded. One pass per
norm is the price, each of which ends at that norm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

# Letters: K patches of a chunk, C channels.


def norms_of(net: nn.Module) -> dict[str, nn.Module]:
    """The norms in ``net`` that normalise by the patches they stand with, by name.

    All of torch's batch norms and what is made from them, and timm's evolved ones: whatever keeps
    running statistics, or could. Instance norm looks at one patch at a time.
    """
    return {
        name: module
        for name, module in net.named_modules()
        if "running_var" in module._buffers
        and not isinstance(module, nn.modules.instancenorm._InstanceNorm)
    }


def has_statistics(norm: nn.Module) -> bool:
    """Whether a norm keeps running statistics, which it can be frozen on."""
    return norm._buffers["running_var"] is not None


def recalibrate(net: nn.Module, forward: Callable[[Any], object], chunks: Iterable[Any]) -> None:
    """Set running mean and variance (population) of every norm of ``net`` to those of its input.

    A norm that is called several times in a pass gets those of all its calls together, the earlier
    of which it made blank (mean 0, variance 1): what it had before leaves no trace. Counters of
    batches stay as they are.

    Args:
        net: in eval mode.
        forward: runs ``net`` on a chunk; by its own modules, without gradient.
        chunks: the sample, gone through once per norm.
    """
    chunks = list(chunks)
    norms = {name: norm for name, norm in norms_of(net).items() if has_statistics(norm)}
    if not norms:
        return
    calls = _calls(norms, forward, chunks[0])
    for name in calls:
        _make_blank(norms[name])
    for name, num_calls in calls.items():
        moments = _Moments(num_calls)
        with norms[name].register_forward_pre_hook(moments.see, with_kwargs=True):
            for chunk in chunks:
                moments.begin()
                with suppress(_SeenAll):
                    forward(chunk)
        moments.put_into(norms[name])


def _make_blank(norm: Any) -> None:
    with torch.no_grad():
        if getattr(norm, "running_mean", None) is not None:
            norm.running_mean.zero_()
        norm.running_var.fill_(1)


def _calls(
    norms: dict[str, nn.Module], forward: Callable[[Any], object], chunk: Any
) -> Counter[str]:
    """How often each norm is called in a pass; in the order of their first calls."""
    calls: Counter[str] = Counter()
    hooks = [
        norm.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
        for name, norm in norms.items()
    ]
    try:
        forward(chunk)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


class _SeenAll(Exception):
    """The rest of the pass is of no interest."""


class _Moments:
    """Mean and variance over all that a norm is given, per channel, gathered chunk by chunk.

    Source: Chan, Golub and LeVeque, 1983 (the merge of two parts).
    """

    def __init__(self, num_calls: int) -> None:
        self._num_calls = num_calls
        self._to_come = num_calls
        self._count = 0
        self._mean_C: Tensor | None = None
        self._var_C: Tensor | None = None

    def begin(self) -> None:
        """A new chunk."""
        self._to_come = self._num_calls

    def see(self, _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Take the input of a call [K, C, ...] in; ends the pass with the last call."""
        x: Tensor = args[0] if args else next(iter(named.values()))
        wide = x if x.dtype == torch.float64 else x.float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        var_C, mean_C = (part.double() for part in torch.var_mean(wide, axes, correction=0))
        num = x.numel() // x.shape[1]
        if self._mean_C is None or self._var_C is None:
            self._mean_C, self._var_C = mean_C, var_C
        else:
            share = num / (self._count + num)
            away_C = mean_C - self._mean_C
            self._mean_C = self._mean_C + share * away_C
            self._var_C = (
                (1 - share) * self._var_C + share * var_C + share * (1 - share) * away_C.square()
            )
        self._count += num
        self._to_come -= 1
        if self._to_come == 0:
            raise _SeenAll

    def put_into(self, norm: Any) -> None:
        """Make them the norm's own; in place, so that copies which follow it are renewed."""
        assert self._mean_C is not None, "the pass came by it"
        assert self._var_C is not None
        with torch.no_grad():
            if getattr(norm, "running_mean", None) is not None:
                norm.running_mean.copy_(self._mean_C)
            norm.running_var.copy_(self._var_C)
