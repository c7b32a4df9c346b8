"""The ground around a sensor as a plane."""

from __future__ import annotations

import functools

import numpy as np

from heatv2x.data.plausibility.sweep import Sweep
from heatv2x.structures import Float64

_RING_M = (3.0, 30.0)
_CELL_M = 2.0
_ENOUGH_CELLS = 25
_ENOUGH_POINTS = 100


@functools.lru_cache(maxsize=512)
def ground_plane(sweep: Sweep) -> tuple[float, Float64] | None:
    """Height of the sensor above the ground plane, and the plane's upward normal (3,) in the sensor's frame.

    The plane goes through the lowest points of cells around the sensor, without those that lie above it. A sensor that
    is tilted by its pose is stood upright first, as far as that brings its lowest points down.
    """
    points = sweep.points.astype(np.float64)
    for upright in (np.eye(3), sweep.T_world_agent[:3, :3]):
        found = _plane(points @ upright.T)
        if found is not None:
            height, normal = found
            return height, upright.T @ normal
    return None


def _plane(points: Float64) -> tuple[float, Float64] | None:
    reach = np.hypot(points[:, 0], points[:, 1])
    around = points[(reach > _RING_M[0]) & (reach < _RING_M[1])]
    if len(around) < _ENOUGH_POINTS:
        return None
    cells = np.floor(around[:, :2] / _CELL_M).astype(np.int64)
    codes = cells[:, 0] * 1000 + cells[:, 1]
    order = np.lexsort((around[:, 2], codes))
    _, first = np.unique(codes[order], return_index=True)
    low = around[order][first]
    kept = low
    for _ in range(8):
        if len(kept) < _ENOUGH_CELLS:
            return None
        design = np.column_stack([kept[:, :2], np.ones(len(kept))])
        (a, b, c), *_ = np.linalg.lstsq(design, kept[:, 2], rcond=None)
        above = low[:, 2] - low[:, :2] @ np.array([a, b]) - c
        kept = low[(above < 0.3) & (above > -1.0)]
    normal = np.array([-a, -b, 1.0])
    return float(-c / np.linalg.norm(normal)), normal / np.linalg.norm(normal)
