"""Camera agent with the published networks: Lift-Splat-Shoot (Philion and Fidler 2020) as HEAL uses it.

Image trunk, depth distribution, lift and splat, then a strided residual trunk and a ConvNeXt aligner.
`EFFICIENTNET_384` and `RESNET_336` are HEAL's C_E^384 and C_R^336, parameter for parameter, on a shared grid of 0.8 m
cells and 64 channels. Depth is supervised by focal loss where it is known and in range (HEAL puts what is out of range
into the outermost bins).

One difference is left: HEAL scales intrinsics about the centre of the first pixel, we about the image's corner, where
images are scaled, too; at its scales that is 0.2 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from heatv2x.agents.base import Agent, image_grid
from heatv2x.core import config
from heatv2x.core.distributed import all_reduce_detached
from heatv2x.errors import ConfigError
from heatv2x.geometry.grid import BevGrid
from heatv2x.nn.convnext import convnext_aligner
from heatv2x.nn.image_trunks import CHANNELS, STRIDE, EfficientNetTrunk, HalfResNet
from heatv2x.nn.images import CameraInput, camera_input, cameras_of, collate_cameras, pixels_of, with_scaled_cameras
from heatv2x.nn.lift import depth_bin, depth_edges, published_rays, splat, splat_cells
from heatv2x.nn.losses import softmax_focal
from heatv2x.nn.residual import ResidualBlock
from heatv2x.structures import AgentFrame, Camera

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PUBLISHED = {"lifted": 128, "depth_bins": 48, "own_half_extent_m": (51.2, 51.2)}
EFFICIENTNET_384 = {**_PUBLISHED, "trunk": "efficientnet_b0", "image_size": (384, 512), "classifier": True}
RESNET_336 = {**_PUBLISHED, "trunk": "resnet", "image_size": (336, 448)}


class CameraLss(Agent):
    """Surround cameras, published image trunks, lift and splat."""

    source = "Lift-Splat-Shoot, arXiv 2008.05711; sizes of HEAL, arXiv 2401.13964"

    sensors = ("camera",)
    exact = ("trunk", "depth")

    class Config(config.Config):
        """Numbers of a camera agent; the defaults are small.

        Attributes:
            trunk: efficientnet_b0, or resnet: the first half of ResNet-50 or -101.
            classifier: keep EfficientNet's unused image classifier, which published parameter counts include.
            image_size: (height, width) pixels the images are scaled to; multiples of 32 (resnet: of 8).
            splat_finer: splat cells per shared cell.
            lifted: channels of a lifted feature.
            depth_range: nearest and farthest depth, metres.
            depth_bins: number of bins, growing linearly with depth.
            z_range: heights that are kept, metres.
            depth_weight: weight of the depth loss.
            own_half_extent_m: how far ahead and to the sides its own grid reaches; beyond, its feature is zero. None:
                as far as the shared grid.
            blocks: residual blocks of the bird's-eye-view trunk.
            aligner: ConvNeXt blocks after it.
        """

        trunk: Literal["efficientnet_b0", "resnet"] = "resnet"
        classifier: bool = False
        image_size: tuple[int, int] = (96, 128)
        splat_finer: int = 2
        lifted: int = 32
        depth_range: tuple[float, float] = (2.0, 50.0)
        depth_bins: int = 40
        z_range: tuple[float, float] = (-10.0, 10.0)
        depth_weight: float = 1.0
        own_half_extent_m: tuple[float, float] | None = None
        blocks: int = 3
        aligner: int = 3

    def __init__(self, config: CameraLss.Config, grid: BevGrid, channels: int) -> None:
        super().__init__(grid, channels)
        self.config = config
        efficient = config.trunk == "efficientnet_b0"
        step = 32 if efficient else STRIDE
        if any(side % step for side in config.image_size):
            raise ConfigError(f"image_size={config.image_size}: trunk={config.trunk} needs multiples of {step}")
        self.stride = STRIDE
        self.own_grid = _own_grid(config, grid)
        self.splat_grid = image_grid(self.own_grid, self.own_grid.cell / config.splat_finer)
        self.trunk: nn.Module = EfficientNetTrunk(config.classifier) if efficient else HalfResNet()
        self.depth = nn.Conv2d(CHANNELS, config.depth_bins, 1)
        self.lifted = nn.Conv2d(CHANNELS, config.lifted, 1)
        self.bev = nn.Sequential(
            ResidualBlock(config.lifted, channels, config.splat_finer),
            *(ResidualBlock(channels, channels) for _ in range(config.blocks - 1)),
        )
        self.aligner = convnext_aligner(channels, config.aligner)

    def reduce(self, frame: AgentFrame) -> AgentFrame:
        """The frame with its cameras scaled to this agent's image size and nothing else."""
        return with_scaled_cameras(frame, self.config.image_size)

    def prepare(self, frame: AgentFrame) -> CameraInput:
        """Scaled images, the cells their pixels may lie in, and depth at the centres of feature cells."""
        cameras = cameras_of(frame, self.config.image_size)
        mean, std = (torch.tensor(values)[:, None, None] for values in (_IMAGENET_MEAN, _IMAGENET_STD))
        images = (pixels_of(cameras) / 255 - mean) / std
        return camera_input(cameras, images, [self._cells(camera) for camera in cameras], self.stride)

    def collate(self, items: Sequence[CameraInput]) -> CameraInput:
        """Images of N agents; depth only if all have it."""
        return collate_cameras(items)

    def forward(self, batch: CameraInput) -> Tensor:
        """(N, C, Y, X) feature on the shared grid."""
        return self._encode(batch)[0]

    def supervised(self, batch: CameraInput) -> tuple[Tensor, Tensor]:
        """The feature and the focal loss of depth where it is known and in range."""
        feature, logits = self._encode(batch)
        if batch.depth is None:
            all_reduce_detached(batch.owners.new_zeros(()))  # other processes may know depth, and ask
            return feature, logits.sum() * 0
        target, valid = depth_bin(batch.depth, *self.config.depth_range, self.config.depth_bins)
        loss = (softmax_focal(logits, target) * valid).sum() / all_reduce_detached(valid.sum()).clamp(min=1)
        return feature, self.config.depth_weight * loss

    def splatted(self, batch: CameraInput) -> tuple[Tensor, Tensor]:
        """(N, lifted, Y', X') on the agent's own fine grid, and (M, D, h, w) depth logits."""
        pixels = self.trunk(batch.images)
        logits: Tensor = self.depth(pixels)
        weights = logits.float().softmax(dim=1)
        return splat(self.lifted(pixels), weights, batch.cells, batch.owners, batch.agents, self.splat_grid), logits

    def _encode(self, batch: CameraInput) -> tuple[Tensor, Tensor]:
        bev, logits = self.splatted(batch)
        return self.own_grid.placed(self.aligner(self.bev(bev)), self.grid), logits

    def _cells(self, camera: Camera) -> Tensor:
        rays = published_rays(*self.config.image_size, self.stride, torch.from_numpy(camera.K).float())
        edges = depth_edges(*self.config.depth_range, self.config.depth_bins)
        T_agent_camera = torch.from_numpy(camera.T_agent_camera).float()
        return splat_cells(rays, edges, T_agent_camera, self.splat_grid, self.config.z_range, truncate=True)


def _own_grid(config: CameraLss.Config, shared: BevGrid) -> BevGrid:
    if config.own_half_extent_m is None:
        return shared
    ahead, aside = config.own_half_extent_m
    return BevGrid(-ahead, ahead, -aside, aside, shared.cell, shared.y_right)
