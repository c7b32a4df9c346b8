"""Boxes and points in the plane and in space: corners, transforms, rotated overlap, non-maximum suppression.

Pure torch and batched, so that CPU and CUDA run the same lines; results come back in the dtype and on the device of the
boxes given. Boxes are (x, y, z, length, width, height, yaw) about the geometric centre, right-handed, metres, radians.
Every formula here is mirror-symmetric (y to -y together with yaw to -yaw), so it also holds for left-handed boxes.

Shapes: N, M boxes; P points; K pairs of boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from heatv2x.structures import Float64

# Corner signs in the box frame: front right, front left, rear left, rear right (seen from above, x forward, y left).
_SIGN_X = (0.5, 0.5, -0.5, -0.5)
_SIGN_Y = (-0.5, 0.5, 0.5, -0.5)


def wrap_angle(angle: Tensor, period: float = 2 * math.pi, offset: float = 0.5) -> Tensor:
    """The same angles modulo `period`, in [-offset * period, (1 - offset) * period); by default [-pi, pi)."""
    return angle - torch.floor(angle / period + offset) * period


def corners_bev(boxes: Tensor) -> Tensor:
    """Corners of the boxes' footprints.

    Args:
        boxes: (N, 7).

    Returns:
        (N, 4, 2) x, y in the order (+l/2, -w/2), (+l/2, +w/2), (-l/2, +w/2), (-l/2, -w/2): counter-clockwise.
    """
    along = boxes[:, 3:4] * boxes.new_tensor(_SIGN_X)
    across = boxes[:, 4:5] * boxes.new_tensor(_SIGN_Y)
    cos, sin = boxes[:, 6:7].cos(), boxes[:, 6:7].sin()
    return torch.stack((boxes[:, 0:1] + along * cos - across * sin, boxes[:, 1:2] + along * sin + across * cos), dim=-1)


def corners_3d(boxes: Tensor) -> Tensor:
    """(N, 8, 3) corners of (N, 7) boxes: the bottom face in the order of `corners_bev`, then the top face."""
    face = corners_bev(boxes)
    half_height = boxes[:, 5:6] / 2
    bottom, top = boxes[:, 2:3] - half_height, boxes[:, 2:3] + half_height
    z = torch.cat((bottom.expand(-1, 4), top.expand(-1, 4)), dim=1)
    return torch.cat((face.repeat(1, 2, 1), z[..., None]), dim=-1)


def boxes_from_corners(corners: Tensor) -> Tensor:
    """Upright boxes of eight corners each; inverse of `corners_3d`, and what is left of a box after a tilt.

    Length and width are mean edge lengths in the plane, height is the mean top minus the mean bottom. Yaw is the
    direction of the summed forward edges (a vector mean). HEAL and OpenCOOD take the arithmetic mean of four angles,
    which points backwards or sideways where they straddle +-pi; elsewhere the two agree.

    Args:
        corners: (N, 8, 3) in the order of `corners_3d`.

    Returns:
        (N, 7), yaw in [-pi, pi].
    """
    face = corners.reshape(-1, 2, 4, 3)
    front_right, front_left, rear_left, rear_right = face[..., :2].unbind(dim=2)
    forward = torch.cat((front_left - rear_left, front_right - rear_right), dim=1)
    leftward = torch.cat((front_left - front_right, rear_left - rear_right), dim=1)
    length, width = forward.norm(dim=-1).mean(dim=1), leftward.norm(dim=-1).mean(dim=1)
    level = face[..., 2].mean(dim=2)
    height = (level[:, 1] - level[:, 0]).abs()
    heading = forward.sum(dim=1)
    yaw = torch.atan2(heading[:, 1], heading[:, 0])
    return torch.cat((corners.mean(dim=1), torch.stack((length, width, height, yaw), dim=1)), dim=1)


def transform_points(points: Tensor, T: Tensor) -> Tensor:
    """Points in another frame.

    Args:
        points: (..., P, 3 or more); columns after x, y, z (intensity) are carried along unchanged.
        T: (..., 4, 4) T_target_source, float64; computed in its precision.

    Returns:
        The points with x, y, z in the target frame, in the dtype of `points`.
    """
    T = T.to(points.device)
    moved = points[..., :3].to(T.dtype) @ T[..., :3, :3].mT + T[..., None, :3, 3]
    return torch.cat((moved.to(points.dtype), points[..., 3:]), dim=-1)


def inverse_rigid(T: Tensor) -> Tensor:
    """(..., 4, 4) inverses of rigid transforms: the transposed rotation, and the translation turned back by it."""
    inverse = torch.zeros_like(T)
    inverse[..., :3, :3] = T[..., :3, :3].mT
    inverse[..., :3, 3:] = -T[..., :3, :3].mT @ T[..., :3, 3:]
    inverse[..., 3, 3] = 1.0
    return inverse


def transform_boxes(boxes: Tensor, T: Tensor) -> Tensor:
    """Boxes in another frame: all eight corners are moved by the full transform, then stood upright again.

    Args:
        boxes: (N, 7).
        T: (4, 4) T_target_source for all boxes, or (N, 4, 4) one for each; float64.

    Returns:
        (N, 7) in the dtype of `boxes`. A transform that only turns about z and shifts keeps the sizes.
    """
    corners = transform_points(corners_3d(boxes.double()), T.double())
    return boxes_from_corners(corners).to(boxes.dtype)


def rotated_iou_bev(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of the footprints of every box of `a` with every box of `b`.

    Exact polygon areas in float64. Pairs whose circumscribed circles are apart are 0 and cost nothing; so is every
    pair with a box of no area.

    Args:
        a: (N, 7).
        b: (M, 7).

    Returns:
        (N, M) in [0, 1].
    """
    first, second = a.double(), b.double()
    rows, columns = _near_pairs(first, second)
    overlap = _intersection_bev(first[rows], second[columns])
    return _scatter_iou(a, b, rows, columns, overlap, _area(first)[rows] + _area(second)[columns])


