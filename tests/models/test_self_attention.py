"""Self-attention against its formula, and the rotary code against rotation matrices."""

from __future__ import annotations

import math

import torch

from wsi_hr.models.self_attention import SelfAttention, masked_mean, rotary_angles, rotate


def rotation(row: int, col: int, width: int, base: float) -> torch.Tensor:
    """The code of a cell as a block rotation matrix f64[k, k], written out."""
    matrix = torch.zeros(width, width, dtype=torch.float64)
    pairs = width // 4
    for i in range(2 * pairs):
        place = row if i < pairs else col
        angle = place * base ** (-(i % pairs) / pairs)
        a, b = i, i + width // 2
        matrix[a, a] = matrix[b, b] = math.cos(angle)
        matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix


def test_turning_is_multiplying_by_rotation_matrices() -> None:
    torch.manual_seed(0)
    cells = torch.randint(0, 50, (2, 9, 2))
    x = torch.randn(2, 3, 9, 16, dtype=torch.float64)
    turned = rotate(x, rotary_angles(cells, 16))
    for b in range(2):
        for n in range(9):
            matrix = rotation(*cells[b, n].tolist(), 16, 100.0)
            assert torch.allclose(matrix @ matrix.T, torch.eye(16, dtype=torch.float64))
            assert torch.allclose(turned[b, :, n], x[b, :, n] @ matrix.T, atol=1e-12)


def test_products_depend_on_the_difference_of_cells_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64)
    there = [((3, 7), (10, 2)), ((0, 5), (7, 0)), ((93, 1007), (100, 1002))]

    def product(ask: tuple[int, int], give: tuple[int, int]) -> float:
        angles = [rotary_angles(torch.tensor([[cell]]), 32) for cell in (ask, give)]
        return float((rotate(q, angles[0]) * rotate(k, angles[1])).sum())

    products = [product(*pair) for pair in there]
    assert max(products) - min(products) < 1e-9
    others = [product((3, 7), (10, 3)), product((3, 7), (9, 2)), product((3, 7), (2, 10))]
    assert min(abs(other - products[0]) for other in others) > 1e-4


def test_attention_is_the_softmax_over_the_patches_that_are_there() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(12, heads=3, head_dim=8, dropout=0.0).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
    cells = torch.randint(0, 9, (2, 5, 2))
    angles = rotary_angles(cells, 8)
    found = layer(x, mask, lambda t: rotate(t, angles))
    w_q, w_k, w_v = layer.w_qkv.weight.view(3, 3, 8, 12)
    b_q, b_k, b_v = layer.w_qkv.bias.view(3, 3, 8)
    for b in range(2):
        there = mask[b].nonzero()[:, 0].tolist()
        for n in range(5):
            mixed = []
            for h in range(3):
                turn = [rotation(*cells[b, m].tolist(), 8, 100.0) for m in range(5)]
                query = turn[n] @ (w_q[h] @ x[b, n] + b_q[h])
                logits = torch.stack(
                    [query @ (turn[m] @ (w_k[h] @ x[b, m] + b_k[h])) / 8**0.5 for m in there]
                )
                values = torch.stack([w_v[h] @ x[b, m] + b_v[h] for m in there])
                mixed.append(logits.softmax(0) @ values)
            assert torch.allclose(found[b, n], layer.w_o(torch.cat(mixed)), atol=1e-12)


def test_the_mean_is_over_what_is_there() -> None:
    x = torch.tensor([[[1.0], [3.0], [99.0]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(x, mask).tolist() == [[2.0], [0.0]]
