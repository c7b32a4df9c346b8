"""No fusion: the ego alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from heatv2x.core import config
from heatv2x.fusion.base import Fusion, Received


class NoFusion(Fusion):
    """Ignores every message."""

    source = "baseline"

    class Config(config.Config):
        """Nothing to set."""

    def __init__(self, config: NoFusion.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X), the ego's own."""
        return ego

    def contributions(self, ego: Tensor, received: Received) -> Tensor:
        """(B, K, Y, X) zeros: no sender contributes."""
        return torch.zeros_like(received.visible, dtype=ego.dtype)