def rotated_iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) intersection over union of the volumes of boxes `a` (N, 7) and `b` (M, 7); see `rotated_iou_bev`."""
    first, second = a.double(), b.double()
    rows, columns = _near_pairs(first, second)
    one, other = first[rows], second[columns]
    top = torch.minimum(one[:, 2] + one[:, 5] / 2, other[:, 2] + other[:, 5] / 2)
    bottom = torch.maximum(one[:, 2] - one[:, 5] / 2, other[:, 2] - other[:, 5] / 2)
    overlap = _intersection_bev(one, other) * (top - bottom).clamp_min(0)
    volumes = _area(one) * one[:, 5] + _area(other) * other[:, 5]
    return _scatter_iou(a, b, rows, columns, overlap, volumes)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_candidates: int = 1000) -> Tensor:
    """Greedy rotated non-maximum suppression in the plane.

    The best box stays and removes all whose overlap with it is above the threshold, and so on. Instead of one box at a
    time, all are updated at once until nothing changes: the only state that does not change is the greedy one, and the
    number of rounds is the longest chain of boxes that remove one another, not the number of boxes.

    Args:
        boxes: (N, 7).
        scores: (N,).
        iou_threshold: a box goes if its overlap with a kept one is greater than this.
        max_candidates: how many of the best-scored boxes to consider.

    Returns:
        (K,) int64 indices of the kept boxes in descending score; of equal scores the lower index comes first.
    """
    order = torch.sort(scores, descending=True, stable=True).indices[:max_candidates]
    candidates = boxes[order].double()
    winner, loser = _near_pairs(candidates, candidates)
    earlier = winner < loser
    winner, loser = winner[earlier], loser[earlier]
    overlap = _intersection_bev(candidates[winner], candidates[loser])
    area = _area(candidates)
    removes = overlap > iou_threshold * (area[winner] + area[loser] - overlap)
    winner, loser = winner[removes], loser[removes]
    keep = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    while True:
        removals = torch.zeros(len(order), dtype=torch.int32, device=boxes.device)
        removals.index_add_(0, loser, keep[winner].int())
        if torch.equal(keep, removals == 0):
            return order[keep]
        keep = removals == 0


def inside_range(boxes: Tensor, limits: Tensor | Sequence[float], all_corners: bool = True) -> Tensor:
    """Which boxes lie inside an axis-aligned range, bounds included.

    Args:
        boxes: (N, 7).
        limits: (6,) x_min, y_min, z_min, x_max, y_max, z_max, metres.
        all_corners: every corner has to lie inside; otherwise the centre is enough.

    Returns:
        (N,) bool.
    """
    positions = corners_3d(boxes) if all_corners else boxes[:, None, :3]
    bounds = torch.as_tensor(limits, dtype=boxes.dtype, device=boxes.device)
    return ((positions >= bounds[:3]) & (positions <= bounds[3:])).flatten(1).all(dim=1)


def _near_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column indices (K,) of the pairs whose circumscribed circles touch."""
    reach = a[:, 3:5].norm(dim=1)[:, None] / 2 + b[:, 3:5].norm(dim=1) / 2
    dx, dy = a[:, 0:1] - b[:, 0], a[:, 1:2] - b[:, 1]
    rows, columns = torch.nonzero(dx * dx + dy * dy <= reach * reach, as_tuple=True)
    return rows, columns


