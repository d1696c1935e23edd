"""ABMILX and ABMIL: the identities of METHODS.md section 3b, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wsi_hr.errors import ConfigError
from wsi_hr.models.abmilx import ABMILX
from wsi_hr.models.heads.abmil import ABMILHead, join_parts
from wsi_hr.models.z_block import ZBlock, pad_ragged

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def make(*, heads: int = 4, alpha: float = 0.7, dim: int = 6, width: int = 12) -> ABMILX:
    torch.manual_seed(heads)
    return ABMILX(dim, width=width, heads=heads, dropout=0.25, alpha=alpha).double().eval()


def slide(num: int, dim: int = 6) -> Tensor:
    torch.manual_seed(num)
    return 3 * torch.randn(num, dim, dtype=torch.float64)


def explicit(net: ABMILX, emb_ND: Tensor) -> Tensor:
    """The formula of the paper head by head, with its matrix of N x N."""
    x_NW = nn.functional.gelu(net.embed(net.norm(emb_ND)))
    pooled = []
    for h_Nd in x_NW.chunk(net.heads, 1):
        a_N1 = net.fc2(nn.functional.gelu(net.fc1(h_Nd)))
        q_Nd, k_Nd = net.w_qk(net.head_norm(h_Nd)).chunk(2, 1)
        mix_NN = (q_Nd @ k_Nd.T / h_Nd.shape[1] ** 0.5).softmax(1)
        refined_N1 = a_N1 + net.alpha * mix_NN @ a_N1
        pooled.append((refined_N1.softmax(0) * h_Nd).sum(0))
    return net.out_norm(net.project(torch.cat(pooled)))


@pytest.mark.parametrize("num", [1, 2, 37])
@pytest.mark.parametrize("heads", [1, 4])
def test_without_the_matrix_it_is_the_same(heads: int, num: int) -> None:
    net, emb = make(heads=heads), slide(num)
    torch.testing.assert_close(net.pool(emb[None], None)[0], explicit(net, emb), **EXACT)
    params = list(net.parameters())
    ours = torch.autograd.grad(net.pool(emb[None], None).square().sum(), params)
    theirs = torch.autograd.grad(explicit(net, emb).square().sum(), params)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_every_part_of_it_matters() -> None:
    net, emb = make(), slide(20)
    before = net.pool(emb[None], None)
    net.pool(emb[None], None).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        if name != "fc2.bias":  # a softmax does not see it
            assert parameter.grad.abs().sum() > 0, name
    with torch.no_grad():
        net.alpha += 1
    assert not torch.allclose(net.pool(emb[None], None), before, rtol=1e-3)


@pytest.mark.parametrize("heads", [1, 4])
def test_without_refinement_it_is_attention_mil(heads: int) -> None:
    """alpha = 0: each head is attention MIL; with one head it is that of plain ABMIL."""
    net, emb = make(heads=heads, alpha=0.0), slide(23)
    h_NW = nn.functional.gelu(net.embed(net.norm(emb)))
    weights_mN = net.attention_logits(emb).softmax(1)
    pooled = [w_N @ h_Nd for w_N, h_Nd in zip(weights_mN, h_NW.chunk(heads, 1), strict=True)]
    expected = net.out_norm(net.project(torch.cat(pooled)))
    seen = net.attend(emb[None], None)
    torch.testing.assert_close(seen.vector[0], expected, **EXACT)
    torch.testing.assert_close(seen.weights[0], weights_mN, **EXACT)


def test_patches_have_no_order() -> None:
    net, emb = make(), slide(31)
    order = torch.randperm(31)
    there, here = net.attend(emb[order][None], None), net.attend(emb[None], None)
    torch.testing.assert_close(there.vector, here.vector, **EXACT)
    torch.testing.assert_close(there.weights, here.weights[..., order], **EXACT)
    torch.testing.assert_close(
        net.attention_logits(emb[order]), net.attention_logits(emb)[:, order], **EXACT
    )


def test_ragged_slides_are_each_as_if_alone() -> None:
    net, slides = make(), [slide(9), slide(1), slide(30)]
    emb, mask = pad_ragged(slides)
    emb = torch.where(mask[..., None], emb, 1e3)  # what is behind the mask is anything
    together = net.attend(emb, mask)
    for k, alone in enumerate(slides):
        expected = net.attend(alone[None], None)
        torch.testing.assert_close(together.vector[k], expected.vector[0], **EXACT)
        weights = together.weights[k, :, mask[k]]
        torch.testing.assert_close(weights, expected.weights[0], **EXACT)
        assert (together.weights[k, :, ~mask[k]] == 0).all()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="method.heads 5: must divide method.width 12; try 4"):
        ABMILX(6, width=12, heads=5)


@pytest.mark.parametrize("attention", ["gated", "plain"])
def test_abmil_in_parts_is_abmil(attention: str) -> None:
    torch.manual_seed(0)
    head = ABMILHead(6, 3, dropout=0.25, attention=attention, width=8).double().eval()  # pyright: ignore
    emb = slide(29)
    h_NW = torch.relu(head.reduce[0](emb))
    score_N = head.value(h_NW).tanh()
    if attention == "gated":
        score_N = score_N * head.gate(h_NW).sigmoid()  # pyright: ignore[reportOptionalCall]
    expected = head.classifier(head.score(score_N)[:, 0].softmax(0) @ h_NW)
    cells = torch.zeros(29, 2, dtype=torch.int64)
    whole = head(ZBlock.of([emb], [cells], (1, 1)))[0]
    torch.testing.assert_close(whole, expected, **EXACT)
    parts = [head.pool_part(part) for part in emb.split([1, 20, 8])]
    torch.testing.assert_close(head.classifier(join_parts(parts)), expected, **EXACT)
    logits = head.attention_logits(emb)
    torch.testing.assert_close(logits.softmax(0) @ h_NW, join_parts(parts), **EXACT)
