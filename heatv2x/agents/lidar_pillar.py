"""LiDAR agent with pillars: points to columns, columns to a strided residual trunk.

After PointPillars (Lang et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from heatv2x import config
from heatv2x.agents.base import Agent, image_grid, sweep
from heatv2x.grid import BevGrid
from heatv2x.nn.pillars import PillarEncoder, Pillars, collate_pillars, pillars_of
from heatv2x.nn.residual import ResidualBlock, conv_block
from heatv2x.structures import AgentFrame


class LidarPillar(Agent):
    """One LiDAR, pillars, batch normalisation."""

    source = "PointPillars, Lang et al. 2019, arXiv 1812.05784"

    class Config(config.Config):
        """Numbers of a pillar agent; the defaults are the demo's.

        Attributes:
            sensor: which LiDAR; "lidar" is the agent's own, whatever it is.
            cell_m: pillar size; the shared cell must be a multiple of it.
            pillar_channels: channels of the pillar image.
            max_points: points kept per pillar.
            z_range: metres above the sensor, lowest and highest.
            blocks: residual blocks after the strided one.
            absolute_xy: use the published 10 point features instead of 8.
        """

        sensor: Literal["lidar64", "lidar32", "lidar16", "lidar"] = "lidar64"
        cell_m: float = 0.8
        pillar_channels: int = 24
        max_points: int = 16
        z_range: tuple[float, float] = (-3.0, 3.0)
        blocks: int = 0
        absolute_xy: bool = False

    def __init__(self, config: LidarPillar.Config, grid: BevGrid, channels: int) -> None:
        super().__init__(grid, channels)
        self.config = config
        self.sensors = (config.sensor,)
        self.pillar_grid = image_grid(grid, config.cell_m)
        self.pillars = PillarEncoder(10 if config.absolute_xy else 8, config.pillar_channels, self.pillar_grid)
        stride = round(grid.cell / config.cell_m)
        self.trunk = nn.Sequential(
            conv_block(config.pillar_channels, channels, stride=stride),
            ResidualBlock(channels, channels),
            *(ResidualBlock(channels, channels) for _ in range(config.blocks)),
        )

    def prepare(self, frame: AgentFrame) -> Pillars:
        """Pillars of the declared LiDAR's sweep."""
        config = self.config
        points = sweep(frame, config.sensor).points
        return pillars_of(points, self.pillar_grid, config.max_points, config.z_range, config.absolute_xy)

    def collate(self, items: Sequence[Pillars]) -> Pillars:
        """Pillars of N agents."""
        return collate_pillars(items, self.pillar_grid)

    def forward(self, batch: Pillars) -> Tensor:
        """(N, C, Y, X) feature on the shared grid."""
        feature: Tensor = self.trunk(self.pillars(batch))
        return feature
