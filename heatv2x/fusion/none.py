"""No fusion: the ego alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from heatv2x import config
from heatv2x.fusion.base import Fusion, Received


class NoFusion(Fusion):
    """Ignores every message."""

    class Config(config.Config):
        """Nothing to set."""

    def __init__(self, config: NoFusion.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X), the ego's own."""
        return ego
