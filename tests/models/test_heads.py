"""What every head must do, whichever it is: parametrised over the table of heads."""

from __future__ import annotations

import pytest
import torch

from wsi_hr.models.heads import HEADS
from wsi_hr.models.z_block import ZBlock

CELLS = torch.tensor([[0, 0], [0, 3], [1, 1], [2, 0], [2, 2], [4, 3], [4, 1]])


def make(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return HEADS[name](16, 3, dropout=0.1).eval()


def test_a_block_lays_its_patches_on_the_grid() -> None:
    emb = torch.randn(7, 16, requires_grad=True)
    block = ZBlock.of([emb, emb[:2]], [CELLS, CELLS[:2]], (5, 4))
    z, mask = block.grid()
    assert z.shape == (2, 16, 5, 4)
    assert mask.sum((1, 2)).tolist() == [7, 2]
    for k, (row, col) in enumerate(CELLS.tolist()):
        assert torch.equal(z[0, :, row, col], emb[k])
        assert mask[0, row, col]
    assert not z[:, :, 3].any()
    z.sum().backward()
    assert emb.grad is not None
    assert emb.grad[:, 0].tolist() == [2, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("name", HEADS)
def test_other_slides_of_a_batch_change_nothing(name: str) -> None:
    """A slide alone, and beside one of more patches on a grid of the same shape."""
    head, emb = make(name), torch.randn(7, 16)
    everywhere = torch.cartesian_prod(torch.arange(5), torch.arange(4))
    other = torch.randn(20, 16)
    with torch.no_grad():
        alone = head(ZBlock.of([emb], [CELLS], (5, 4)))
        together = head(ZBlock.of([emb, other], [CELLS, everywhere], (5, 4)))
    assert torch.allclose(together[0], alone[0], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_the_order_of_patches_changes_nothing(name: str) -> None:
    head, emb, order = make(name), torch.randn(7, 16), torch.randperm(7)
    with torch.no_grad():
        first = head(ZBlock.of([emb], [CELLS], (5, 4)))
        second = head(ZBlock.of([emb[order]], [CELLS[order]], (5, 4)))
    assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_every_patch_gets_a_gradient_and_padding_none(name: str) -> None:
    head = make(name)
    block = ZBlock.of([torch.randn(7, 16), torch.randn(2, 16)], [CELLS, CELLS[:2]], (5, 4))
    leaf = block.emb_BND.clone().requires_grad_()
    head(ZBlock(leaf, block.mask_BN, block.cells_BN2, block.shape)).square().sum().backward()
    assert leaf.grad is not None
    size = leaf.grad.abs().sum(2)
    assert (size[block.mask_BN] > 0).all()
    assert (size[~block.mask_BN] == 0).all()


@pytest.mark.parametrize("name", HEADS)
def test_one_patch_is_a_slide(name: str) -> None:
    with torch.no_grad():
        logits = make(name)(ZBlock.of([torch.randn(1, 16)], [torch.zeros(1, 2).long()], (1, 1)))
    assert torch.isfinite(logits).all()
