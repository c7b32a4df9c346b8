"""LiDAR agent with pillars: points to columns, columns to a strided residual trunk.

After PointPillars (Lang et al. 2019). `PUBLISHED` makes it HEAL's L_P^64, parameter for parameter, where the shared
grid has cells of 0.8 m and 64 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from heatv2x.agents.base import Agent, image_grid, sweep
from heatv2x.core import config
from heatv2x.geometry.grid import BevGrid
from heatv2x.nn.pillars import PillarEncoder, Pillars, collate_pillars, pillars_of, without_own_body
from heatv2x.nn.residual import ResidualBlock, conv_block
from heatv2x.structures import AgentFrame

PUBLISHED = {
    "cell_m": 0.4,
    "pillar_channels": 64,
    "max_points": 32,
    "max_pillars": 70000,
    "z_range": (-3.0, 1.0),
    "blocks": 2,
    "residual_stem": True,
    "absolute_xy": True,
    "empty_slots": True,
    "cut_own_body": True,
}


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
            max_pillars: pillars kept, the first in the order of the points; None keeps all.
            z_range: metres above the sensor, lowest and highest.
            blocks: residual blocks after the strided one.
            residual_stem: start the trunk with one strided residual block instead of a convolution and a block.
            absolute_xy: use the published 10 point features instead of 8.
            empty_slots: the empty slots of a pillar count, see `PillarEncoder`.
            cut_own_body: drop returns from the vehicle's own roof, see `without_own_body`.
        """

        sensor: Literal["lidar64", "lidar32", "lidar16", "lidar"] = "lidar64"
        cell_m: float = 0.8
        pillar_channels: int = 24
        max_points: int = 16
        max_pillars: int | None = None
        z_range: tuple[float, float] = (-3.0, 3.0)
        blocks: int = 0
        residual_stem: bool = False
        absolute_xy: bool = False
        empty_slots: bool = False
        cut_own_body: bool = False

    def __init__(self, config: LidarPillar.Config, grid: BevGrid, channels: int) -> None:
        super().__init__(grid, channels)
        self.config = config
        self.sensors = (config.sensor,)
        self.pillar_grid = image_grid(grid, config.cell_m)
        self.pillars = PillarEncoder(
            10 if config.absolute_xy else 8,
            config.pillar_channels,
            self.pillar_grid,
            slots=config.max_points if config.empty_slots else 0,
            momentum=0.01 if config.empty_slots else 0.1,
        )
        self.trunk = _trunk(config, channels, stride=round(grid.cell / config.cell_m))

    def prepare(self, frame: AgentFrame) -> Pillars:
        """Pillars of the declared LiDAR's sweep."""
        config = self.config
        points = sweep(frame, config.sensor).points
        points = without_own_body(points) if config.cut_own_body else points
        return pillars_of(
            points, self.pillar_grid, config.max_points, config.z_range, config.absolute_xy, config.max_pillars
        )

    def collate(self, items: Sequence[Pillars]) -> Pillars:
        """Pillars of N agents."""
        return collate_pillars(items, self.pillar_grid)

    def forward(self, batch: Pillars) -> Tensor:
        """(N, C, Y, X) feature on the shared grid."""
        feature: Tensor = self.trunk(self.pillars(batch))
        return feature


def _trunk(config: LidarPillar.Config, channels: int, stride: int) -> nn.Sequential:
    width = config.pillar_channels
    stem = (
        [ResidualBlock(width, channels, stride)]
        if config.residual_stem
        else [conv_block(width, channels, stride=stride), ResidualBlock(channels, channels)]
    )
    return nn.Sequential(*stem, *(ResidualBlock(channels, channels) for _ in range(config.blocks)))