def _area(boxes: Tensor) -> Tensor:
    return boxes[:, 3] * boxes[:, 4]


def _intersection_bev(a: Tensor, b: Tensor) -> Tensor:
    """Areas shared by the footprints of K pairs of boxes, both (K, 7) float64.

    In the frame of `a` its footprint is R = [-l/2, l/2] x [-w/2, w/2]. By Green's theorem the area of R that lies
    inside the polygon of `b` is the sum over b's edges of the integral of clamp(x, -l/2, l/2) dy over the part of the
    edge where |y| <= w/2. There are no vertices to find, sort or merge, and the integral is continuous in the boxes,
    so shared edges, contained and empty boxes are no special cases. (Our own derivation.)
    """
    turned = b.clone()
    cos, sin = a[:, 6].cos(), a[:, 6].sin()
    dx, dy = b[:, 0] - a[:, 0], b[:, 1] - a[:, 1]
    turned[:, 0], turned[:, 1] = dx * cos + dy * sin, dy * cos - dx * sin
    turned[:, 6] = b[:, 6] - a[:, 6]
    start = corners_bev(turned)
    end = start.roll(-1, dims=1)
    half = a[:, None, 3:5] / 2

    y_first, y_last = (torch.clamp(point[..., 1], -half[..., 1], half[..., 1]) for point in (start, end))
    x_first, x_last = (_interpolate(y, start, end) for y in (y_first, y_last))
    # On the part with |y| <= w/2 the clamped x is linear between the crossings of x = -l/2 and x = +l/2.
    run = x_last - x_first
    crossings = torch.stack([_fraction(side * half[..., 0] - x_first, run) for side in (-1, 1)])
    early, late = crossings.amin(dim=0), crossings.amax(dim=0)
    at = (torch.zeros_like(early), early, late, torch.ones_like(late))
    x = [torch.clamp(x_first + fraction * run, -half[..., 0], half[..., 0]) for fraction in at]
    mean_x = sum(((at[i + 1] - at[i]) * (x[i + 1] + x[i]) for i in range(3)), start=torch.zeros_like(early)) / 2
    return (mean_x * (y_last - y_first)).sum(dim=1).clamp_min(0)


def _interpolate(y: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """x at height y of the edges from `start` to `end`, both (K, 4, 2); a level edge gives its start."""
    fraction = _fraction(y - start[..., 1], end[..., 1] - start[..., 1])
    return start[..., 0] + fraction * (end[..., 0] - start[..., 0])


def _fraction(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole limited to [0, 1]; 0 where `whole` is 0."""
    return torch.where(whole == 0, 0.0, part / whole).clamp(0, 1)


def _scatter_iou(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor, overlap: Tensor, total: Tensor) -> Tensor:
    """(N, M) matrix, zero but for overlap / (total - overlap) at the K given pairs."""
    union = total - overlap
    iou = torch.where(union > 0, overlap / union, 0.0).clamp(0, 1)
    matrix = torch.zeros((len(a), len(b)), dtype=torch.promote_types(a.dtype, b.dtype), device=a.device)
    matrix[rows, columns] = iou.to(matrix.dtype)
    return matrix


def in_world(boxes: Float64, T_world_ego: Float64) -> Float64:
    """Boxes in the world: centres moved by the whole transform, headings turned with it, and upright there, too.

    Args:
        boxes: (N, 7) in the ego's frame.
        T_world_ego: (4, 4).
    """
    ahead = np.column_stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), np.zeros(len(boxes))])
    turned = ahead @ T_world_ego[:3, :3].T
    centres = boxes[:, :3] @ T_world_ego[:3, :3].T + T_world_ego[:3, 3]
    return np.column_stack([centres, boxes[:, 3:6], np.arctan2(turned[:, 1], turned[:, 0])])
