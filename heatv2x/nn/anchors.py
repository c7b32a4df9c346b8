"""Anchor boxes on a grid: which object each stands for, and how a box is described relative to its anchor.

Two anchors per cell, along x and along y (Lang et al. 2019, PointPillars). Assignment, order and normalisation are
those of OpenCOOD and HEAL as public documentation describes them, so that their weights mean the same here.

Shapes: A anchors, row by row, in a row cell by cell, in a cell along x before along y; N boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from heatv2x.geometry import corners_bev, wrap_angle
from heatv2x.grid import BevGrid

YAWS = (0.0, math.pi / 2)
BOX_TERMS = 7  # dx, dy, dz, log height, log width, log length, yaw: HEAL's order
_FRONT = 0.7853  # where the two directions are told apart: just under pi / 4, as published


@dataclass
class Assignment:
    """What each anchor stands for; anchors that are neither positive nor negative do not count.

    Attributes:
        positive: (A,) bool, it stands for an object.
        negative: (A,) bool, it stands for nothing.
        matched: (A,) int64 index of its box, -1 where not positive.
    """

    positive: Tensor
    negative: Tensor
    matched: Tensor


def anchors_of(grid: BevGrid, size: tuple[float, float, float], z: float) -> Tensor:
    """(A, 7) float32 boxes, two at every cell centre of a grid.

    Args:
        size: length, width, height in metres.
        z: height of their centres, metres.
    """
    centres = grid.centres().reshape(-1, 1, 2).expand(-1, len(YAWS), 2)
    anchors = torch.empty(len(centres), len(YAWS), 7, dtype=torch.float64)
    anchors[..., :2] = centres
    anchors[..., 2:6] = torch.tensor([z, *size], dtype=torch.float64)
    anchors[..., 6] = torch.tensor(YAWS, dtype=torch.float64)
    return anchors.reshape(-1, 7).float()


def upright_iou(first: Tensor, second: Tensor) -> Tensor:
    """(N, M) overlap of axis-aligned rectangles (N, 4) and (M, 4) x_min, y_min, x_max, y_max.

    By the rule of pixels: every side counts one unit (here a metre) more than it is long. That is a slip of the field's
    code for metric boxes, and the published thresholds are made for it.
    """
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low + 1).clamp(min=0).prod(dim=-1)
    area, other = ((boxes[:, 2:] - boxes[:, :2] + 1).prod(dim=-1) for boxes in (first, second))
    return shared / (area[:, None] + other[None] - shared)


def upright(boxes: Tensor) -> Tensor:
    """(N, 4) x_min, y_min, x_max, y_max of the footprints of (N, 7) boxes, float32."""
    corners = corners_bev(boxes.float())
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def assign(anchors: Tensor, boxes: Tensor, positive: float, negative: float) -> Assignment:
    """Which box each anchor stands for.

    Positive: the overlap with some box is above `positive`; besides, every box claims the anchor that overlaps it most
    (the first of several). Negative: all overlaps are below `negative`, and no box claims it. Of several boxes the
    lowest index wins, an overlap above the threshold before a claim.

    Args:
        anchors: (A, 7).
        boxes: (N, 7).
    """
    count = len(anchors)
    matched = torch.full((count,), -1, dtype=torch.long, device=anchors.device)
    if len(boxes) == 0:
        return Assignment(matched >= 0, matched < 0, matched)
    overlap = upright_iou(upright(anchors), upright(boxes))
    best, claimed = overlap.max(dim=0)
    for index in reversed(range(len(boxes))):
        if best[index] > 0:
            matched[claimed[index]] = index
    far = (overlap < negative).all(dim=1) & (matched < 0)
    above = overlap > positive
    matched = torch.where(above.any(dim=1), above.int().argmax(dim=1), matched)
    return Assignment(matched >= 0, far, matched)


def encode_terms(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(N, 7) terms that describe (N, 7) boxes relative to their anchors (N, 7).

    Offsets in x and y over the anchor's diagonal, in z over its height, logarithms of height, width and length ratios,
    difference in yaw.
    """
    diagonal = anchors[:, 3:5].norm(dim=1, keepdim=True)
    offset = (boxes[:, :2] - anchors[:, :2]) / diagonal
    height = (boxes[:, 2:3] - anchors[:, 2:3]) / anchors[:, 5:6]
    sizes = (boxes[:, 3:6] / anchors[:, 3:6]).log().flip(1)
    return torch.cat([offset, height, sizes, boxes[:, 6:7] - anchors[:, 6:7]], dim=1)


def decode_terms(terms: Tensor, anchors: Tensor) -> Tensor:
    """(N, 7) boxes from (N, 7) terms at the given (N, 7) anchors; inverse of `encode_terms`."""
    diagonal = anchors[:, 3:5].norm(dim=1, keepdim=True)
    centre = terms[:, :2] * diagonal + anchors[:, :2]
    z = terms[:, 2:3] * anchors[:, 5:6] + anchors[:, 2:3]
    sizes = terms[:, 3:6].flip(1).exp() * anchors[:, 3:6]
    return torch.cat([centre, z, sizes, terms[:, 6:7] + anchors[:, 6:7]], dim=1)


def direction_of(yaw: Tensor) -> Tensor:
    """0 or 1 for every yaw: which half of the circle it points into."""
    return (wrap_angle(yaw - _FRONT, 2 * math.pi, 0.0) / math.pi).floor().long().clamp(0, 1)


def with_direction(yaw: Tensor, direction: Tensor) -> Tensor:
    """The yaw turned by half a circle where that is needed to point into the given half; in [-pi, pi)."""
    return wrap_angle(wrap_angle(yaw - _FRONT, math.pi, 0.0) + _FRONT + math.pi * direction)
