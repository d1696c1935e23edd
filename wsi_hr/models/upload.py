"""Chunks of pixels on their way to the device, the next while the one before is worked on."""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_hr.geometry import UInt8Array

_BUFFERS = 2  # one is filled while the device reads the other


class Upload:
    """Copies pixels to a device; on a GPU through pinned buffers, in a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._next = 0
        self._buffers: list[Tensor | None] = [None] * _BUFFERS
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._read = [torch.cuda.Event() for _ in range(_BUFFERS)]

    def __call__(self, pixels: UInt8Array) -> Tensor:
        """The same bytes on the device; on a CPU not even copied."""
        host = torch.from_numpy(pixels)
        if self.device.type != "cuda":
            return host
        turn, self._next = self._next, (self._next + 1) % _BUFFERS
        buffer = self._buffers[turn]
        if buffer is None or buffer.shape != host.shape:
            buffer = self._buffers[turn] = torch.empty(
                host.shape, dtype=host.dtype, pin_memory=True
            )
        self._read[turn].synchronize()  # the device must have read what it held before
        buffer.copy_(host)
        with torch.cuda.stream(self._stream):
            there = buffer.to(self.device, non_blocking=True)
            self._read[turn].record(self._stream)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        there.record_stream(current)
        return there
