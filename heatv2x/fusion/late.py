"""Late fusion: agents send their boxes; the ego pools them and suppresses duplicates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from heatv2x.core import config
from heatv2x.fusion.base import Fusion, Received


class Late(Fusion):
    """Every agent detects alone. The messages carry boxes, which `model.Collaboration.detect` merges after the head."""

    source = "common practice"
    level = "boxes"

    class Config(config.Config):
        """Nothing to set."""

    def __init__(self, config: Late.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X), the ego's own: features are not exchanged."""
        return ego

    def contributions(self, ego: Tensor, received: Received) -> Tensor:
        """(B, K, Y, X) zeros: no feature is taken from anybody."""
        return torch.zeros_like(received.visible, dtype=ego.dtype)
