"""Maximum fusion: the strongest response per channel wins (F-Cooper, Chen et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from heatv2x import config
from heatv2x.fusion.base import Fusion, Received, maximum_with


class Maximum(Fusion):
    """Channel-wise maximum over the ego and all senders that see the cell; no parameters."""

    class Config(config.Config):
        """Nothing to set."""

    def __init__(self, config: Maximum.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X)."""
        return maximum_with(ego, received.features, received.visible)
