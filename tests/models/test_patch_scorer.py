"""The scorer: its blocks, and that a patch's place in the list means nothing."""

from __future__ import annotations

import pytest
import torch

from wsi_hr.models.patch_scorer import MAX_TOKENS, PatchScorer, blocks_of


@pytest.mark.parametrize("num", [1, 2, 50, 1024, 1500, 20_000])
def test_blocks_are_as_small_as_they_may_be(num: int) -> None:
    torch.manual_seed(num)
    edge = int((1.7 * num) ** 0.5) + 1
    places = torch.randperm(edge * edge)[:num]
    cells = torch.stack([places // edge, places % edge], 1)
    blocks, of_patch = blocks_of(cells)
    assert len(blocks) <= MAX_TOKENS
    assert len(blocks.unique(dim=0)) == len(blocks)
    step = next(s for s in range(1, 99) if torch.equal(cells // s, blocks[of_patch]))
    if step > 1:
        assert len((cells // (step - 1)).unique(dim=0)) > MAX_TOKENS
    else:
        assert len(blocks) == num


def test_scores_do_not_depend_on_the_order() -> None:
    torch.manual_seed(0)
    scorer = PatchScorer(6).eval()
    features, cells = (
        torch.rand(70, 6),
        torch.stack([torch.arange(70) // 9, torch.arange(70) % 9], 1),
    )
    order = torch.randperm(70)
    with torch.no_grad():
        straight, shuffled = scorer(features, cells), scorer(features[order], cells[order])
    assert straight.shape == (70,)
    assert torch.allclose(straight[order], shuffled, atol=1e-5)
    assert straight.std() > 0


@pytest.mark.parametrize("num", [1, 2])
def test_a_slide_of_one_patch_has_a_score(num: int) -> None:
    scores = PatchScorer(6)(torch.rand(num, 6), torch.zeros(num, 2, dtype=torch.int64))
    assert torch.isfinite(scores).all()
