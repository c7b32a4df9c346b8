"""Camera agent: images to features with a depth distribution, lifted and splatted to bird's-eye view, depth supervised.

After Lift-Splat-Shoot (Philion and Fidler 2020) with supervised depth (Reading et al. 2021); trunk and sizes are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.agents.base import Agent, image_grid
from heatv2x.core import config
from heatv2x.core.distributed import all_reduce_detached
from heatv2x.geometry.grid import BevGrid
from heatv2x.nn.images import CameraInput, camera_input, cameras_of, collate_cameras, pixels_of, with_scaled_cameras
from heatv2x.nn.lift import depth_bin, depth_edges, image_rays, splat, splat_cells
from heatv2x.nn.residual import ResidualBlock, conv_block
from heatv2x.structures import AgentFrame, Camera


class CameraLift(Agent):
    """Surround cameras, residual trunk, lift and splat."""

    source = "Lift-Splat-Shoot, arXiv 2008.05711; depth: CaDDN, arXiv 2103.01100"

    sensors = ("camera",)
    exact = ("trunk", "context", "merge", "depth")

    class Config(config.Config):
        """Numbers of a camera agent; the defaults are the demo's.

        Attributes:
            image_size: (height, width) pixels the images are scaled to; multiples of `stride`.
            cell_m: size of a splat cell; the shared cell must be a multiple of it.
            trunk: channels of the trunk at strides 2 and 4 (and 8).
            lifted: channels of a lifted feature.
            depth_range: nearest and farthest depth, metres.
            depth_bins: number of bins, growing linearly with depth.
            z_range: heights above the agent's origin that are kept, metres.
            depth_weight: weight of the depth loss.
        """

        image_size: tuple[int, int] = (120, 160)
        cell_m: float = 0.8
        trunk: tuple[int, ...] = (24, 48)
        lifted: int = 32
        depth_range: tuple[float, float] = (2.0, 50.0)
        depth_bins: int = 40
        z_range: tuple[float, float] = (-3.0, 3.0)
        depth_weight: float = 0.5

    def __init__(self, config: CameraLift.Config, grid: BevGrid, channels: int) -> None:
        super().__init__(grid, channels)
        self.config = config
        self.stride = 2 ** len(config.trunk)
        self.splat_grid = image_grid(grid, config.cell_m)
        widths = (3, *config.trunk)
        self.trunk = nn.Sequential(*(_trunk_stage(a, b) for a, b in itertools.pairwise(widths)))
        self.context = nn.Sequential(
            conv_block(widths[-1], 2 * widths[-1], stride=2), ResidualBlock(2 * widths[-1], 2 * widths[-1])
        )
        self.merge = conv_block(3 * widths[-1], widths[-1])
        self.depth = nn.Conv2d(widths[-1], config.depth_bins, 1)
        self.lifted = nn.Conv2d(widths[-1], config.lifted, 1)
        self.bev = nn.Sequential(
            conv_block(config.lifted, channels, stride=round(grid.cell / config.cell_m)),
            ResidualBlock(channels, channels),
        )

    def reduce(self, frame: AgentFrame) -> AgentFrame:
        """The frame with its cameras scaled to this agent's image size and nothing else."""
        return with_scaled_cameras(frame, self.config.image_size)

    def prepare(self, frame: AgentFrame) -> CameraInput:
        """Scaled images, the cells their pixels may lie in, and depth at the centres of feature cells."""
        cameras = cameras_of(frame, self.config.image_size)
        images = pixels_of(cameras) / 127.5 - 1.0
        return camera_input(cameras, images, [self._cells(camera) for camera in cameras], self.stride)

    def collate(self, items: Sequence[CameraInput]) -> CameraInput:
        """Images of N agents; depth only if all have it."""
        return collate_cameras(items)

    def forward(self, batch: CameraInput) -> Tensor:
        """(N, C, Y, X) feature on the shared grid."""
        return self._encode(batch)[0]

    def supervised(self, batch: CameraInput) -> tuple[Tensor, Tensor]:
        """The feature and the cross-entropy of depth where it is known and in range."""
        feature, logits = self._encode(batch)
        if batch.depth is None:
            all_reduce_detached(batch.owners.new_zeros(()))  # other processes may know depth, and ask
            return feature, logits.sum() * 0
        target, valid = depth_bin(batch.depth, *self.config.depth_range, self.config.depth_bins)
        target = torch.where(valid, target, -100)
        loss = functional.cross_entropy(logits, target, ignore_index=-100, reduction="sum")
        return feature, self.config.depth_weight * (loss / all_reduce_detached(valid.sum()).clamp(min=1))

    def _encode(self, batch: CameraInput) -> tuple[Tensor, Tensor]:
        fine = self.trunk(batch.images)
        coarse = functional.interpolate(self.context(fine), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        pixels = self.merge(torch.cat([fine, coarse], dim=1))
        logits: Tensor = self.depth(pixels)
        weights = logits.float().softmax(dim=1)
        bev = splat(self.lifted(pixels), weights, batch.cells, batch.owners, batch.agents, self.splat_grid)
        return self.bev(bev), logits

    def _cells(self, camera: Camera) -> Tensor:
        rays = image_rays(*self.config.image_size, self.stride, torch.from_numpy(camera.K).float())
        edges = depth_edges(*self.config.depth_range, self.config.depth_bins)
        centres = (edges + torch.cat([edges[1:], torch.tensor([self.config.depth_range[1]])])) / 2
        T_agent_camera = torch.from_numpy(camera.T_agent_camera).float()
        return splat_cells(rays, centres, T_agent_camera, self.splat_grid, self.config.z_range)


def _trunk_stage(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(conv_block(channels_in, channels_out, stride=2), ResidualBlock(channels_out, channels_out))
