"""ConvNeXt blocks (Liu et al. 2022, fig. 4), which HEAL uses to bring a newcomer's features into line.

Shapes: N maps, C channels, Y X grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, layer normalisation over the channels, two linear layers with GELU between, layer scale, skip.

    (N, C, Y, X) to the same shape; close to the identity at the start.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.widen = nn.Linear(channels, 4 * channels)
        self.narrow = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) to (N, C, Y, X)."""
        mixed = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        change: Tensor = self.scale * self.narrow(functional.gelu(self.widen(mixed)))
        return x + change.permute(0, 3, 1, 2)


def convnext_aligner(channels: int, blocks: int) -> nn.Sequential:
    """A row of blocks, (N, C, Y, X) to the same shape; HEAL takes three, no block is the identity."""
    return nn.Sequential(*(ConvNextBlock(channels) for _ in range(blocks)))
