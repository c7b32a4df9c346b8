"""DiscoNet's collaboration graph: one learned weight per cell and sender (Li et al. 2021).

The edge from agent j to ego i holds a matrix of weights, one per cell, from both features in that cell through 1x1
convolutions that narrow down to one channel; a softmax over agents, the ego itself among them, normalises them, and the
result is sum_j w_ij x_j. After the paper (arXiv 2111.00643, matrix-valued edge weights). Its distillation from a
teacher with early fusion is a way of training and not part of this file. Two differences: no batch normalisation
between the convolutions, since its statistics would let the scenes of a batch see one another; and cells that a sender
does not see do not count.

Shapes: B egos, K slots, C channels, Y X grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from heatv2x.core import config
from heatv2x.fusion.base import Fusion, Received, everyone, where_seen


class Disco(Fusion):
    """Matrix-valued edge weights from both ends' features, normalised over agents."""

    source = "DiscoNet, Li et al. 2021, arXiv 2111.00643"

    class Config(config.Config):
        """Attributes:
        widths: channels between the 1x1 convolutions that lead from both features to a weight.
        """

        widths: tuple[int, ...] = (128, 32, 8)

    def __init__(self, config: Disco.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for narrower in pairwise((2 * channels, *config.widths)):
            layers += [nn.Conv2d(*narrower, 1), nn.ReLU()]
        # a common offset of all weights would vanish in the softmax
        self.edge = nn.Sequential(*layers, nn.Conv2d((2 * channels, *config.widths)[-1], 1, 1, bias=False))

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X)."""
        features, seen = everyone(ego, received)
        fused = (self._weights(ego, features, seen)[:, :, None] * features).sum(dim=1)
        return where_seen(fused, ego, received.visible)

    def contributions(self, ego: Tensor, received: Received) -> Tensor:
        """(B, K, Y, X) weights of the senders."""
        return self._weights(ego, *everyone(ego, received))[:, 1:]

    def _weights(self, ego: Tensor, features: Tensor, seen: Tensor) -> Tensor:
        """(B, 1 + K, Y, X), over agents they sum to one."""
        pairs = torch.cat([ego[:, None].expand_as(features), features], dim=2)
        score: Tensor = self.edge(pairs.flatten(0, 1)).view(seen.shape)
        return torch.softmax(score.masked_fill(~seen, -torch.inf), dim=1)
