"""What every head must do, whichever it is: parametrised over the table of heads."""

from __future__ import annotations

import pytest
import torch

from wsi_hr.models.heads import HEADS
from wsi_hr.models.heads.dense import DenseHead
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


DENSE = [name for name in HEADS if isinstance(make(name), DenseHead)]


@pytest.mark.parametrize("name", HEADS)
def test_one_small_slide_can_be_learned_from_alone(name: str) -> None:
    """A biopsy, the only slide of its batch: no step may need a second one beside it."""
    head = make(name).train()
    emb = torch.randn(3, 16, requires_grad=True)
    logits = head(ZBlock.of([emb], [CELLS[[0, 2, 4]]], (3, 3)))
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert emb.grad is not None
    assert torch.isfinite(emb.grad).all()
    assert emb.grad.any()


def block_of(*embeddings: torch.Tensor, cells: torch.Tensor = CELLS, **facts) -> ZBlock:
    shape = facts.get("shape", (5, 4))
    return ZBlock.of(embeddings, [cells[: len(emb)] for emb in embeddings], shape)


def test_which_heads_tell_patches_apart() -> None:
    assert {"cnn", "transformer", "window"} <= set(DENSE)
    assert "attention" not in DENSE


def dense(name: str) -> DenseHead:
    head = make(name)
    assert isinstance(head, DenseHead)
    head.add_dense(4)
    return head.eval()


@pytest.mark.parametrize("name", DENSE)
def test_patches_keep_their_logits_in_any_order_and_company(name: str) -> None:
    head, emb, order = dense(name), torch.randn(7, 16), torch.randperm(7)
    with torch.no_grad():
        alone = head.dense(block_of(emb))
        together = head.dense(block_of(emb[:3], emb))
        shuffled = head.dense(block_of(emb[order], cells=CELLS[order]))
        read = head.read(block_of(emb))
        slide = head(block_of(emb))
    assert alone.shape == (1, 7, 4)
    assert torch.allclose(together[1], alone[0], atol=1e-5)
    assert torch.allclose(shuffled[0], alone[0, order], atol=1e-5)
    assert not torch.allclose(alone[0, 0], alone[0, 1], atol=1e-3)
    assert torch.equal(read.patch_BNK, alone)
    assert torch.equal(read.slide_BC, slide)


@pytest.mark.parametrize("name", DENSE)
def test_a_patch_that_is_not_there_gets_no_gradient_from_patches(name: str) -> None:
    head = dense(name)
    block = block_of(torch.randn(7, 16), torch.randn(2, 16))
    leaf = block.emb_BND.clone().requires_grad_()
    logits = head.dense(ZBlock(leaf, block.mask_BN, block.cells_BN2, block.shape))
    logits[block.mask_BN].square().sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad.abs().sum(2)[block.mask_BN] > 0).all()
    assert (leaf.grad[~block.mask_BN] == 0).all()


def test_a_head_asked_for_slides_only_has_no_weights_for_patches() -> None:
    for name in DENSE:
        assert not any("patch_classifier" in key for key in make(name).state_dict())
        assert any("patch_classifier" in key for key in dense(name).state_dict())


def test_the_window_head_knows_distances_only() -> None:
    head, emb = make("window").double(), torch.randn(7, 16).double()
    with torch.no_grad():
        here = head(block_of(emb))
        there = head(block_of(emb, cells=CELLS + torch.tensor([90, 1000]), shape=(99, 1009)))
        wider = head(block_of(emb, cells=CELLS * 2, shape=(9, 7)))
        turned = head(block_of(emb, cells=CELLS.flip(1), shape=(4, 5)))
    assert torch.allclose(here, there, rtol=1e-9)
    assert not torch.allclose(here, wider, rtol=1e-3)
    assert not torch.allclose(here, turned, rtol=1e-3)


def test_the_transformer_head_sees_places_only_where_it_is_asked_to() -> None:
    emb = torch.randn(7, 16)
    for positions in (False, True):
        torch.manual_seed(0)
        head = HEADS["transformer"](16, 3, dropout=0.0, positions=positions).eval()
        with torch.no_grad():
            here, there = head(block_of(emb)), head(block_of(emb, cells=CELLS.flip(0)))
        assert torch.allclose(here, there, atol=1e-5) is not positions


def test_heads_and_layers_are_as_many_as_was_asked() -> None:
    sizes = [
        sum(p.numel() for p in HEADS[name](64, 3, dropout=0.0, **settings).parameters())
        for name, settings in (
            ("window", {}), ("window", {"layers": 3}), ("window", {"heads": 2}),
            ("transformer", {}), ("transformer", {"heads": 1}),
        )
    ]  # fmt: skip
    assert sizes[1] > sizes[0] > sizes[2]
    assert sizes[3] > sizes[4]
    assert HEADS["attention"](64, 3, dropout=0.0, heads=64)(block_of(torch.randn(7, 64))).shape == (
        1, 3,
    )  # fmt: skip
