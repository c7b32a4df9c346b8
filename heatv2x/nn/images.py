"""Images of one agent or several as a network's input.

Shapes: M images, D depth bins, H W pixels, h w feature cells of an image, N agents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from heatv2x.errors import HeatError
from heatv2x.structures import AgentFrame, Camera


@dataclass
class CameraInput:
    """Images of one agent, or of N agents after `collate_cameras`.

    Attributes:
        images: (M, 3, H, W) float32, zero mean and unit scale; M = N agents times their cameras.
        cells: (M, D, h, w) int64 cell of every lifted point, -1 outside.
        depth: (M, h, w) float32 metres, 0 unknown; None when the dataset has no depth.
        owners: (M,) int64 which agent each image belongs to; agents may carry different numbers of cameras.
        agents: N.
    """

    images: Tensor
    cells: Tensor
    depth: Tensor | None
    owners: Tensor
    agents: int = 1


def with_scaled_cameras(frame: AgentFrame, size: tuple[int, int]) -> AgentFrame:
    """The frame with its cameras scaled to (height, width) pixels and nothing else."""
    return replace(frame, lidars={}, cameras=tuple(camera.scaled(*size) for camera in frame.cameras))


def cameras_of(frame: AgentFrame, size: tuple[int, int]) -> tuple[Camera, ...]:
    """The scaled cameras of a frame.

    Raises:
        HeatError: it was read without cameras.
    """
    if not frame.cameras:
        raise HeatError(f"agent {frame.agent_id} at {frame.timestamp} needs cameras, but its frame holds none")
    return with_scaled_cameras(frame, size).cameras


def pixels_of(cameras: Sequence[Camera]) -> Tensor:
    """(M, 3, H, W) float32 in 0 to 255."""
    return torch.from_numpy(np.stack([camera.image for camera in cameras])).permute(0, 3, 1, 2).float()


def camera_input(cameras: Sequence[Camera], images: Tensor, cells: Sequence[Tensor], stride: int) -> CameraInput:
    """One agent's input; its depth is that at the centres of feature cells, if every camera has it.

    Args:
        cameras: M scaled cameras.
        images: (M, 3, H, W) as the network wants them.
        cells: M tensors (D, h, w), see `nn.lift.splat_cells`.
        stride: pixels per feature cell.
    """
    half = stride // 2
    known = [camera.depth[half::stride, half::stride] for camera in cameras if camera.depth is not None]
    depth = torch.from_numpy(np.stack(known)) if len(known) == len(cameras) else None
    return CameraInput(images, torch.stack(list(cells)), depth, torch.zeros(len(images), dtype=torch.long))


def collate_cameras(items: Sequence[CameraInput]) -> CameraInput:
    """Images of N agents; depth only if all have it."""
    depths = [item.depth for item in items if item.depth is not None]
    return CameraInput(
        torch.cat([item.images for item in items]),
        torch.cat([item.cells for item in items]),
        torch.cat(depths) if len(depths) == len(items) else None,
        torch.cat([item.owners + n for n, item in enumerate(items)]),
        sum(item.agents for item in items),
    )
