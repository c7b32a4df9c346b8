"""Attention between agents of several types, in windows of bird's-eye-view cells.

A key of agent j scores q_i^T A_st k_j / sqrt(d) with a query of agent i of type s, and brings M_st v_j; queries, keys,
values and outputs are projected per type t, and every ordered pair of types has its own A and M (V2X-ViT, arXiv
2203.10638, heterogeneous multi-agent self-attention). Windows of one cell give V2X-ViT's form, larger ones HM-ViT's
(arXiv 2304.10628), where an agent's cell attends to all cells of all agents in its window. What is not seen is masked.

Shapes: B scenes, L agents of a scene, the ego first, Q of them updated, C channels, H heads, d channels per head, T
types, Y X grid, W windows of n cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.errors import ConfigError


class TypedProjections(nn.Module):
    """Query, key, value and output of one agent type."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)


class RelationAttention(nn.Module):
    """Relation matrices of every ordered pair of types, and attention with them inside windows.

    The matrices start as the identity, which is plain attention (ours; the papers draw them at random).

    Args:
        channels: C.
        heads: H.
        types: T.
        window: cells along a window's side; above 1 with a learned bias of relative positions per head.
    """

    def __init__(self, channels: int, heads: int, types: int, window: int = 1) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.heads = heads
        per_head = channels // heads
        same = torch.eye(per_head).repeat(types, types, heads, 1, 1)
        self.relation_attention = nn.Parameter(same.clone())
        self.relation_message = nn.Parameter(same.clone())
        self.position = RelativePosition(window, heads) if window > 1 else None

    def forward(
        self, x: Tensor, seen: Tensor, parts: Sequence[Sequence[TypedProjections]], types: Tensor, queries: int
    ) -> Tensor:
        """(B, Q, W, n, C) what the first Q agents gather.

        Args:
            x: (B, L, W, n, C).
            seen: (B, L, W, n) bool.
            parts: B lists of L projections, those of each agent's type.
            types: (B, L) int64 row of each agent's type in the relation matrices.
            queries: Q.
        """
        batch, agents, windows, cells, channels = x.shape
        query = self._heads(by_agent(x[:, :queries], [[p.query for p in row[:queries]] for row in parts]))
        key = self._heads(by_agent(x, [[p.key for p in row] for row in parts]))
        value = self._heads(by_agent(x, [[p.value for p in row] for row in parts]))
        bias = 0.0 if self.position is None else self.position().repeat(1, 1, agents)[:, None]
        mask = seen.permute(0, 2, 1, 3).reshape(batch, 1, windows, 1, agents * cells)
        gathered = []
        for i in range(queries):
            # the receiver's relation with each sender is folded into that sender's keys and values
            attention = self.relation_attention[types[:, i, None], types]
            message = self.relation_message[types[:, i, None], types]
            related = self._in_windows(key @ attention.mT[:, :, :, None], windows)
            brought = self._in_windows(value @ message.mT[:, :, :, None], windows)
            score = query[:, i] @ related.mT / (channels // self.heads) ** 0.5 + bias
            gathered.append(masked_softmax(score, mask) @ brought)
        together = (
            torch.stack(gathered, dim=1).permute(0, 1, 3, 4, 2, 5).reshape(batch, queries, windows, cells, channels)
        )
        return by_agent(together, [[p.output for p in row[:queries]] for row in parts])

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, W, n, C) to (B, L, H, W, n, d)."""
        return x.view(*x.shape[:4], self.heads, -1).permute(0, 1, 4, 2, 3, 5)

    @staticmethod
    def _in_windows(x: Tensor, windows: int) -> Tensor:
        """(B, L, H, W, n, d) to (B, H, W, L * n, d): everything that a window's queries look at."""
        batch, _, heads, _, _, channels = x.shape
        return x.permute(0, 2, 3, 1, 4, 5).reshape(batch, heads, windows, -1, channels)


class RelativePosition(nn.Module):
    """A learned bias for every offset between two cells of a window: (heads, n, n).

    Args:
        window: cells along a side, n = window * window.
        heads: tables, one per head; 1 shares one table among all heads.
    """

    index: Tensor

    def __init__(self, window: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, (2 * window - 1) ** 2))
        rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        place = torch.stack([rows.flatten(), columns.flatten()])
        offset = place[:, :, None] - place[:, None, :] + window - 1
        self.register_buffer("index", offset[0] * (2 * window - 1) + offset[1], persistent=False)

    def forward(self) -> Tensor:
        """(heads, n, n)."""
        return self.table[:, self.index]


