"""Units of Z: every patch in exactly one, groups that fill a chunk, blocks by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import TableEncoder, numbered_bag
from hypothesis import given
from hypothesis import strategies as st

from wsi_hr.methods.units import Units
from wsi_hr.models.block_pool import BlockPool


def units_of(num: int, block: int | None, chunk: int = 8, seed: int = 0) -> Units:
    rng = np.random.default_rng(seed)
    places = rng.permutation(20 * 30)[:num]
    cells = np.stack(np.divmod(places, 30), 1).astype(np.int32)
    torch.manual_seed(seed)
    encoder = TableEncoder(torch.randn(max(num, 1), 6), chunk=chunk)
    pool = None if block is None else BlockPool(6)
    return Units(numbered_bag(np.arange(num), cells=cells, shape=(20, 30)), encoder, block, pool)


@given(st.integers(1, 200), st.sampled_from([None, 2, 3, 7, 64]), st.integers(1, 40))
def test_every_patch_is_in_one_unit_and_every_unit_in_one_group(num, block, chunk) -> None:
    units = units_of(num, block, chunk)
    groups = units.groups()
    assert np.concatenate(groups).tolist() == list(range(len(units)))
    patches = [units.patches(group) for group in groups]
    assert sorted(np.concatenate(patches).tolist()) == list(range(num))
    for group, part in zip(groups, patches, strict=True):
        assert len(part) <= chunk or len(group) == 1
    edge = block or 1
    for unit in range(len(units)):
        inside = units.bag.grid.cells[units.patches(np.array([unit]))] // edge
        assert (inside == units.cells_U2[unit]).all()
    assert len({tuple(cell) for cell in units.cells_U2.tolist()}) == len(units)
    assert (units.cells_U2 < units.shape).all()
    assert (units.cells_U2[units.unit_of_patch] == units.bag.grid.cells // edge).all()


def test_groups_are_as_full_as_their_order_allows() -> None:
    units = units_of(200, 3, chunk=10)
    sizes = [len(units.patches(np.array([u]))) for u in range(len(units))]
    for group, following in zip(units.groups(), units.groups()[1:], strict=False):
        held = sum(sizes[u] for u in group)
        assert held + sizes[following[0]] > 10


@pytest.mark.parametrize("block", [None, 3])
def test_filled_z_is_the_pooled_embeddings(block: int | None) -> None:
    units = units_of(50, block)
    table = units._encoder.table
    with torch.no_grad():
        z, weights = units.fill(units._encoder.embed_padded)
        for unit in range(len(units)):
            patches = units.patches(np.array([unit]))
            emb = table[patches]
            if block is None:
                expected, share = emb[0], torch.ones(1)
            else:
                pool = units._pool
                logits = pool.weight(pool.value(emb).tanh() * pool.gate(emb).sigmoid())[:, 0]
                share = logits.softmax(0)
                expected = share @ emb
            assert torch.allclose(z[unit], expected, atol=1e-6)
            assert torch.allclose(weights[patches], share, atol=1e-6)


def test_no_units_have_no_vectors() -> None:
    units = units_of(10, 3)
    nothing = np.array([], np.int64)
    assert len(units.patches(nothing)) == 0
    assert units.vectors(nothing, torch.zeros(0, 6))[0].shape == (0, 6)
    assert units.groups(nothing) == []
