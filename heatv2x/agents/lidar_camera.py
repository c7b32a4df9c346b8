"""One agent with a LiDAR and cameras: two kinds of agents side by side, their features mixed on the shared grid.

In the manner of BEVFusion (Liu et al. 2023), which concatenates both bird's-eye views and convolves them. Any two kinds
may be combined; each keeps its own input, and its own auxiliary loss such as depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pydantic
import torch
from torch import Tensor, nn

from heatv2x.agents.base import Agent
from heatv2x.core import config, plugins
from heatv2x.core.config import build
from heatv2x.errors import ConfigError
from heatv2x.geometry.grid import BevGrid
from heatv2x.nn.residual import ResidualBlock, conv_block
from heatv2x.structures import AgentFrame

Inputs = tuple[Any, Any]


class LidarCamera(Agent):
    """The features of a LiDAR kind and a camera kind, concatenated and mixed."""

    source = "in the manner of BEVFusion, arXiv 2205.13542"

    class Config(config.Config):
        """Attributes:
        lidar, camera: the kinds, by part name.
        lidar_settings, camera_settings: what differs from their defaults.
        """

        lidar: str = "lidar_pillar"
        camera: str = "camera_lift"
        lidar_settings: dict[str, Any] = pydantic.Field(default_factory=dict)
        camera_settings: dict[str, Any] = pydantic.Field(default_factory=dict)

    def __init__(self, config: LidarCamera.Config, grid: BevGrid, channels: int) -> None:
        super().__init__(grid, channels)
        self.config = config
        self.lidar = _kind(config.lidar, config.lidar_settings, grid, channels)
        self.camera = _kind(config.camera, config.camera_settings, grid, channels)
        if "camera" in self.lidar.sensors or self.camera.sensors != ("camera",):
            raise ConfigError(f"lidar={config.lidar} and camera={config.camera}: expected one kind of each sensor")
        self.sensors = (*self.lidar.sensors, *self.camera.sensors)
        self.mix = nn.Sequential(conv_block(2 * channels, channels), ResidualBlock(channels, channels))

    def reduce(self, frame: AgentFrame) -> AgentFrame:
        """What both kinds need."""
        return replace(frame, lidars=self.lidar.reduce(frame).lidars, cameras=self.camera.reduce(frame).cameras)

    def prepare(self, frame: AgentFrame) -> Inputs:
        """Both kinds' inputs."""
        return self.lidar.prepare(frame), self.camera.prepare(frame)

    def collate(self, items: Sequence[Inputs]) -> Inputs:
        """Both kinds' batches of N agents."""
        lidars, cameras = zip(*items, strict=True)
        return self.lidar.collate(lidars), self.camera.collate(cameras)

    def forward(self, batch: Inputs) -> Tensor:
        """(N, C, Y, X) feature on the shared grid."""
        return self._mixed(self.lidar(batch[0]), self.camera(batch[1]))

    def supervised(self, batch: Inputs) -> tuple[Tensor, Tensor]:
        """The feature, and the auxiliary losses of both kinds."""
        (points, one), (pixels, other) = self.lidar.supervised(batch[0]), self.camera.supervised(batch[1])
        return self._mixed(points, pixels), one + other

    def _mixed(self, points: Tensor, pixels: Tensor) -> Tensor:
        mixed: Tensor = self.mix(torch.cat([points, pixels], dim=1))
        return mixed


def _kind(part: str, settings: dict[str, Any], grid: BevGrid, channels: int) -> Agent:
    kind = plugins.find("agents", part)
    agent: Agent = kind(build(kind.Config, settings, source=f"agents part '{part}'"), grid, channels)
    return agent
