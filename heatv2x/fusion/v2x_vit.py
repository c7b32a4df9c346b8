"""V2X-ViT: a transformer over agents of different types (Xu et al., ECCV 2022).

After the paper (arXiv 2203.10638): a delay-aware positional encoding, then `depth` blocks of heterogeneous multi-agent
attention per cell, multi-scale window attention on each agent's own map, and a feed-forward network. All agents are
updated, the ego's map is the result. Types and delays are the real ones; `prior=zero` gives everybody the first type
and no delay, which is what HEAL compares with under this name.

Where it differs, because of the contract of a fusion: cells that no sender sees keep the ego's value (the paper's
network transforms a lonely ego, too: `everywhere=true`), cells that an agent does not see are no keys, and there is no
dropout. A newcomer gets its own projections and uses the relation matrices of the type it is like: the paper keeps one
matrix per ordered pair of types, so that the T-th type would bring 2T - 1 new ones and share them with deployed types.

Shapes: B egos, K slots, L = 1 + K agents, C channels, Y X grid.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
from torch import Tensor, nn

from heatv2x.core import config
from heatv2x.fusion.base import Fusion, Received, everyone, where_seen
from heatv2x.nn.hetero_attention import PyramidWindowAttention, RelationAttention, TypedProjections

_STEP_S = 0.1  # one step of the delay's encoding is one frame at 10 Hz


class V2XViT(Fusion):
    """Typed attention between agents, windows of several sizes, delay-aware encoding."""

    source = "V2X-ViT, Xu et al. 2022, arXiv 2203.10638"
    local = False

    class Config(config.Config):
        """Attributes:
        depth: number of blocks.
        heads: heads of the attention between agents.
        windows: cells along the sides of the windows.
        window_heads: heads for each size of window.
        hidden: channels inside the feed-forward networks, as a multiple of C.
        prior: "true" uses every agent's type and the age of its message; "zero" is HEAL's baseline, one type, no age.
        everywhere: as in the paper, also transform cells and egos that receive nothing (breaks the contract that no
            message means no change).
        """

        depth: int = pydantic.Field(3, gt=0)
        heads: int = pydantic.Field(8, gt=0)
        windows: tuple[int, ...] = (4, 8, 16)
        window_heads: tuple[int, ...] = (16, 8, 4)
        hidden: int = pydantic.Field(1, gt=0)
        prior: Literal["true", "zero"] = "true"
        everywhere: bool = False

    def __init__(self, config: V2XViT.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.roots = {name: row for row, name in enumerate(types)}
        self.types = nn.ModuleDict(
            {name: nn.ModuleList(TypedProjections(channels) for _ in range(config.depth)) for name in types}
        )
        self.delay = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(_Block(config, channels, len(types)) for _ in range(config.depth))

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X)."""
        if received.features.shape[1] == 0 and not self.config.everywhere:
            return ego
        features, seen = everyone(ego, received)
        names = self._names(received)
        rows = torch.tensor([[self.roots[name] for name in row] for row in names], device=ego.device)
        x = features.permute(0, 1, 3, 4, 2) + self._delays(received, ego)[:, :, None, None]
        for number, block in enumerate(self.blocks):
            parts = [[self.types[name][number] for name in row] for row in names]  # type: ignore[index]
            # of the last block nothing but the ego is looked at
            queries = 1 if number == len(self.blocks) - 1 else x.shape[1]
            x = block(x, seen, parts, rows, queries)
        fused = x[:, 0].permute(0, 3, 1, 2)
        return fused if self.config.everywhere else where_seen(fused, ego, received.visible)

    def add_type(self, name: str, like: str) -> None:
        """Projections of its own, copied; relation matrices of the type it is like."""
        if self.config.prior == "zero":
            return
        self.types[name] = copy.deepcopy(self.types[like])
        self.roots[name] = self.roots[like]

    def typed_module(self, name: str) -> nn.Module | None:
        """Projections of one type in all blocks; None where types are not looked at."""
        return None if self.config.prior == "zero" else self.types[name]

    def _names(self, received: Received) -> list[list[str]]:
        """B lists of L types; an empty slot, which nobody looks at, takes the ego's."""
        if self.config.prior == "zero":
            first = next(iter(self.roots))
            return [[first] * (1 + len(row)) for row in received.sender_types]
        egos = received.ego_types
        return [[egos[b], *(name or egos[b] for name in row)] for b, row in enumerate(received.sender_types)]

    def _delays(self, received: Received, like: Tensor) -> Tensor:
        """(B, L, C) projected sinusoids of every agent's delay, V2X-ViT's delay-aware positional encoding."""
        ages = received.edges.age_s.to(like)
        steps = torch.cat([torch.zeros_like(like[:, :1, 0, 0]), ages], dim=1) / _STEP_S
        encoding: Tensor = self.delay(
            sinusoids(torch.zeros_like(steps) if self.config.prior == "zero" else steps, like.shape[1])
        )
        return encoding


class _Block(nn.Module):
    """Attention between agents, windows on every map, feed-forward network; each a residual on a normalised input."""

    def __init__(self, config: V2XViT.Config, channels: int, types: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.agents = RelationAttention(channels, config.heads, types)
        self.windows = PyramidWindowAttention(channels, config.window_heads, config.windows)
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, config.hidden * channels), nn.GELU(), nn.Linear(config.hidden * channels, channels)
        )

    def forward(
        self, x: Tensor, seen: Tensor, parts: Sequence[Sequence[TypedProjections]], types: Tensor, queries: int
    ) -> Tensor:
        """(B, L, Y, X, C) to the first Q agents' (B, Q, Y, X, C)."""
        cells = self.norms[0](x).flatten(2, 3)[:, :, :, None]  # every cell is its own window
        gathered = self.agents(cells, seen.flatten(2)[..., None], parts, types, queries)
        x, seen = x[:, :queries] + gathered.view(x[:, :queries].shape), seen[:, :queries]
        x = x + self.windows(self.norms[1](x), seen)
        updated: Tensor = x + self.feed_forward(self.norms[2](x))
        return updated


def sinusoids(steps: Tensor, channels: int) -> Tensor:
    """(..., C) sines (even channels) and cosines (odd ones) of numbers, wavelengths 2 pi to 20000 pi.

    Vaswani et al. 2017, section 3.5.
    """
    rates = 10000.0 ** (-torch.arange(0, channels, 2, device=steps.device, dtype=steps.dtype) / channels)
    angles = steps[..., None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :channels]
