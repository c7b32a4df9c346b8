"""Typed attention against its formula written out, published sizes, and windows that come back as they were."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from heatv2x.nn.hetero_attention import (
    PyramidWindowAttention,
    RelationAttention,
    RelativePosition,
    TypedProjections,
    WindowAttention,
    from_windows,
    to_windows,
)
from tests.scene_factory import shaken

C, HEADS, TYPES = 8, 2, 3


def size(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(
    ("channels", "types", "published"),
    [
        (64, 2, 37_376),
        (64, 4, 82_944),
        (128, 2, 148_480),
        (128, 4, 329_728),
        (256, 2, 591_872),
        (256, 4, 1_314_816),
    ],
)
def test_published_sizes_of_one_layer(channels: int, types: int, published: int) -> None:
    """Heterogeneous attention of V2X-ViT with 8 heads: projections per type, two matrices per ordered pair."""
    projections = [TypedProjections(channels) for _ in range(types)]
    assert size(RelationAttention(channels, 8, types), *projections) == published


def setting(window: int = 1) -> tuple[RelationAttention, list[list[TypedProjections]], Tensor]:
    attention = shaken(RelationAttention(C, HEADS, TYPES, window), 0.5)
    by_type = [shaken(TypedProjections(C), 0.5, seed) for seed in range(TYPES)]
    types = torch.tensor([[0, 1, 2], [2, 2, 0]])
    return attention, [[by_type[t] for t in row] for row in types.tolist()], types


@pytest.mark.parametrize("window", [1, 2])
def test_agrees_with_the_formula_written_out(window: int) -> None:
    """a_ij = softmax_j(q_i^T A_ij k_j / sqrt(d) + bias), y_i = W^O sum_j a_ij M_ij v_j over all cells of a window."""
    attention, parts, types = setting(window)
    cells, d = window**2, C // HEADS
    x, seen = torch.randn(2, 3, 4, cells, C), torch.rand(2, 3, 4, cells) < 0.6
    seen[:, 0] = True
    got = attention(x, seen, parts, types, queries=2)
    bias = torch.zeros(HEADS, 1, 1) if attention.position is None else attention.position()
    for b, i, w, n in [(0, 0, 0, 0), (0, 1, 3, cells - 1), (1, 1, 2, 0)]:
        heads = []
        for head in range(HEADS):
            part = slice(head * d, (head + 1) * d)
            query = parts[b][i].query(x[b, i, w, n])[part]
            scores, values = [], []
            for j in range(3):
                s, t = int(types[b, i]), int(types[b, j])
                for m in range(cells):
                    if seen[b, j, w, m]:
                        key, value = parts[b][j].key(x[b, j, w, m])[part], parts[b][j].value(x[b, j, w, m])[part]
                        score = query @ attention.relation_attention[s, t, head] @ key / d**0.5
                        scores.append(score + bias[head, n, m])
                        values.append(attention.relation_message[s, t, head] @ value)
            heads.append((torch.stack(scores).softmax(0)[:, None] * torch.stack(values)).sum(0))
        torch.testing.assert_close(got[b, i, w, n], parts[b][i].output(torch.cat(heads)), rtol=1e-4, atol=1e-4)


def test_starts_as_plain_attention() -> None:
    """With one type and its start, relations change nothing: torch's own attention over agents."""
    attention, part = RelationAttention(C, 1, 1), TypedProjections(C)
    x = torch.randn(1, 3, 5, 1, C)
    got = attention(x, torch.ones(1, 3, 5, 1, dtype=torch.bool), [[part] * 3], torch.zeros(1, 3, dtype=torch.long), 3)
    flat = x[0, :, :, 0].transpose(0, 1)
    mixed = nn.functional.scaled_dot_product_attention(part.query(flat), part.key(flat), part.value(flat))
    torch.testing.assert_close(got[0, :, :, 0], part.output(mixed).transpose(0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize(("shape", "window"), [((8, 12), 4), ((10, 7), 4), ((3, 3), 8)])
def test_windows_come_back_as_they_were(shape: tuple[int, int], window: int, dilated: bool) -> None:
    x = torch.randn(2, 3, *shape, 5)
    tokens = to_windows(x, window, dilated)
    assert tokens.shape[3] == window**2 and tokens.count_nonzero() == x.numel()
    assert torch.equal(from_windows(tokens, window, shape, dilated), x)


def test_neighbours_are_together_or_spread_over_the_map() -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8, 1)
    assert to_windows(x, 2)[0, 0, 0, :, 0].tolist() == [0, 1, 8, 9]
    assert to_windows(x, 2, dilated=True)[0, 0, 0, :, 0].tolist() == [0, 4, 32, 36]


def test_the_bias_depends_on_the_offset_alone() -> None:
    position = RelativePosition(3, heads=1)
    nn.init.normal_(position.table)
    bias = position()[0].view(3, 3, 3, 3)
    assert len(bias.unique()) == 25
    assert bias[0, 0, 1, 2] == bias[1, 0, 2, 2] and bias[0, 0, 1, 2] != bias[1, 2, 0, 0]


def test_what_is_not_seen_is_not_looked_at() -> None:
    attention = shaken(WindowAttention(C, 2, 4), 0.5)
    x, seen = torch.randn(1, 2, 8, 8, C), torch.rand(1, 2, 8, 8) < 0.5
    loud = torch.where(seen[..., None], x, 100.0)
    wide = seen[..., None].expand_as(x)
    assert torch.equal(attention(loud, seen)[wide], attention(x, seen)[wide])
    pyramid = shaken(PyramidWindowAttention(C, (2, 1), (2, 4)), 0.5)
    assert torch.equal(pyramid(loud, seen)[wide], pyramid(x, seen)[wide])


def test_a_map_that_nobody_sees_stays_finite() -> None:
    pyramid = shaken(PyramidWindowAttention(C, (2, 1), (2, 4)), 0.5)
    x = torch.randn(1, 1, 8, 8, C, requires_grad=True)
    mixed = pyramid(x, torch.zeros(1, 1, 8, 8, dtype=torch.bool))
    mixed.sum().backward()
    assert mixed.isfinite().all() and x.grad is not None and x.grad.isfinite().all()
