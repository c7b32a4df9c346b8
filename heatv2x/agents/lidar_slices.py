"""LiDAR agent with height slices: which heights of a column are occupied, as image channels, and group normalisation.

Another architecture than the pillar agent on purpose: no point network, no batch statistics, so its features are
foreign to a base of pillar agents. In the manner of PIXOR (Yang et al. 2018); the numbers are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from heatv2x.agents.base import Agent, image_grid, sweep
from heatv2x.core import config
from heatv2x.geometry.grid import BevGrid
from heatv2x.nn.pillars import flat_cells
from heatv2x.nn.residual import ResidualBlock, conv_block
from heatv2x.structures import AgentFrame


class LidarSlices(Agent):
    """One LiDAR, occupied height slices, group normalisation."""

    source = "in the manner of PIXOR, arXiv 1902.06326; numbers ours"

    class Config(config.Config):
        """Numbers of a slice agent; the defaults are the demo's.

        Attributes:
            sensor: which LiDAR; "lidar" is the agent's own, whatever it is.
            cell_m: size of an image cell; the shared cell must be a multiple of it.
            slices: number of height slices.
            z_range: metres above the sensor, lowest and highest.
            blocks: residual blocks after the first one.
        """

        sensor: Literal["lidar64", "lidar32", "lidar16", "lidar"] = "lidar16"
        cell_m: float = 0.8
        slices: int = 10
        z_range: tuple[float, float] = (-2.4, 1.6)
        blocks: int = 0

    def __init__(self, config: LidarSlices.Config, grid: BevGrid, channels: int) -> None:
        super().__init__(grid, channels)
        self.config = config
        self.sensors = (config.sensor,)
        self.image_grid = image_grid(grid, config.cell_m)
        stride = round(grid.cell / config.cell_m)
        self.trunk = nn.Sequential(
            conv_block(config.slices + 2, channels, stride=stride, norm="group"),
            ResidualBlock(channels, channels, norm="group"),
            *(ResidualBlock(channels, channels, norm="group") for _ in range(config.blocks)),
        )

    def prepare(self, frame: AgentFrame) -> Tensor:
        """(S + 2, Y', X') float32 image: S occupied slices, mean intensity, log of the number of points."""
        config, (rows, columns) = self.config, self.image_grid.shape
        points = sweep(frame, config.sensor).points
        low, high = config.z_range
        points = points[(points[:, 2] >= low) & (points[:, 2] < high)]
        inside, cell = flat_cells(points, self.image_grid)
        points = points[inside]
        slice_index = ((points[:, 2] - low) / (high - low) * config.slices).astype(np.int64)
        slice_index = slice_index.clip(0, config.slices - 1)  # rounding may push a point at the upper end out
        image = np.zeros((config.slices + 2, rows * columns), np.float32)
        image[slice_index, cell] = 1.0
        count = np.bincount(cell, minlength=rows * columns)
        image[-2] = np.bincount(cell, weights=points[:, 3], minlength=rows * columns) / np.maximum(count, 1)
        image[-1] = np.log1p(count) / 3
        return torch.from_numpy(image.reshape(-1, rows, columns))

    def collate(self, items: Sequence[Tensor]) -> Tensor:
        """(N, S + 2, Y', X')."""
        return torch.stack(list(items))

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, Y, X) feature on the shared grid."""
        feature: Tensor = self.trunk(batch)
        return feature
