"""DBPS: the identities of METHODS.md section 2, brute force, and the papers' own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import Recorder, TableEncoder, context, numbered_bag, pixel_encoder, random_bag

from benchmarks.check_golden import check_golden
from wsi_hr.errors import ConfigError
from wsi_hr.method_config import DBPSConfig
from wsi_hr.methods.dbps import DBPS
from wsi_hr.methods.dual_buffer import score
from wsi_hr.slide_prediction import Role

GOLDEN = ["dbps", "dbps_ragged", "dbps_wide_aux", "ips_single", "ips_multitask_pos"]


def make(table_or_encoder, **settings) -> DBPS:
    encoder = table_or_encoder
    if isinstance(encoder, torch.Tensor):
        encoder = TableEncoder(encoder)
    settings = {"num_salient": 4, "num_sub_salient": 6, "scan_chunk": 5, "heads": 2,
                "dropout": 0.0, "explore": "none"} | settings  # fmt: skip
    torch.manual_seed(1)
    method = DBPS(DBPSConfig(**settings), encoder, [1.0, 1.0, 1.0])
    with torch.no_grad():  # sharp attention, so that selections differ
        method.aggregate.attention.queries.mul_(20)
    return method


def brute_force_ips(logits_JN: torch.Tensor, m: int, chunk: int) -> list[int]:
    """IPS as the paper words it: buffer, chunk, keep the top M."""
    n = logits_JN.shape[1]
    buffer = list(range(min(m, n)))
    for first in range(m, n, chunk):
        live = sorted(buffer + list(range(first, min(first + chunk, n))))
        scores = logits_JN[:, live].double().softmax(1).mean(0).float().tolist()
        buffer = [i for _, i in sorted(zip((-s for s in scores), live, strict=True))][:m]
    return sorted(buffer)


def brute_force_sub(logits_JN: torch.Tensor, m: int, s: int, chunk: int) -> list[int]:
    """The second buffer by its definition, each set ranked by its own softmax."""

    def top(ids: list[int], k: int) -> list[int]:
        ids = sorted(ids)
        scores = logits_JN[:, ids].double().softmax(1).mean(0).float().tolist()
        return [i for _, i in sorted(zip((-x for x in scores), ids, strict=True))][:k]

    n = logits_JN.shape[1]
    salient, sub = list(range(m)), []
    for first in range(m, n, chunk):
        live = salient + list(range(first, min(first + chunk, n)))
        salient = top(live, m)
        sub = top([i for i in live if i not in salient] + sub, s)
    return sorted(sub)


@pytest.mark.parametrize("num", [1, 3, 4, 5, 9, 10, 23, 64, 131])
@pytest.mark.parametrize("chunk", [1, 5, 200])
def test_scan_is_the_papers_by_brute_force(num: int, chunk: int) -> None:
    torch.manual_seed(num)
    method = make(torch.randn(num, 8), scan_chunk=chunk)
    buffer, logits = method._scan(numbered_bag(np.arange(num)))
    assert sorted(buffer.salient.index.tolist()) == brute_force_ips(logits, 4, chunk)
    assert sorted(buffer.sub_salient.index.tolist()) == brute_force_sub(
        logits, min(4, num), 6, chunk
    )
    table = method.encoder.table
    assert torch.equal(buffer.sub_salient.embedding, table[buffer.sub_salient.index])


def test_without_sub_salient_it_is_ips() -> None:
    torch.manual_seed(0)
    table = torch.randn(60, 8)
    dual, single = make(table), make(table, num_sub_salient=0)
    bag = numbered_bag(np.arange(60))
    assert sorted(dual._scan(bag)[0].salient.index.tolist()) == sorted(
        single._scan(bag)[0].salient.index.tolist()
    )
    kept = single._scan(bag)[0].salient.index
    block = single.aggregate
    query = block.attention.queries
    x = block.norm(block.attention(query, table[kept][None], None) + query)
    y = block.mlp_norm(block.w_2(torch.relu(block.w_1(x))) + x)
    expected = single.classifier(y[:, 0]).softmax(1)[0]
    got = torch.from_numpy(single.predict_bag(bag).probs)
    assert torch.allclose(got, expected, atol=1e-6)
    assert not torch.allclose(got, torch.from_numpy(dual.predict_bag(bag).probs), atol=1e-4)


@pytest.mark.parametrize("num", [1, 2, 7, 8])
def test_with_room_for_all_it_is_plain_attention(num: int) -> None:
    table = torch.randn(num, 8)
    method = make(table, num_salient=8)
    prediction = method.predict_bag(numbered_bag(np.arange(num)))
    z = method.aggregate(table[None], None, table[None, :0], None)
    expected = method.classifier(z[:, 0]).softmax(1)[0].detach().numpy()
    assert np.allclose(prediction.probs, expected, atol=1e-6)
    assert (prediction.role == Role.SALIENT).all()


def test_only_salient_patches_get_a_gradient() -> None:
    torch.manual_seed(3)
    method = make(torch.randn(40, 8))
    bag = numbered_bag(np.arange(40), label=1)
    buffer, _ = method._scan(bag)
    update = Recorder(method)
    method.train_bags([bag], update, context())
    touched = set(torch.nonzero(update.steps[0]["encoder.table"].abs().sum(1)).flatten().tolist())
    assert touched == set(buffer.salient.index.tolist())
    assert len(update.steps) == 1


def test_global_selection_ignores_chunk_and_order() -> None:
    torch.manual_seed(4)
    table = torch.randn(90, 8)
    order = np.random.default_rng(0).permutation(90)
    kept = set()
    for chunk in (1, 7, 90):
        method = make(table, score="global", scan_chunk=chunk)
        buffer, logits = method._scan(numbered_bag(np.arange(90)))
        shuffled, _ = method._scan(numbered_bag(order))
        kept.add(tuple(sorted(buffer.salient.index.tolist())))
        assert {int(order[i]) for i in shuffled.salient.index} == set(buffer.salient.index.tolist())
        assert {int(order[i]) for i in shuffled.sub_salient.index} == set(
            buffer.sub_salient.index.tolist()
        )
        rest = [i for i in range(90) if i not in buffer.salient.index.tolist()]
        best = score(logits[:, rest]).topk(6).indices
        assert {rest[i] for i in best} == set(buffer.sub_salient.index.tolist())
    assert len(kept) == 1


def test_paper_score_equals_global_with_one_head() -> None:
    torch.manual_seed(5)
    table = torch.randn(70, 8)
    bag = numbered_bag(np.arange(70))
    paper, _ = make(table, heads=1, score="paper")._scan(bag)
    whole, _ = make(table, heads=1, score="global")._scan(bag)
    assert set(paper.salient.index.tolist()) == set(whole.salient.index.tolist())
    assert set(paper.sub_salient.index.tolist()) == set(whole.sub_salient.index.tolist())


def test_ties_go_to_the_lower_index() -> None:
    method = make(torch.randn(1, 8).repeat(50, 1))
    buffer, logits = method._scan(numbered_bag(np.arange(50)))
    assert buffer.salient.index.tolist() == [0, 1, 2, 3]
    assert buffer.sub_salient.index.tolist() == [4, 5, 6, 7, 8, 9]
    assert (logits == logits[:, :1]).all()


def test_identical_patches_get_identical_logits_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    bag = random_bag(rng, 21)
    bag.source._patches[[0, 8, 13, 20]] = bag.source._patches[3]
    encoder = pixel_encoder(4, 8, chunk=8).float()
    logits = make(encoder)._scan(bag)[1]
    assert (logits[:, [0, 8, 13, 20]] == logits[:, [3]]).all()


def test_ragged_batch_equals_slide_by_slide() -> None:
    torch.manual_seed(6)
    method = make(torch.randn(200, 8))
    sizes = [1, 3, 9, 60]
    bags = [numbered_bag(np.arange(n) + n, label=n % 3, slide_id=f"s{n}") for n in sizes]
    together = Recorder(method)
    loss = method.train_bags(bags, together, context())
    alone = [Recorder(method) for _ in bags]
    losses = [method.train_bags([b], r, context()) for b, r in zip(bags, alone, strict=True)]
    assert loss == pytest.approx(np.mean(losses), abs=1e-6)
    for name, grad in together.steps[0].items():
        mean = sum(r.steps[0].get(name, torch.zeros_like(grad)) for r in alone) / len(bags)
        assert torch.allclose(grad, mean, atol=1e-6), name


def test_exploration_draws_as_many_as_asked_and_ends() -> None:
    torch.manual_seed(7)
    bag = numbered_bag(np.arange(100))
    method = make(torch.randn(100, 8), explore="random", explore_epochs=0.4, explore_patches=30)
    salient, sub = method._choose(bag, context(0.39))
    assert len(set(salient.tolist())) == 30
    assert len(sub) == 6
    assert not set(sub.index.tolist()) & set(salient.tolist())
    hard, _ = method._choose(bag, context(0.4))
    assert set(hard.tolist()) == set(method._scan(bag)[0].salient.index.tolist())
    half = make(torch.randn(100, 8), explore="half_sampled", num_salient=10)
    drawn = [half._choose(bag, context(0.0, lambda _, i=i: np.random.default_rng(i)))[0].tolist()
             for i in range(6)]  # fmt: skip
    certain = set.intersection(*map(set, drawn))
    top = half._embed_all(bag)
    best = set(top.index[score(top.logits).topk(5).indices].tolist())
    assert best <= certain
    assert len({tuple(sorted(d)) for d in drawn}) > 1
    assert all(len(set(d)) == 10 for d in drawn)


def test_class_weights_weigh() -> None:
    torch.manual_seed(8)
    bags = [numbered_bag(np.arange(20), label=c, slide_id=str(c)) for c in (0, 1)]
    encoder = TableEncoder(torch.randn(20, 8))
    config = DBPSConfig(heads=2, dropout=0.0, explore="none")
    torch.manual_seed(0)
    even = DBPS(config, encoder, [1.0, 1.0])
    torch.manual_seed(0)
    tilted = DBPS(config, encoder, [0.5, 3.0])
    each = [even.train_bags([b], Recorder(even), context()) for b in bags]
    got = tilted.train_bags(bags, Recorder(tilted), context())
    assert got == pytest.approx((0.5 * each[0] + 3.0 * each[1]) / 2, rel=1e-5)
    alone = tilted.train_bags(bags[:1], Recorder(tilted), context())
    assert alone == pytest.approx(0.5 * each[0], rel=1e-5)


def test_positions_tell_equal_patches_apart() -> None:
    method = make(torch.randn(1, 8).repeat(30, 1), positions=True)
    _, logits = method._scan(numbered_bag(np.arange(30)))
    assert len({tuple(column.tolist()) for column in logits.T}) == 30


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="must divide the encoder's width 8; try 2"):
        make(torch.randn(4, 8), heads=3)


@pytest.mark.data
@pytest.mark.parametrize("name", GOLDEN)
def test_the_papers_own_code_is_reproduced(shared_golden, name: str) -> None:
    found = check_golden(shared_golden / f"{name}.npz")
    assert {"idx"} <= {finding.quantity for finding in found}
    assert all(finding.agrees for finding in found), found
