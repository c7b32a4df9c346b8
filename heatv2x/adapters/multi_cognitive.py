"""Multi-Cognitive Adapter: several receptive fields on a newcomer's warped contribution, before it is fused (GCFT).

The form follows Mona (Yin et al., CVPR 2025, arXiv 2408.08345): scaled layer norm, down-projection, depthwise 3x3, 5x5
and 7x7 averaged with a skip, 1x1 with a skip, GELU, up-projection. Ours starts at zero and acts per newcomer type, so
that scenes without the newcomer stay bit-identical; the placement is our design.

Shapes: N batch, C channels, r hidden, Y X grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.adapters.base import Adapter
from heatv2x.core import config


class MultiCognitive(Adapter):
    """A residual with depthwise 3x3, 5x5 and 7x7 views of a low-rank projection."""

    source = "Mona, Yin et al. 2025, arXiv 2408.08345; placement ours"

    class Config(config.Config):
        """Attributes:
        rank: hidden channels, r.
        """

        rank: int = 16

    def __init__(self, config: MultiCognitive.Config, channels: int) -> None:
        super().__init__()
        rank = config.rank
        self.norm = nn.LayerNorm(channels)
        self.norm_scale = nn.Parameter(torch.full((channels,), 1e-6))
        self.skip_scale = nn.Parameter(torch.ones(channels))
        self.down = nn.Conv2d(channels, rank, 1)
        self.views = nn.ModuleList(nn.Conv2d(rank, rank, size, padding=size // 2, groups=rank) for size in (3, 5, 7))
        self.mix = nn.Conv2d(rank, rank, 1)
        self.up = nn.Conv2d(rank, channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)  # type: ignore[arg-type]

    def adapt(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) to (N, C, Y, X)."""
        normed = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        scaled = self.norm_scale[:, None, None] * normed + self.skip_scale[:, None, None] * x
        hidden = self.down(scaled)
        hidden = hidden + torch.stack([view(hidden) for view in self.views]).mean(dim=0)
        hidden = hidden + self.mix(hidden)
        adapted: Tensor = x + self.up(functional.gelu(hidden))
        return adapted
