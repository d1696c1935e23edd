"""Scans that score only some patches anew; the logits of the others are carried over."""

from __future__ import annotations

import numpy as np
import torch
from helpers import context, numbered_bag

from wsi_hr.bags.bag import Bag
from wsi_hr.methods.dbps import DBPS
from wsi_hr.methods.dual_buffer import score
from wsi_hr.methods.method import StepContext
from wsi_hr.methods.scan import Anew, carried_over

from .test_dbps import choose, make, scan


class Notes(dict):
    """A memory of one epoch: what was kept is recalled at once."""

    recall = dict.get
    keep = dict.__setitem__


def test_a_refreshed_scan_scores_the_best_the_new_and_a_part_anew() -> None:
    torch.manual_seed(10)
    method = make(torch.randn(100, 8), score="global", scan_refresh=0.2)
    bag, notes = numbered_bag(np.arange(100)), Notes()
    where = StepContext(1.0, lambda _: np.random.default_rng(0), notes)
    first = choose(method, bag.subset(np.arange(0, 90)), where)
    before = notes["slide"].copy()
    assert np.isnan(before[:, 90:]).all()
    assert not np.isnan(before[:, :90]).any()
    exact, _ = scan(method, bag.subset(np.arange(0, 90)))
    assert first[0].tolist() == exact.salient.index.tolist()
    with torch.no_grad():
        method.encoder.table.add_(0.01 * torch.randn(100, 8))
    choose(method, bag, where)
    anew = np.isclose(notes["slide"], scan(method, bag)[1].numpy(), rtol=0, atol=1e-6).all(0)
    # the best 2 (M + S) = 20, the 10 never seen, and a fifth of the other 70
    assert anew.sum() == 20 + 10 + 14
    assert anew[90:].all()
    best = score(torch.from_numpy(before[:, :90])).topk(20).indices.numpy()
    assert anew[best].all()


def after_an_epoch(num: int, share: float, seed: int) -> tuple[DBPS, Bag, Notes, StepContext]:
    """A method that has scanned ``num`` patches once and will then score ``share`` anew."""
    torch.manual_seed(seed)
    method = make(torch.randn(num, 8), score="global", scan_refresh=share)
    bag, notes = numbered_bag(np.arange(num)), Notes()
    where = StepContext(1.0, lambda _: np.random.default_rng(0), notes)
    choose(method, bag, where)
    return method, bag, notes, where


def test_what_is_not_scored_anew_moves_with_what_is() -> None:
    """Embeddings that grow move all logits along a line, which a part of them is enough to tell."""
    method, bag, notes, where = after_an_epoch(300, 0.1, seed=12)
    before = notes["slide"].copy()
    with torch.no_grad():
        method.encoder.table.mul_(1.5)
    salient, sub = choose(method, bag, where)
    buffer, logits = scan(method, bag)
    assert not np.allclose(before, logits.numpy(), atol=1e-2)
    assert np.allclose(notes["slide"], logits.numpy(), atol=1e-5)
    assert salient.tolist() == buffer.salient.index.tolist()
    assert sub.index.tolist() == buffer.sub_salient.index.tolist()


def test_what_a_sampler_drops_for_an_epoch_is_not_new_to_the_next() -> None:
    method, bag, notes, where = after_an_epoch(200, 0.25, seed=13)
    for scale in (1.5, 1.2):
        with torch.no_grad():
            method.encoder.table.mul_(scale)
        choose(method, bag.subset(np.arange(0, 150)), where)
    logits = scan(method, bag)[1].numpy()
    assert np.allclose(notes["slide"][:, 150:], logits[:, 150:], atol=1e-5)
    with torch.no_grad():
        method.encoder.table.add_(0.01 * torch.randn(200, 8))
    choose(method, bag, where)
    anew = np.isclose(notes["slide"], scan(method, bag)[1].numpy(), rtol=0, atol=1e-6).all(0)
    # the best 2 (M + S) = 20, and a quarter of the other 180
    assert anew.sum() == 20 + 45


def test_logits_are_carried_over_by_what_few_patches_tell() -> None:
    before = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]])
    few = Anew(np.array([0, 2, 4]), np.array([1, 2]))
    # two patches tell of an offset of 10 on the average; patch 0 was one of the best, no sample
    moved = carried_over(before, few, torch.tensor([[50.0, 11.0, 15.0]]))
    assert moved.tolist() == [[50.0, 11.0, 11.0, 13.0, 15.0, 15.0, 16.0, 17.0, 18.0, 19.0]]
    nobody = Anew(np.array([0]), np.array([], np.int64))
    assert carried_over(before, nobody, torch.tensor([[7.0]]))[0, :2].tolist() == [7.0, 1.0]
    many = Anew(np.arange(8), np.arange(8))
    assert carried_over(before, many, 3 * before[:, :8] - 1)[0, 8:].tolist() == [23.0, 26.0]
    assert carried_over(before, many, -before[:, :8])[0, 8:].tolist() == [-3.5, -3.5]
    same = torch.ones(1, 10)
    assert carried_over(same, many, before[:, :8])[0, 8:].tolist() == [3.5, 3.5]


def test_all_refreshed_is_the_full_scan() -> None:
    torch.manual_seed(11)
    table = torch.randn(80, 8)
    bag = numbered_bag(np.arange(80))
    method = make(table, score="global", selection="hard")
    salient, sub = choose(method, bag, context())
    buffer, _ = scan(method, bag)
    assert salient.tolist() == buffer.salient.index.tolist()
    assert torch.equal(sub.index, buffer.sub_salient.index)
    assert torch.equal(sub.embedding, buffer.sub_salient.embedding)
