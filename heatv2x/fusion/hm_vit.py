"""HM-ViT: agents of different types attend to one another in windows of cells (Xiang et al., ICCV 2023).

After the paper (arXiv 2304.10628, heterogeneous 3D graph attention): tokens are the cells of all agents in a window;
queries, keys, values, outputs, normalisations and feed-forward networks belong to a type, relation matrices to an
ordered pair of types, and relative positions have a learned bias. A block looks first at windows of neighbours (local),
then at windows whose cells are spread over the map (grid); every agent is updated, the ego's map is the result.

Where it differs, because of the contract of a fusion: cells that no sender sees keep the ego's value, cells that an
agent does not see are no keys, there is no dropout, and the head is the shared one, not one per type. A newcomer gets
everything typed of its own and uses the relation matrices of the type it is like; the paper keeps one matrix per
ordered pair, so that the T-th type would bring 2T - 1 new ones and share them with deployed types.

Shapes: B egos, K slots, L = 1 + K agents, C channels, Y X grid, W windows of n cells.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.core import config
from heatv2x.fusion.base import Fusion, Received, everyone, where_seen
from heatv2x.nn.hetero_attention import RelationAttention, TypedProjections, by_agent, from_windows, to_windows


class HmVit(Fusion):
    """Typed attention over the cells of all agents, in local windows and in spread ones."""

    source = "HM-ViT, Xiang et al. 2023, arXiv 2304.10628"
    local = False

    class Config(config.Config):
        """Attributes:
        blocks: how often local and spread attention follow each other.
        heads: attention heads; the paper has 32 channels per head.
        window: cells along a window's side.
        hidden: channels inside the feed-forward networks, as a multiple of C.
        """

        blocks: int = pydantic.Field(2, gt=0)
        heads: int = pydantic.Field(8, gt=0)
        window: int = pydantic.Field(8, gt=1)
        hidden: int = pydantic.Field(1, gt=0)

    def __init__(self, config: HmVit.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.roots = {name: row for row, name in enumerate(types)}
        passes = 2 * config.blocks
        self.types = nn.ModuleDict(
            {name: nn.ModuleList(_TypedPass(channels, config.hidden) for _ in range(passes)) for name in types}
        )
        self.relations = nn.ModuleList(
            RelationAttention(channels, config.heads, len(types), config.window) for _ in range(passes)
        )

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X)."""
        if received.features.shape[1] == 0:
            return ego
        features, seen = everyone(ego, received)
        egos = received.ego_types
        names = [[egos[b], *(name or egos[b] for name in row)] for b, row in enumerate(received.sender_types)]
        rows = torch.tensor([[self.roots[name] for name in row] for row in names], device=ego.device)
        x = features.permute(0, 1, 3, 4, 2)
        for number, relation in enumerate(self.relations):
            parts = [[self.types[name][number] for name in row] for row in names]  # type: ignore[index]
            # of the last pass nothing but the ego is looked at
            queries = 1 if number == len(self.relations) - 1 else x.shape[1]
            x = self._updated(x, seen, relation, parts, rows, queries, dilated=number % 2 == 1)
        return where_seen(x[:, 0].permute(0, 3, 1, 2), ego, received.visible)

    def add_type(self, name: str, like: str) -> None:
        """Everything typed of its own, copied; relation matrices of the type it is like."""
        self.types[name] = copy.deepcopy(self.types[like])
        self.roots[name] = self.roots[like]

    def typed_module(self, name: str) -> nn.Module:
        """Projections, normalisations and feed-forward networks of one type."""
        return self.types[name]

    def _updated(
        self,
        x: Tensor,
        seen: Tensor,
        relation: nn.Module,
        parts: Sequence[Sequence[_TypedPass]],
        types: Tensor,
        queries: int,
        dilated: bool,
    ) -> Tensor:
        """(B, L, Y, X, C) to the first Q agents' (B, Q, Y, X, C) after one pass of attention and feed-forward."""
        size, shape = self.config.window, x.shape[2:4]
        tokens = to_windows(x, size, dilated)
        mask = to_windows(seen[..., None], size, dilated)[..., 0]
        normed = _normed(tokens, [[p.norm for p in row] for row in parts])
        projections = [[p.projections for p in row] for row in parts]
        tokens = tokens[:, :queries] + relation(normed, mask, projections, types, queries)
        own = [row[:queries] for row in parts]
        normed = _normed(tokens, [[p.feed_norm for p in row] for row in own])
        hidden = functional.gelu(by_agent(normed, [[p.widen for p in row] for row in own]))
        tokens = tokens + by_agent(hidden, [[p.narrow for p in row] for row in own])
        return from_windows(tokens, size, shape, dilated)


class _TypedPass(nn.Module):
    """The modules of one type in one pass."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.projections = TypedProjections(channels)
        self.feed_norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, hidden * channels)
        self.narrow = nn.Linear(hidden * channels, channels)


def _normed(x: Tensor, norms: Sequence[Sequence[nn.LayerNorm]]) -> Tensor:
    """(B, L, W, n, C) with each agent's own layer normalisation."""
    weight = torch.stack([torch.stack([norm.weight for norm in row]) for row in norms])
    bias = torch.stack([torch.stack([norm.bias for norm in row]) for row in norms])
    return functional.layer_norm(x, x.shape[-1:]) * weight[:, :, None, None] + bias[:, :, None, None]
