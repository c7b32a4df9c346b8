"""Lift image features to three dimensions and splat them to bird's-eye view.

After Lift-Splat-Shoot (Philion and Fidler 2020).

Shapes: M images, D depth bins, C channels, h w feature cells of an image, N agents, Y X grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heatv2x.geometry.grid import BevGrid


def depth_edges(d_min: float, d_max: float, bins: int) -> Tensor:
    """(D,) lower edges of linearly growing depth bins, metres.

    d_min + step * i * (i + 1) / 2, as in CaDDN (Reading et al. 2021).
    """
    index = torch.arange(bins, dtype=torch.float32)
    return d_min + (d_max - d_min) * index * (index + 1) / (bins * (bins + 1))


def depth_bin(depth: Tensor, d_min: float, d_max: float, bins: int) -> tuple[Tensor, Tensor]:
    """Which bin a depth falls into.

    Args:
        depth: metres, any shape.

    Returns:
        int64 bins, clamped to [0, D - 1], and a bool mask of the depths that really lie in [d_min, d_max).
    """
    step = 2 * (d_max - d_min) / (bins * (bins + 1))
    position = -0.5 + 0.5 * torch.sqrt(1 + 8 * (depth - d_min).clamp(min=0) / step)
    return position.floor().long().clamp(0, bins - 1), (depth >= d_min) & (depth < d_max)


def image_rays(height: int, width: int, stride: int, K: Tensor) -> Tensor:
    """(h, w, 3) directions of the centres of an image's feature cells.

    In camera axes, scaled to depth 1 along the optical axis.

    Args:
        height, width: image size in pixels, multiples of `stride`.
        stride: pixels per feature cell.
        K: (3, 3) intrinsics in pixels of that image.
    """
    v = (torch.arange(height // stride) + 0.5) * stride - 0.5
    u = (torch.arange(width // stride) + 0.5) * stride - 0.5
    return _directions(u, v, K)


def published_rays(height: int, width: int, stride: int, K: Tensor) -> Tensor:
    """(h, w, 3) directions as `image_rays`, but of pixels spread from the first to the last of the image.

    So the code of Lift-Splat-Shoot and HEAL has it; only a cell in the middle of the image is met in its centre.
    """
    v = torch.linspace(0, height - 1, height // stride)
    u = torch.linspace(0, width - 1, width // stride)
    return _directions(u, v, K)


def _directions(u: Tensor, v: Tensor, K: Tensor) -> Tensor:
    grid_v, grid_u = torch.meshgrid(v, u, indexing="ij")
    pixels = torch.stack([grid_u, grid_v, torch.ones_like(grid_u)], dim=-1).to(K)
    rays: Tensor = pixels @ torch.linalg.inv(K).T
    return rays


def lifted_points(rays: Tensor, depths: Tensor, T_agent_camera: Tensor) -> Tensor:
    """(D, h, w, 3) points in the agent's frame of (h, w, 3) rays at (D,) depths."""
    points = depths[:, None, None, None] * rays
    return points @ T_agent_camera[:3, :3].T.to(points) + T_agent_camera[:3, 3].to(points)


def splat_cells(
    rays: Tensor,
    depths: Tensor,
    T_agent_camera: Tensor,
    grid: BevGrid,
    z_range: tuple[float, float],
    truncate: bool = False,
) -> Tensor:
    """Which grid cell each lifted point falls into.

    Args:
        rays: (h, w, 3) from `image_rays`.
        depths: (D,) metres.
        T_agent_camera: (4, 4).
        z_range: lowest and highest z kept, metres.
        truncate: round towards zero, as published code does: a cell's width (in z the range's height) below the lower
            bounds still counts as the first cell.

    Returns:
        (D, h, w) int64 flat cell y * X + x, -1 outside the grid.
    """
    points = lifted_points(rays, depths, T_agent_camera)
    rows, columns = grid.shape
    low = points.new_tensor([grid.x_min, grid.y_min, z_range[0]])
    size = points.new_tensor([grid.cell, grid.cell, z_range[1] - z_range[0]])
    cell = (points - low) / size
    x, y, z = (cell.trunc() if truncate else cell.floor()).long().unbind(dim=-1)
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows) & (z == 0)
    return torch.where(inside, y * columns + x, -1)


def splat(features: Tensor, depth: Tensor, cells: Tensor, owners: Tensor, agents: int, grid: BevGrid) -> Tensor:
    """Sum every pixel's feature, weighted by its depth distribution, into the cells it may lie in.

    Args:
        features: (M, C, h, w).
        depth: (M, D, h, w) probabilities over depth bins.
        cells: (M, D, h, w) from `splat_cells`, local to each agent.
        owners: (M,) int64 whose image it is, 0 to N - 1.
        agents: N.

    Returns:
        (N, C, Y, X) float32.
    """
    rows, columns = grid.shape
    image, depth_index, row, column = torch.nonzero(cells >= 0, as_tuple=True)
    target = owners[image] * (rows * columns) + cells[image, depth_index, row, column]
    weight = depth.float()[image, depth_index, row, column]
    value = features.float().permute(0, 2, 3, 1)[image, row, column] * weight[:, None]
    bev = value.new_zeros(agents * rows * columns, features.shape[1]).index_add(0, target, value)
    return bev.view(agents, rows, columns, -1).permute(0, 3, 1, 2)
