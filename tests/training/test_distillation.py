"""The small network learns where attention lies, from the teacher it is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_hr.sampler_config import LearnedConfig
from wsi_hr.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsi_hr.training.distillation import Distillation, smoothed

CPU = torch.device("cpu")


def slide(seed: int, num: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, cells, and where attention lies: on the patches of one odd colour."""
    rng = np.random.default_rng(seed)
    cells = np.stack(np.divmod(np.arange(num), 12), 1)
    odd = rng.random(num) < 0.1
    odd[rng.integers(num)] = True
    means = np.where(odd[:, None], [0.4, 0.3, 0.6], [0.8, 0.5, 0.7]) + rng.normal(0, 0.05, (num, 3))
    features = np.concatenate([means, rng.random((num, 3)) * 0.1], 1)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    attention = np.where(odd, 20.0, 1.0)
    return features.astype(np.float32), cells, (attention / attention.sum()).astype(np.float32)


def test_it_learns_a_planted_attention() -> None:
    """On slides it has not learned from, the top is where the attention lies."""
    student = Distillation(LearnedConfig(lr=3e-3), 0, CPU)
    losses = []
    for step in range(120):
        features, cells, teacher = slide(step % 20)
        if step % 2:  # half of the slide was not looked at
            teacher[::2] = np.nan
        losses.append(student.learn(features, cells, teacher))
    assert np.mean(losses[-20:]) < 0.1 * np.mean(losses[:3])
    for seed in range(100, 110):
        features, cells, teacher = slide(seed)
        odd = set(np.flatnonzero(teacher > teacher.min() * 2).tolist())
        top = np.argsort(-student.scores(features, cells))[: len(odd)]
        assert len(odd & set(top.tolist())) >= 0.9 * len(odd)


def test_the_divergence_is_that_of_the_known_patches() -> None:
    features, cells, teacher = slide(3)
    teacher[40:] = np.nan
    student = Distillation(LearnedConfig(), 0, CPU)
    scores = student.scores(features, cells)[:40].astype(np.float64)
    q = np.exp(scores) / np.exp(scores).sum()
    p = teacher[:40] / teacher[:40].sum()
    assert student.learn(features, cells, teacher) == pytest.approx(
        float((p * np.log(p / q)).sum()), rel=1e-4
    )


def test_it_leaves_torchs_generator_alone_and_follows_the_seed() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = Distillation(LearnedConfig(), 0, CPU)
    assert torch.equal(torch.rand(3), expected)
    for seed, same in ((0, True), (1, False)):
        other = Distillation(LearnedConfig(), seed, CPU)
        equal = [torch.equal(a, b) for a, b in zip(
            first.scorer.parameters(), other.scorer.parameters(), strict=True
        )]  # fmt: skip
        assert all(equal) == same


def test_it_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path) -> None:
    whole = Distillation(LearnedConfig(), 0, CPU)
    for step in range(6):
        if step == 3:
            save_checkpoint(tmp_path / "c.safetensors", Checkpoint(whole.tensors(), {}))
        whole.learn(*slide(step))
    resumed = Distillation(LearnedConfig(), 5, CPU)
    resumed.restore(load_checkpoint(tmp_path / "c.safetensors"))
    for step in range(3, 6):
        resumed.learn(*slide(step))
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name


class TestSmoothed:
    """The teacher is a moving average of what the epochs looked at."""

    LOGITS = np.log(np.array([[1, 1, 2, 4], [4, 2, 1, 1]], np.float32))
    ATTENTION = np.array([5, 3, 3, 5]) / 16

    def test_the_first_epoch_is_its_attention(self) -> None:
        assert smoothed(None, self.LOGITS, 0.9) == pytest.approx(self.ATTENTION)

    def test_then_it_is_averaged(self) -> None:
        before = np.array([0.7, 0.1, 0.1, 0.1], np.float32)
        expected = 0.75 * before + 0.25 * self.ATTENTION
        found = smoothed(before, self.LOGITS, 0.75)
        assert found == pytest.approx(expected)
        assert found.sum() == pytest.approx(1)

    def test_what_was_not_looked_at_keeps_its_own(self) -> None:
        logits = np.full((2, 6), np.nan, np.float32)
        logits[:, :4] = self.LOGITS
        before = np.array([0.1, 0.1, 0.2, 0.2, 0.4, np.nan], np.float32)
        found = smoothed(before, logits, 0.5)
        assert found[:4] == pytest.approx(0.5 * before[:4] + 0.5 * 0.6 * self.ATTENTION)
        assert found[4] == before[4]
        assert np.isnan(found[5])

    def test_what_is_seen_for_the_first_time_comes_in(self) -> None:
        before = np.array([np.nan, 0.2, 0.2, 0.2], np.float32)
        found = smoothed(before, self.LOGITS, 0.5)
        assert found[0] == pytest.approx(0.6 * self.ATTENTION[0])

    def test_nothing_seen_changes_nothing(self) -> None:
        before = np.array([0.5, np.nan, 0.5], np.float32)
        nothing = np.full((2, 3), np.nan, np.float32)
        assert np.array_equal(smoothed(before, nothing, 0.5), before, equal_nan=True)
        assert np.isnan(smoothed(None, nothing, 0.5)).all()
