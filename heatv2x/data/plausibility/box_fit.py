"""How well labelled boxes fit a sweep: whether points lie on their faces, and whether lines of sight pass through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heatv2x.structures import Float32, Float64, Int64

NEAR_M = 40.0
_OWN_BODY_M = 3.0
_BOXES = 12
_AROUND_M = 1.0
_INSIDE_M, _OUTSIDE_M = 0.35, 0.2
_FLOOR_M = 0.3
_TIGHT_M = 0.15
_BELOW_M, _FLOATS_M, _FLOATING_COUNTS = 3.0, 0.45, 0.4
_ENOUGH = 4
_RAYS = 5


@dataclass(frozen=True)
class Fit:
    """How boxes fit points.

    Attributes:
        boxes: how many boxes were looked at.
        explained: the sum over boxes of the share of the points around a box that lie on its faces, 0 to `boxes`.
        tight: the same with a tolerance of 0.15 m, to choose between explanations that both fit.
    """

    boxes: int = 0
    explained: float = 0.0
    tight: float = 0.0

    def __add__(self, other: Fit) -> Fit:
        return Fit(self.boxes + other.boxes, self.explained + other.explained, self.tight + other.tight)

    @property
    def share(self) -> float:
        """Mean share of a box, 0 to 1."""
        return self.explained / max(self.boxes, 1)


def near_boxes(T_agent_object: Float64, roadside: bool, reach_m: float = NEAR_M) -> Int64:
    """Rows of the nearest boxes within reach, at most 12, without the agent's own body."""
    distance = np.hypot(T_agent_object[:, 0, 3], T_agent_object[:, 1, 3])
    rows = np.flatnonzero((distance < reach_m) & (roadside | (distance > _OWN_BODY_M)))
    return np.asarray(rows[np.argsort(distance[rows], kind="stable")][:_BOXES], np.int64)


def shares(points: Float32, T_agent_object: Float64, size: Float64) -> Float64:
    """(N, 2) of the points in and around each box, above the road: which share lies on its faces; 0 with too few.

    The second column takes a narrow tolerance. A box that floats above the points below it counts less.
    """
    found = np.zeros((len(size), 2))
    for n, (T, extent) in enumerate(zip(T_agent_object, size, strict=True)):
        local = _around(points, T, extent, _AROUND_M, below_m=_BELOW_M)
        above = local[:, 2] > _FLOOR_M - extent[2] / 2
        standing = local[above]
        if len(standing) < _ENOUGH:
            continue
        inward = np.abs(standing) - extent / 2
        depth = np.maximum(np.maximum(inward[:, 0], inward[:, 1]), standing[:, 2] - extent[2] / 2)
        road = local[~above, 2]
        floats = len(road) >= _ENOUGH and np.median(road) < -extent[2] / 2 - _FLOATS_M
        for column, (inside, outside) in enumerate(((_INSIDE_M, _OUTSIDE_M), (_TIGHT_M, _TIGHT_M))):
            share = ((depth > -inside) & (depth < outside)).sum() / len(standing)
            found[n, column] = share * (_FLOATING_COUNTS if floats else 1)
    return found


def _around(points: Float32, T: Float64, extent: Float64, margin_m: float, below_m: float = -_FLOOR_M) -> Float64:
    """(P, 3) points around a box in the box's frame, from `below_m` under its bottom to half a metre above its top.

    The points must be in ascending order of x.
    """
    reach = np.hypot(extent[0], extent[1]) / 2 + margin_m
    x, y = T[0, 3], T[1, 3]
    first, last = np.searchsorted(points[:, 0], np.array([x - reach, x + reach], np.float32))
    beside = points[first:last]
    local = (beside[np.abs(beside[:, 1] - y) < reach] - T[:3, 3]) @ T[:3, :3]
    low, high = -extent[2] / 2 - below_m, extent[2] / 2 + 0.5
    inside = (np.abs(local[:, :2]) < extent[:2] / 2 + margin_m).all(axis=1) & (local[:, 2] > low) & (local[:, 2] < high)
    return np.asarray(local[inside])


@dataclass(frozen=True)
class Sight:
    """What a sweep says of near boxes.

    Attributes:
        boxes: labelled objects near the sensor.
        hold: of them hold points.
        empty: of them hold none although lines of sight pass through.
    """

    boxes: int = 0
    hold: int = 0
    empty: int = 0

    def __add__(self, other: Sight) -> Sight:
        return Sight(self.boxes + other.boxes, self.hold + other.hold, self.empty + other.empty)


def sight(points: Float32, T_agent_object: Float64, size: Float64) -> Sight:
    """Which boxes hold points, and which are seen through: a hidden box is neither."""
    hold = empty = 0
    for T, extent in zip(T_agent_object, size, strict=True):
        inside = len(_around(points, T, extent, 0.1))
        through = _seen_through(points, T, extent)
        hold += inside >= 2 and inside > 0.1 * through
        empty += through >= _RAYS and inside <= 0.1 * through
    return Sight(len(size), hold, empty)


def _seen_through(points: Float32, T: Float64, extent: Float64) -> int:
    """How many lines of sight pass through the lower middle of a box and end behind it."""
    centre, rotation = T[:3, 3], T[:3, :3]
    distance = float(np.hypot(centre[0], centre[1]))
    across = points[:, 0] * centre[1] - points[:, 1] * centre[0]
    along = points[:, 0] * centre[0] + points[:, 1] * centre[1]
    radius = extent[:2].min() / 2
    behind = points[(along > distance * (distance + radius)) & (np.abs(across) < along * radius / max(distance, 1.0))]
    start, direction = -centre @ rotation, behind @ rotation
    half = extent / 2 * np.array([0.7, 0.7, 0.3])
    middle = np.array([0.0, 0.0, -0.1 * extent[2]])
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = (middle - half - start) / direction, (middle + half - start) / direction
    enter = np.nanmax(np.minimum(one, other), axis=1, initial=-np.inf)
    leave = np.nanmin(np.maximum(one, other), axis=1, initial=np.inf)
    return int(((enter < leave) & (enter > 0) & (leave < 1)).sum())
