"""When the statistics of norms are renewed, from which patches, and what is saved with the best."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.test_loop import config, data, method_for
from wsi_hr.models.encoder import frozen
from wsi_hr.models.norm_stats import norms_of
from wsi_hr.runtime import rng_for
from wsi_hr.training.calibration import Calibration, draw
from wsi_hr.training.checkpoint import load_checkpoint, restore_model
from wsi_hr.training.loop import BEST, LAST, TrainingSet, best_epoch, evaluate, fit

EXACT = ["method.exact=true", "encoder.norm_patches=40"]


def test_the_sample_is_drawn_alike_from_all_patches() -> None:
    sizes = [3, 0, 50, 7]
    drawn = draw(sizes, 20, rng_for(0))
    assert sum(map(len, drawn)) == 20
    for size, part in zip(sizes, drawn, strict=True):
        assert len(np.unique(part)) == len(part)
        assert ((part >= 0) & (part < size)).all()
    assert [len(part) for part in draw(sizes, 1000, rng_for(0))] == sizes
    assert all(map(np.array_equal, drawn, draw(sizes, 20, rng_for(0))))
    assert not all(map(np.array_equal, drawn, draw(sizes, 20, rng_for(1))))
    counts = np.mean([[len(p) for p in draw(sizes, 20, rng_for(s))] for s in range(300)], axis=0)
    assert counts == pytest.approx(np.array(sizes) / 3, abs=0.3)


def test_only_the_training_side_is_looked_at(tmp_path) -> None:
    given, opened = data(), set()
    real = given.bags.open
    given.bags.open = lambda slide_id: opened.add(slide_id) or real(slide_id)
    method = method_for(config("patchgd", EXACT))
    Calibration(method.encoder, given.bags, given.train, 40, 5).renew()
    assert opened == set(given.train)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_best_has_the_statistics_of_its_own_weights(tmp_path, ema: float | None) -> None:
    cfg = config("patchgd", [*EXACT, f"train.ema={ema or 'null'}"], epochs=3)
    history = fit(method_for(cfg), data(), cfg, tmp_path, {})
    judge = method_for(cfg)
    restore_model(judge, load_checkpoint(tmp_path / BEST), tmp_path)
    saved = {key: value.clone() for key, value in judge.state_dict().items()}
    row = history[best_epoch(history)]
    found = evaluate(judge, data(), data().val, cfg.dense)
    assert {name: row[f"val_{name}"] for name in found} == found
    calibration = Calibration(judge.encoder, data().bags, data().train, 40, cfg.seed)
    calibration.renew()
    now = judge.state_dict()
    assert all(torch.equal(saved[key], now[key]) for key in saved)
    (norm,) = norms_of(judge.encoder.net).values()
    assert norm.running_mean.abs().sum() > 0


def test_statistics_stand_still_during_an_epoch_and_move_between(tmp_path) -> None:
    cfg = config("patchgd", EXACT, epochs=2)
    method, seen = method_for(cfg), []
    (norm,) = norms_of(method.encoder.net).values()
    fit(
        method, data(), cfg, tmp_path, {},
        on_slides=lambda _: seen.append(norm.running_mean.tolist()),
    )  # fmt: skip
    half = len(seen) // 2
    assert half > 1
    assert len({tuple(mean) for mean in seen[:half]}) == 1
    assert len({tuple(mean) for mean in seen[half:]}) == 1
    assert seen[0] != seen[-1]


@pytest.mark.parametrize("ema", ["null", "0.9"])
def test_every_epoch_learns_with_the_statistics_of_the_weights_it_begins_with(
    tmp_path, ema: str
) -> None:
    """Those that learn: blank ones would do in no epoch, nor those of averaged weights."""
    cfg = config("patchgd", [*EXACT, f"train.ema={ema}"], epochs=3)
    method, begins = method_for(cfg), method_for(cfg)
    (norm,) = norms_of(method.encoder.net).values()
    (expected,) = norms_of(begins.encoder.net).values()
    given = data()
    num_steps, seen = -(-len(given.train) // 3), []

    def look(_: int) -> None:
        if len(seen) % num_steps == 0:
            calibration = Calibration(begins.encoder, given.bags, given.train, 40, cfg.seed)
            calibration.renew()
        seen.append(torch.equal(norm.running_mean, expected.running_mean))
        begins.load_state_dict(method.state_dict())

    fit(method, given, cfg, tmp_path, {}, on_slides=look)
    assert seen == [True] * (3 * num_steps)


@pytest.mark.parametrize("stats", ["batch", "running"])
def test_nothing_is_renewed_where_nobody_asked(tmp_path, stats: str) -> None:
    method = method_for(config("patchgd", EXACT))
    method.encoder.norm_stats = stats
    before = {key: value.clone() for key, value in method.encoder.state_dict().items()}
    Calibration(method.encoder, data().bags, data().train, 40, 5).renew()
    after = method.encoder.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_it_is_done_once_for_the_same_weights_and_again_for_others() -> None:
    method, given = method_for(config("patchgd", EXACT)), data()
    calibration = Calibration(method.encoder, given.bags, given.train, 40, 5)
    passes = []
    method.encoder.net.register_forward_pre_hook(lambda *_: passes.append(1))
    calibration.renew()
    num = len(passes)
    assert num
    calibration.renew()
    assert len(passes) == num
    with torch.no_grad():
        next(method.encoder.parameters()).mul_(2)
    calibration.renew()
    assert len(passes) == 2 * num


def test_where_memory_is_too_small_the_chunk_is_halved(caplog) -> None:
    given, wanted = data(), method_for(config("patchgd", EXACT))
    Calibration(wanted.encoder, given.bags, given.train, 40, 5).renew()
    method = method_for(config("patchgd", EXACT))

    def starve(_: object, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = method.encoder.net.register_forward_pre_hook(starve)
    Calibration(method.encoder, given.bags, given.train, 40, 5).renew()
    hook.remove()
    assert method.encoder.chunk == 2
    assert "encoder.chunk 8; going on with 4" in caplog.text
    pixels = given.bags.open("s00").read(np.arange(8))
    with frozen(method, wanted):
        torch.testing.assert_close(method.encoder(pixels), wanted.encoder(pixels))


def test_a_run_stopped_between_epochs_or_within_one_goes_on_with_the_same_statistics(
    tmp_path,
) -> None:
    """See also test_loop: a run killed anywhere ends in the same bytes."""
    cfg, given = config("patchgd", EXACT, epochs=2), data()
    alone = TrainingSet(given.bags, given.train, (), given.labels)
    fit(method_for(cfg), alone, cfg, tmp_path, {})
    last, best = load_checkpoint(tmp_path / LAST), load_checkpoint(tmp_path / BEST)
    assert all(torch.equal(last.tensors[key], best.tensors[key]) for key in best.tensors)
