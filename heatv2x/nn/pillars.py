"""Points to bird's-eye-view columns.

Shapes: P points, V occupied columns (pillars), N agents, C channels, Y X grid. Points are sorted by column beforehand,
so the network needs segment reductions only: four times faster on a CPU than a scattered maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from heatv2x.grid import BevGrid
from heatv2x.structures import Float32, Int64


@dataclass
class Pillars:
    """Points sorted by column.

    Attributes:
        features: (P, F) float32, see `pillars_of`.
        cells: (V,) int64 flat index n * Y * X + y * X + x of each occupied column, ascending.
        counts: (V,) int64 points in each column; they sum to P.
        agents: N, how many agents are in here.
    """

    features: Tensor
    cells: Tensor
    counts: Tensor
    agents: int = 1


def flat_cells(points: Float32, grid: BevGrid) -> tuple[Int64, Int64]:
    """Which points lie in the grid, and the flat cell y * X + x of each of those.

    Args:
        points: (P, >= 2) x, y in metres.

    Returns:
        (Q,) indices of the points inside, and their (Q,) cells.
    """
    rows, columns = grid.shape
    x = np.floor((points[:, 0] - grid.x_min) / grid.cell).astype(np.int64)
    y = np.floor((points[:, 1] - grid.y_min) / grid.cell).astype(np.int64)
    inside = np.flatnonzero((x >= 0) & (x < columns) & (y >= 0) & (y < rows))
    return inside, y[inside] * columns + x[inside]


def pillars_of(
    points: Float32, grid: BevGrid, max_points: int, z_range: tuple[float, float], absolute_xy: bool
) -> Pillars:
    """Group a sweep into pillars and describe every point relative to its own (Lang et al. 2019, PointPillars).

    Args:
        points: (P, 4) x, y, z, intensity in the agent's frame.
        grid: the pillars' grid.
        max_points: points kept per pillar, the first in input order.
        z_range: lowest and highest z in metres; points outside are dropped.
        absolute_xy: True gives the published 10 features (x, y, z, intensity, offset to the pillar's mean (3), to its
            centre (3)); False leaves x and y out, which generalises better from few scenes.
    """
    points = points[(points[:, 2] >= z_range[0]) & (points[:, 2] < z_range[1])]
    inside, cell = flat_cells(points, grid)
    order = np.argsort(cell, kind="stable")
    points, cell = points[inside][order], cell[order]
    _, start, counts = np.unique(cell, return_index=True, return_counts=True)
    rank = np.arange(len(cell)) - np.repeat(start, counts)
    keep = rank < max_points
    points, cell = points[keep], cell[keep]
    cells, start, counts = np.unique(cell, return_index=True, return_counts=True)
    mean = (
        np.repeat(np.add.reduceat(points[:, :3], start, axis=0) / counts[:, None], counts, axis=0)
        if len(points)
        else points[:, :3]
    )
    columns = grid.shape[1]
    centre = np.empty_like(mean)
    centre[:, 0] = grid.x_min + (cell % columns + 0.5) * grid.cell
    centre[:, 1] = grid.y_min + (cell // columns + 0.5) * grid.cell
    centre[:, 2] = (z_range[0] + z_range[1]) / 2
    features = np.concatenate(
        [points if absolute_xy else points[:, 2:], points[:, :3] - mean, points[:, :3] - centre], axis=1
    )
    return Pillars(torch.from_numpy(features.astype(np.float32)), torch.from_numpy(cells), torch.from_numpy(counts))


def collate_pillars(items: Sequence[Pillars], grid: BevGrid) -> Pillars:
    """Put several agents' pillars into one, numbering their cells one agent after another."""
    cells_per_agent = grid.shape[0] * grid.shape[1]
    first = np.cumsum([0, *(item.agents for item in items)])
    return Pillars(
        torch.cat([item.features for item in items]),
        torch.cat([item.cells + int(n) * cells_per_agent for item, n in zip(items, first[:-1], strict=True)]),
        torch.cat([item.counts for item in items]),
        int(first[-1]),
    )


class PillarEncoder(nn.Module):
    """Linear layer, batch normalisation and ReLU per point, maximum per pillar, then an image of pillars.

    Args:
        features: F of the input points.
        channels: C of the output image.
        grid: the pillars' grid (Y, X).
    """

    def __init__(self, features: int, channels: int, grid: BevGrid) -> None:
        super().__init__()
        self.grid = grid
        self.linear = nn.Linear(features, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels, eps=1e-3)

    def forward(self, pillars: Pillars) -> Tensor:
        """P points of N agents to a (N, C, Y, X) image, zero where no point fell."""
        rows, columns = self.grid.shape
        points = torch.relu(self.norm(self.linear(pillars.features)))
        columns_max = torch.segment_reduce(points, "max", lengths=pillars.counts, axis=0, unsafe=True)
        image = points.new_zeros(pillars.agents * rows * columns, points.shape[1])
        image = image.index_copy(0, pillars.cells, columns_max)
        return image.view(pillars.agents, rows, columns, -1).permute(0, 3, 1, 2)
