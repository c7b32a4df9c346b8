"""Points to occupied voxels: the mean of the first points of each (SECOND, Yan et al. 2018).

Shapes: P points, V voxels, N agents, Z Y X grid of voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heatv2x.geometry.grid import BevGrid
from heatv2x.nn.pillars import first_cells, first_points, flat_cells
from heatv2x.nn.sparse import Sites, SparseMap, Triple
from heatv2x.structures import Float32


@dataclass
class Voxels:
    """Occupied voxels of N agents.

    Attributes:
        features: (V, 4) mean x, y, z, intensity.
        keys: (V,) int64 ((n Z + z) Y + y) X + x, ascending.
        shape: (Z, Y, X).
        agents: N.
    """

    features: Tensor
    keys: Tensor
    shape: Triple
    agents: int = 1

    def sparse(self) -> SparseMap:
        """The features at their sites."""
        return SparseMap(self.features, Sites(self.keys, self.shape, self.agents))


def voxels_of(
    points: Float32, grid: BevGrid, z_range: tuple[float, float], height: float, max_points: int, max_voxels: int
) -> Voxels:
    """Group a sweep into voxels.

    Args:
        points: (P, 4) x, y, z, intensity in the agent's frame.
        grid: the voxels' columns.
        z_range: lowest and highest z in metres; points outside are dropped.
        height: of a voxel, metres; Z is one layer more than fit into the range, as SECOND has it.
        max_points: points averaged per voxel, the first in input order.
        max_voxels: voxels kept, the first in input order.
    """
    rows, columns = grid.shape
    layers = round((z_range[1] - z_range[0]) / height)
    layer = np.floor((points[:, 2] - z_range[0]) / height).astype(np.int64)
    within = (layer >= 0) & (layer < layers)
    points, layer = points[within], layer[within]
    inside, cell = flat_cells(points, grid)
    key = layer[inside] * (rows * columns) + cell
    kept = first_cells(key, max_voxels)
    points, key = points[inside][kept], key[kept]
    points, keys, counts = first_points(points, key, max_points)
    start = np.cumsum(counts) - counts
    mean = np.add.reduceat(points, start, axis=0) / counts[:, None] if len(points) else points
    return Voxels(torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(keys), (layers + 1, rows, columns))


def collate_voxels(items: Sequence[Voxels]) -> Voxels:
    """Put several agents' voxels into one, numbering them one agent after another."""
    size = int(np.prod(items[0].shape))
    first = np.cumsum([0, *(item.agents for item in items)])
    keys = [item.keys + int(n) * size for item, n in zip(items, first[:-1], strict=True)]
    return Voxels(torch.cat([item.features for item in items]), torch.cat(keys), items[0].shape, int(first[-1]))
