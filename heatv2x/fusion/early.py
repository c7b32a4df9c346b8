"""Early fusion: agents send their LiDAR sweeps; the ego adds the points to its own and looks once.

Cooper (Chen et al. 2019, arXiv 1905.05265). The messages carry points, which `model.Collaboration.detect` pools before
the ego's own encoder; no common base is needed, but every agent must have a LiDAR. Points are many: a message takes
hundreds of kilobytes.

Shapes: P points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from heatv2x.core import config
from heatv2x.fusion.base import Fusion, Received
from heatv2x.structures import Float64, PointCloud


class Early(Fusion):
    """All points in the ego's frame, one network."""

    source = "Cooper, Chen et al. 2019, arXiv 1905.05265"
    level = "points"

    class Config(config.Config):
        """Nothing to set."""

    def __init__(self, config: Early.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X), the ego's own: it has looked at everybody's points already."""
        return ego

    def contributions(self, ego: Tensor, received: Received) -> Tensor:
        """(B, K, Y, X) zeros: no feature is taken from anybody."""
        return torch.zeros_like(received.visible, dtype=ego.dtype)


def pooled(ego: PointCloud, received: Sequence[tuple[Float64, PointCloud]]) -> PointCloud:
    """The ego's points, then those of the senders.

    Encoders may keep the first points of a full cell only, so who calls gives the senders in an order that does not
    depend on how they arrived.

    Args:
        ego: in the ego's frame.
        received: (4, 4) T_ego_sender and points in the sender's frame.
    """
    if not received:
        return ego
    moved = []
    for T_ego_sender, cloud in received:
        place = cloud.points[:, :3] @ T_ego_sender[:3, :3].T + T_ego_sender[:3, 3]
        moved.append(np.column_stack([place, cloud.points[:, 3]]).astype(np.float32))
    return PointCloud(np.concatenate([ego.points, *moved]))
