"""DBPS: the identities of METHODS.md section 2, brute force, and the papers' own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from helpers import Recorder, TableEncoder, context, numbered_bag, pixel_encoder, random_bag
from torch import nn

from benchmarks.check_golden import check_golden
from wsi_hr.bags.bag import Bag
from wsi_hr.errors import ConfigError
from wsi_hr.method_config import DBPSConfig, IPSConfig
from wsi_hr.methods.dbps import DBPS
from wsi_hr.methods.dual_buffer import Candidates, DualBuffer, half_sampled, score
from wsi_hr.methods.ips import IPS
from wsi_hr.models.attention import DualAttention
from wsi_hr.models.encoder import Encoder
from wsi_hr.slide_prediction import Role
from wsi_hr.testing.memory_patches import MemoryPatches

GOLDEN = ["dbps", "dbps_ragged", "dbps_wide_aux", "ips_single", "ips_multitask_pos"]


def make(table_or_encoder, **settings) -> DBPS:
    encoder = table_or_encoder
    if isinstance(encoder, torch.Tensor):
        encoder = TableEncoder(encoder)
    settings = {"num_salient": 4, "num_sub_salient": 6, "scan_chunk": 5, "heads": 2,
                "dropout": 0.0, "explore": "none"} | settings  # fmt: skip
    torch.manual_seed(1)
    method = DBPS(DBPSConfig(**settings), encoder, [1.0, 1.0, 1.0])
    if isinstance(method.aggregate, DualAttention):
        with torch.no_grad():  # sharp attention, so that selections differ
            method.aggregate.attention.queries.mul_(20)
    return method


def scan(method: DBPS, bag: Bag) -> tuple[DualBuffer, torch.Tensor]:
    (found,) = method.scan([bag])
    return found


def choose(method: DBPS, bag: Bag, where) -> tuple[np.ndarray, Candidates]:
    (choice,) = method._choose([bag], where)
    return choice.salient, choice.sub_salient


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
    buffer, logits = scan(method, numbered_bag(np.arange(num)))
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
    assert sorted(scan(dual, bag)[0].salient.index.tolist()) == sorted(
        scan(single, bag)[0].salient.index.tolist()
    )
    kept = scan(single, bag)[0].salient.index
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
    buffer, _ = scan(method, bag)
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
        buffer, logits = scan(method, numbered_bag(np.arange(90)))
        shuffled, _ = scan(method, numbered_bag(order))
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
    paper, _ = scan(make(table, heads=1, score="paper"), bag)
    whole, _ = scan(make(table, heads=1, score="global"), bag)
    assert set(paper.salient.index.tolist()) == set(whole.salient.index.tolist())
    assert set(paper.sub_salient.index.tolist()) == set(whole.sub_salient.index.tolist())


def test_ties_go_to_the_lower_index() -> None:
    method = make(torch.randn(1, 8).repeat(50, 1))
    buffer, logits = scan(method, numbered_bag(np.arange(50)))
    assert buffer.salient.index.tolist() == [0, 1, 2, 3]
    assert buffer.sub_salient.index.tolist() == [4, 5, 6, 7, 8, 9]
    assert (logits == logits[:, :1]).all()


def test_identical_patches_get_identical_logits_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    bag = random_bag(rng, 21)
    bag.source._patches[[0, 8, 13, 20]] = bag.source._patches[3]
    encoder = pixel_encoder(4, 8, chunk=8).float()
    _, logits = scan(make(encoder), bag)
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
    salient, sub = choose(method, bag, context(0.39))
    assert len(set(salient.tolist())) == 30
    assert len(sub) == 6
    assert not set(sub.index.tolist()) & set(salient.tolist())
    hard, _ = choose(method, bag, context(0.4))
    assert set(hard.tolist()) == set(scan(method, bag)[0].salient.index.tolist())
    half = make(torch.randn(100, 8), explore="half_sampled", num_salient=10)
    drawn = [choose(half, bag, context(0.0, lambda _, i=i: np.random.default_rng(i)))[0].tolist()
             for i in range(6)]  # fmt: skip
    certain = set.intersection(*map(set, drawn))
    (top,) = half._scanner().logits([bag])
    best = set(top.index[score(top.logits).topk(5).indices].tolist())
    assert best <= certain
    assert len({tuple(sorted(d)) for d in drawn}) > 1
    assert all(len(set(d)) == 10 for d in drawn)


def test_half_sampled_draws_half_inside_the_best_and_half_outside() -> None:
    torch.manual_seed(7)
    bag = numbered_bag(np.arange(60))
    method = make(torch.randn(60, 8), selection="half_sampled", num_salient=10)
    (order,) = method._scanner().logits([bag])
    best = set(order.index[score(order.logits).topk(10).indices].tolist())
    draws = [
        choose(method, bag, context(1.0, lambda _, i=i: np.random.default_rng(i))) for i in range(8)
    ]
    for salient, sub in draws:
        assert len(best & set(salient.tolist())) == 5
        assert len(set(salient.tolist())) == 10
        assert len(sub) == 6
        assert not set(sub.index.tolist()) & set(salient.tolist())
        assert torch.equal(sub.embedding, method.encoder.table[sub.index])
    assert len({tuple(sorted(salient.tolist())) for salient, _ in draws}) > 4
    hard, _ = scan(method, bag)
    assert len(best & set(hard.salient.index.tolist())) >= 5  # prediction does not draw
    for num in (4, 10, 12):  # fewer others than half of M
        few = half_sampled(order.take(slice(num)), 10, 6, np.random.default_rng(0))
        assert len(set(few.salient.index.tolist())) == min(10, num)
        assert len(few.sub_salient) == max(0, num - 10)


def test_concat_is_one_attention_over_both_buffers() -> None:
    torch.manual_seed(9)
    table = torch.randn(50, 8)
    method = make(table, aggregation="concat")
    bag = numbered_bag(np.arange(50))
    buffer, _ = scan(method, bag)
    both = torch.cat([table[buffer.salient.index], table[buffer.sub_salient.index]])
    z = DualAttention.forward(method.aggregate, both[None], None, both[None, :0], None)
    expected = method.classifier(z[:, 0]).softmax(1)[0].detach().numpy()
    assert np.allclose(method.predict_bag(bag).probs, expected, atol=1e-6)
    everything = make(table, aggregation="concat", num_sub_salient=None, score="global")
    roles = np.bincount(everything.predict_bag(bag).role, minlength=4)
    assert roles.tolist() == [0, 0, 46, 4]


def test_abmilx_scores_by_its_own_attention_and_pools_both_buffers() -> None:
    torch.manual_seed(9)
    table = torch.randn(50, 8)
    method = make(table, aggregation="abmilx", score="global")
    bag = numbered_bag(np.arange(50))
    buffer, logits = scan(method, bag)
    assert torch.allclose(logits, method.aggregate.eval().attention_logits(table), atol=1e-6)
    assert buffer.salient.index.tolist() == score(logits).argsort(descending=True)[:4].tolist()
    both = torch.cat([table[buffer.salient.index], table[buffer.sub_salient.index]])
    expected = method.classifier(method.aggregate.pool(both[None], None)).softmax(1)[0]
    assert np.allclose(method.predict_bag(bag).probs, expected.detach().numpy(), atol=1e-6)


def test_the_scan_may_see_less_than_the_gradient_does() -> None:
    """At half scale the scan cannot tell these patches apart, in full only their detail differs."""
    rng = np.random.default_rng(0)
    detail = rng.integers(0, 2, (30, 4, 4, 1), dtype=np.uint8) * 200
    detail[:, ::2, ::2] = 100
    detail[:, 1::2] = 200 - detail[:, ::2]
    patches = np.repeat(detail, 3, 3)
    encoder = Encoder(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(),
                                    nn.AdaptiveAvgPool2d(1), nn.Flatten()), dim=8)  # fmt: skip
    bag = Bag.of(MemoryPatches(patches), 0)
    full, half = make(encoder), make(encoder, scan_scale=0.5)
    with torch.no_grad():
        reduced = torch.from_numpy(patches.reshape(30, 2, 2, 2, 2, 3).mean((2, 4)))
        expected = half.aggregate.logits(encoder.eval()(reduced))
    assert torch.allclose(scan(half, bag)[1], expected, atol=1e-4)
    assert not torch.allclose(scan(full, bag)[1], expected, atol=1e-3)
    prediction = half.predict_bag(bag)
    salient = np.flatnonzero(prediction.role == Role.SALIENT)
    buffer, _ = scan(half, bag)
    salient = buffer.salient.index.numpy()
    z = half.aggregate(
        encoder(bag.read(salient))[None], None, buffer.sub_salient.embedding[None], None
    )
    expected = half.classifier(z[:, 0]).softmax(1)[0].detach().numpy()
    assert np.allclose(prediction.probs, expected, atol=1e-5)


def test_an_encoder_of_one_size_refuses_a_smaller_scan() -> None:
    encoder = Encoder(
        timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0), dim=192
    )
    encoder.patch_px = 32
    with pytest.raises(ConfigError, match=r"method\.scan_scale 0\.5: .*one size"):
        make(encoder, scan_scale=0.5)


def test_ips_is_dbps_without_room_for_sub_salient() -> None:
    torch.manual_seed(12)
    table = torch.randn(50, 8)
    shared = {"num_salient": 4, "scan_chunk": 5, "heads": 2, "explore": "none"}
    dual = make(table, num_sub_salient=0, dropout=0.1)
    torch.manual_seed(1)
    single = IPS(IPSConfig(**shared), TableEncoder(table), [1.0, 1.0, 1.0])
    with torch.no_grad():
        single.aggregate.attention.queries.mul_(20)
    bag = numbered_bag(np.arange(50))
    assert np.array_equal(single.predict_bag(bag).probs, dual.predict_bag(bag).probs)
    assert single.min_patches == 4


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
    _, logits = scan(method, numbered_bag(np.arange(30)))
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


def test_many_logits_are_scored_row_by_row_to_the_same_ranks() -> None:
    torch.manual_seed(13)
    logits = torch.randn(8, 40_000)
    logits[:, 7] = logits[:, 30_001]
    whole = logits.double().softmax(1).mean(0).float()
    assert torch.allclose(score(logits), whole, rtol=1e-6)
    assert score(logits)[7] == score(logits)[30_001]
