"""Attention fusion: each cell of the ego attends to the same cell of all agents (AttFusion of OPV2V, Xu et al. 2022).

w_j = softmax_j(x_i . x_j / sqrt(C)), the ego itself among the j; the result is sum_j w_j x_j. No parameters. After the
paper (arXiv 2109.07644, section on attentive intermediate fusion: scaled dot-product self-attention per cell, of which
the ego's row is kept). The paper says nothing of cells that a sender's map does not cover: their zeros would dilute
what the ego has, so here they do not count.

Shapes: B egos, K slots, C channels, Y X grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from heatv2x.core import config
from heatv2x.fusion.base import Fusion, Received, everyone, where_seen


class Attention(Fusion):
    """Per-cell scaled dot-product self-attention over agents; no parameters."""

    source = "OPV2V, Xu et al. 2022, arXiv 2109.07644"

    class Config(config.Config):
        """Nothing to set."""

    def __init__(self, config: Attention.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X)."""
        features, seen = everyone(ego, received)
        fused = (similarity_weights(ego, features, seen)[:, :, None] * features).sum(dim=1)
        return where_seen(fused, ego, received.visible)

    def contributions(self, ego: Tensor, received: Received) -> Tensor:
        """(B, K, Y, X) weights of the senders."""
        return similarity_weights(ego, *everyone(ego, received))[:, 1:]


def similarity_weights(ego: Tensor, features: Tensor, seen: Tensor) -> Tensor:
    """(B, 1 + K, Y, X) softmax over agents of their similarity to the ego in each cell."""
    score: Tensor = (ego[:, None] * features).sum(dim=2) / ego.shape[1] ** 0.5
    return torch.softmax(score.masked_fill(~seen, -torch.inf), dim=1)