class WindowAttention(nn.Module):
    """Self-attention of one agent's own map in windows, with one table of relative positions for all heads."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.heads, self.window = heads, window
        self.project = nn.Linear(channels, 3 * channels, bias=False)
        self.position = RelativePosition(window, heads=1)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """(B, L, Y, X, C) to the same shape; (B, L, Y, X) bool cells that are not seen are not looked at."""
        tokens, mask = to_windows(x, self.window), to_windows(seen[..., None], self.window)[..., 0]
        parts = self.project(tokens).unflatten(-1, (3, self.heads, -1)).permute(4, 0, 1, 2, 5, 3, 6)
        query, key, value = parts.unbind()  # (B, L, W, H, n, d)
        score = query @ key.mT / query.shape[-1] ** 0.5 + self.position()
        mixed = masked_softmax(score, mask[:, :, :, None, None]) @ value
        return from_windows(self.output(mixed.transpose(3, 4).flatten(-2)), self.window, x.shape[2:4])


class PyramidWindowAttention(nn.Module):
    """Windows of several sizes side by side, mixed by split attention.

    V2X-ViT's multi-scale window attention; the mixing after ResNeSt (Zhang et al. 2022): softmax over the scales per
    channel, from the mean of their sum over the cells that are seen.
    """

    def __init__(self, channels: int, heads: Sequence[int], windows: Sequence[int]) -> None:
        super().__init__()
        if len(heads) != len(windows):
            raise ConfigError(f"window_heads={tuple(heads)} and windows={tuple(windows)} must have the same length")
        self.scales = nn.ModuleList(
            WindowAttention(channels, h, window) for h, window in zip(heads, windows, strict=True)
        )
        self.squeeze = nn.Sequential(nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.ReLU())
        self.expand = nn.Linear(channels, len(windows) * channels, bias=False)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """(B, L, Y, X, C) to the same shape."""
        views = torch.stack([scale(x, seen) for scale in self.scales])
        counts = seen[..., None]
        mean = (views.sum(dim=0) * counts).sum(dim=(2, 3)) / counts.sum(dim=(2, 3)).clamp(min=1)
        weights = self.expand(self.squeeze(mean)).unflatten(-1, (len(views), -1)).softmax(dim=2)
        mixed: Tensor = (views * weights.permute(2, 0, 1, 3)[:, :, :, None, None]).sum(dim=0)
        return mixed


def by_agent(x: Tensor, layers: Sequence[Sequence[nn.Linear]]) -> Tensor:
    """(B, L, W, n, C_in) to (B, L, W, n, C_out), each agent with the layer of its type."""
    weight = torch.stack([layer.weight for row in layers for layer in row])
    bias = torch.stack([layer.bias for row in layers for layer in row])
    flat = x.flatten(0, 1).flatten(1, 2)
    return torch.baddbmm(bias[:, None].to(flat.dtype), flat, weight.mT.to(flat.dtype)).view(*x.shape[:4], -1)


def masked_softmax(score: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension where the mask is true; all alike where it is true nowhere."""
    return torch.softmax(score.masked_fill(~mask, torch.finfo(score.dtype).min), dim=-1)


def to_windows(x: Tensor, window: int, dilated: bool = False) -> Tensor:
    """(B, L, Y, X, C) to (B, L, W, n, C), zeros (False) beyond the map.

    Args:
        window: cells along a side.
        dilated: a window's cells are spread evenly over the whole map (grid attention) instead of lying together.
    """
    rows, columns = x.shape[2:4]
    x = functional.pad(x, (0, 0, 0, -columns % window, 0, -rows % window))
    batch, agents, rows, columns, channels = x.shape
    if dilated:
        x = x.view(batch, agents, window, rows // window, window, columns // window, channels)
        return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, agents, -1, window**2, channels)
    x = x.view(batch, agents, rows // window, window, columns // window, window, channels)
    return x.permute(0, 1, 2, 4, 3, 5, 6).reshape(batch, agents, -1, window**2, channels)


def from_windows(tokens: Tensor, window: int, shape: Sequence[int], dilated: bool = False) -> Tensor:
    """(B, L, W, n, C) back to (B, L, Y, X, C); `shape` is (Y, X)."""
    (batch, agents, _, _, channels), (rows, columns) = tokens.shape, shape
    down, right = -(-rows // window), -(-columns // window)
    x = tokens.view(batch, agents, down, right, window, window, channels)
    x = x.permute(0, 1, 4, 2, 5, 3, 6) if dilated else x.permute(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(batch, agents, down * window, right * window, channels)[:, :, :rows, :columns]


def check_heads(channels: int, heads: int) -> None:
    """Heads must divide the channels.

    Raises:
        ConfigError: they do not.
    """
    if channels % heads:
        raise ConfigError(f"heads={heads} does not divide the {channels} shared channels")
