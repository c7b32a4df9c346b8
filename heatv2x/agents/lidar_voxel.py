"""LiDAR agent with voxels: sparse 3D convolution, heights become channels, a residual trunk, a ConvNeXt aligner.

After SECOND (Yan et al. 2018). On a shared grid of 0.8 m cells and 64 channels the defaults are HEAL's L_S^32,
parameter for parameter: voxels of 0.1 m. Training works on the CPU, see `nn.sparse`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
from torch import Tensor, nn

from heatv2x.agents.base import Agent, sweep
from heatv2x.core import config
from heatv2x.geometry.grid import BevGrid
from heatv2x.nn.convnext import convnext_aligner
from heatv2x.nn.pillars import without_own_body
from heatv2x.nn.residual import ResidualBlock
from heatv2x.nn.sparse import SparseStages
from heatv2x.nn.spconv_backend import flat_image
from heatv2x.nn.voxels import Voxels, collate_voxels, voxels_of
from heatv2x.structures import AgentFrame


class LidarVoxel(Agent):
    """One LiDAR, voxels, sparse convolution."""

    source = "SECOND, Yan et al. 2018; sizes of HEAL, arXiv 2401.13964"

    class Config(config.Config):
        """Numbers of a voxel agent; the defaults are the published ones.

        Attributes:
            sensor: which LiDAR; "lidar" is the agent's own, whatever it is.
            widths: channels of the sparse stages. Each but the first halves the resolution, so a voxel is smaller than
                the shared cell by that factor.
            height_m: height of a voxel.
            z_range: metres above the sensor, lowest and highest.
            max_points: points averaged per voxel.
            max_voxels: voxels kept, the first in the order of the points.
            blocks: residual blocks of the trunk.
            aligner: ConvNeXt blocks after it.
            cut_own_body: drop returns from the vehicle's own roof, see `without_own_body`.
            backend: torch runs everywhere; spconv (the `cuda` extra) computes the same on a GPU, see `spconv_backend`.
        """

        sensor: Literal["lidar64", "lidar32", "lidar16", "lidar"] = "lidar32"
        widths: tuple[int, ...] = pydantic.Field((16, 32, 64, 64), min_length=2)
        height_m: float = pydantic.Field(0.1, gt=0)
        z_range: tuple[float, float] = (-3.0, 1.0)
        max_points: int = 5
        max_voxels: int = 70000
        blocks: int = pydantic.Field(3, ge=1)
        aligner: int = 3
        cut_own_body: bool = True
        backend: Literal["torch", "spconv"] = "torch"

    def __init__(self, config: LidarVoxel.Config, grid: BevGrid, channels: int) -> None:
        super().__init__(grid, channels)
        self.config = config
        self.sensors = (config.sensor,)
        self.voxel_grid = grid.finer(2 ** (len(config.widths) - 1))
        self.sparse = SparseStages(4, config.widths)
        layers = round((config.z_range[1] - config.z_range[0]) / config.height_m) + 1
        flat = config.widths[-1] * self.sparse.heights(layers)
        self.trunk = nn.Sequential(
            ResidualBlock(flat, channels), *(ResidualBlock(channels, channels) for _ in range(config.blocks - 1))
        )
        self.aligner = convnext_aligner(channels, config.aligner)

    def prepare(self, frame: AgentFrame) -> Voxels:
        """Voxels of the declared LiDAR's sweep."""
        config = self.config
        points = sweep(frame, config.sensor).points
        points = without_own_body(points) if config.cut_own_body else points
        return voxels_of(points, self.voxel_grid, config.z_range, config.height_m, config.max_points, config.max_voxels)

    def collate(self, items: Sequence[Voxels]) -> Voxels:
        """Voxels of N agents."""
        return collate_voxels(items)

    def forward(self, batch: Voxels) -> Tensor:
        """(N, C, Y, X) feature on the shared grid."""
        sites = batch.sparse()
        image = self.sparse(sites) if self.config.backend == "torch" else flat_image(self.sparse, sites)
        feature: Tensor = self.aligner(self.trunk(image))
        return feature
