"""What an agent's cameras see, as OPV2V's raster around the agent: 256 x 256 pixels of 0.39 m, heading up.

Facts, OPV2V: a point (x, y right) of the LiDAR's frame falls on row 127 - trunc(x / 0.39) and
column 127 + trunc(y / 0.39); an object is visible to the cameras if the pixel under its centre is not zero.
"""

from __future__ import annotations

import numpy as np

from heatv2x.structures import Bool, Float64, Int64, Pose, UInt8
from heatv2x.world.camera import Views
from heatv2x.world.rays import Moment

CELLS, CELL_M = 256, 0.39
SEEN_PIXELS = 60  # of the 800 x 600 image, below which an object counts as unseen


def pixels(points: Float64) -> tuple[Int64, Int64, Bool]:
    """Row, column and whether inside, of (P, 2) points in the LiDAR's frame (y left)."""
    row = 127 - np.trunc(points[:, 0] / CELL_M).astype(np.int64)
    column = 127 + np.trunc(-points[:, 1] / CELL_M).astype(np.int64)
    return row, column, (row >= 0) & (row < CELLS) & (column >= 0) & (column < CELLS)


def raster(views: Views, moment: Moment, T_world_lidar: Float64, own: int = -1) -> UInt8:
    """(256, 256) uint8: 255 where a camera ray ended, and all over the footprint of every vehicle that was seen."""
    image = np.zeros((CELLS, CELLS), np.uint8)
    T_lidar_world = Pose(T_world_lidar).inverse()
    reached = views.points[np.isfinite(views.points[:, 0]) & (views.owner < 0)].astype(np.float64)
    _mark(image, reached @ T_lidar_world[:2, :3].T + T_lidar_world[:2, 3])
    per_pixel = 800 * 600 * len(views.image) / len(views.owner)
    seen = np.bincount(views.owner[views.owner >= 0], minlength=len(moment.ids)) * per_pixel >= SEEN_PIXELS
    for k in np.flatnonzero(seen):
        if k != own:
            _mark(image, _footprint(moment, int(k), T_lidar_world))
    return image


def visible(image: UInt8, moment: Moment, T_world_lidar: Float64) -> Bool:
    """(N,) whether the pixel under each vehicle's centre is set."""
    T_lidar_world = Pose(T_world_lidar).inverse()
    centre = moment.T_world_vehicle[:, :3, 3] + 0.5 * moment.size[:, 2:] * moment.T_world_vehicle[:, :3, 2]
    row, column, inside = pixels(centre @ T_lidar_world[:2, :3].T + T_lidar_world[:2, 3])
    found = np.zeros(len(centre), np.bool_)
    found[inside] = image[row[inside], column[inside]] > 0
    return found


def _mark(image: UInt8, points: Float64) -> None:
    row, column, inside = pixels(points)
    image[row[inside], column[inside]] = 255


def _footprint(moment: Moment, k: int, T_lidar_world: Float64) -> Float64:
    length, width = moment.size[k, :2] / 2
    x, y = np.meshgrid(np.linspace(-length, length, int(length / 0.1)), np.linspace(-width, width, int(width / 0.1)))
    local = np.stack([x.ravel(), y.ravel(), np.zeros(x.size), np.ones(x.size)])
    return np.asarray((T_lidar_world @ moment.T_world_vehicle[k] @ local)[:2].T)
