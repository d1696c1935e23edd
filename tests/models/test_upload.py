"""Pixels arrive on the device as they were, though their buffers are used again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_hr.models.upload import Upload


def chunks(num: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (8, 32, 32, 3), np.uint8) for _ in range(num)]


def test_a_cpu_sees_the_very_bytes() -> None:
    (pixels,) = chunks(1)
    there = Upload(torch.device("cpu"))(pixels)
    pixels[0] = 7
    assert np.array_equal(there.numpy(), pixels)


@pytest.mark.gpu
def test_a_gpu_gets_every_chunk_whole(cuda: str) -> None:
    upload, sent = Upload(torch.device(cuda)), chunks(9)
    arrived = [upload(pixels) for pixels in sent]
    smaller = upload(sent[0][:3].copy())
    for pixels, there in zip(sent, arrived, strict=True):
        assert np.array_equal(there.cpu().numpy(), pixels)
    assert np.array_equal(smaller.cpu().numpy(), sent[0][:3])
