"""An epoch finds what the one before it left, whatever happened in between."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_hr.errors import CheckpointError, WriteError
from wsi_hr.training.epoch_memory import MEMORY, EpochMemory, forget


def values(seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(3, 7)).astype(np.float32)
    found[:, 2] = np.nan
    return found


def test_an_epoch_sees_the_one_before_and_only_that(tmp_path) -> None:
    for epoch in range(4):
        memory = EpochMemory(tmp_path, epoch)
        before = memory.recall("a slide")
        if epoch == 0:
            assert before is None
        else:
            assert np.array_equal(before, values(epoch - 1), equal_nan=True)
        memory.keep("a slide", values(epoch))
        assert memory.recall("another") is None
    assert len(list((tmp_path / MEMORY).iterdir())) == 2


def test_an_epoch_that_is_started_again_starts_from_the_same(tmp_path) -> None:
    EpochMemory(tmp_path, 0).keep("s", values(0))
    torn = EpochMemory(tmp_path, 1)
    torn.keep("s", values(1))
    again = EpochMemory(tmp_path, 1)
    assert np.array_equal(again.recall("s"), values(0), equal_nan=True)


@pytest.mark.parametrize("at", [0, 90, -1])
def test_a_changed_byte_is_noticed(tmp_path, at: int) -> None:
    EpochMemory(tmp_path, 0).keep("s", values(0))
    (path,) = (tmp_path / MEMORY).rglob("s.npy")
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        EpochMemory(tmp_path, 1).recall("s")


def test_what_cannot_be_removed_in_the_end_is_told(tmp_path) -> None:
    (tmp_path / MEMORY).touch()  # no folder, so it cannot be removed as one
    with pytest.raises(WriteError, match=f"{MEMORY}: cannot be written"):
        forget(tmp_path)


def test_nothing_is_left_in_the_end(tmp_path) -> None:
    EpochMemory(tmp_path, 0).keep("s", values(0))
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []
