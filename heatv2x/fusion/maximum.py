"""Maximum fusion: the strongest response per channel wins (F-Cooper, Chen et al. 2019).

What the field's tables call F-Cooper is this: element-wise maxout over the agents' features (arXiv 1909.06459, spatial
feature fusion). The paper says nothing of cells that a sender's map does not cover; here they do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from heatv2x.core import config
from heatv2x.fusion.base import Fusion, Received, maximum_with


class Maximum(Fusion):
    """Channel-wise maximum over the ego and all senders that see the cell; no parameters."""

    source = "F-Cooper, Chen et al. 2019, arXiv 1909.06459"

    class Config(config.Config):
        """Nothing to set."""

    def __init__(self, config: Maximum.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X)."""
        return maximum_with(ego, received.features, received.visible)
