"""Anchor boxes on a grid: which object each stands for, and how a box is described relative to its anchor.

Two anchors per cell, along x and along y (Lang et al. 2019, PointPillars). Assignment, order and normalisation are
those of OpenCOOD and HEAL as public documentation describes them, so that their weights mean the same here.

Shapes: B scenes; A anchors, row by row, in a row cell by cell, in a cell along x before along y; N boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heatv2x.geometry.boxes import corners_bev, wrap_angle
from heatv2x.geometry.grid import BevGrid

YAWS = (0.0, math.pi / 2)
BOX_TERMS = 7  # dx, dy, dz, log height, log width, log length, yaw: HEAL's order
_FRONT = 0.7853  # where the two directions are told apart: just under pi / 4, as published


@dataclass
class AnchorAssignment:
    """What the anchors of B scenes stand for; anchors that are neither positive nor negative do not count.

    Attributes:
        positive: (B, A) bool, the anchor stands for an object.
        negative: (B, A) bool, the anchor stands for background.
        matched: (B, A) int64 index of its box among those of its scene, -1 where not positive.
        boxes: (B, N, 7) float32 boxes of the scenes, scenes with fewer are filled up with zeros.
    """

    positive: Tensor
    negative: Tensor
    matched: Tensor
    boxes: Tensor


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


@torch.no_grad()
def assign(
    grids: Sequence[BevGrid],
    size: tuple[float, float, float],
    boxes: Sequence[Tensor],
    positive: float,
    negative: float,
    device: torch.device | None = None,
) -> AnchorAssignment:
    """Which box each anchor stands for, for several scenes at once.

    Positive: the overlap with some box is above `positive`; besides, every box claims the anchor that overlaps it most
    (the first of several). Negative: all overlaps are below `negative`, and no box claims it. Of several boxes the
    lowest index wins, an overlap above the threshold before a claim.

    A box is compared with the anchors of a window around it, for it cannot reach any other; and as anchors stand on a
    lattice, the overlap along x depends on the column alone, that along y on the row. Nothing waits for the device as
    long as the boxes are on the CPU.

    Args:
        grids: B grids of one shape and cell.
        size: length, width, height of the anchors, metres.
        boxes: B tensors (N, 7).
        positive, negative: thresholds of the overlap.
        device: where to compute; by default where the boxes are.
    """
    rows, columns = grids[0].shape
    yaws, most = len(YAWS), max(1, *(len(rows_) for rows_ in boxes))
    here = boxes[0].device
    padded = torch.zeros(len(boxes), most, 7, device=here)
    for scene, each in enumerate(boxes):
        padded[scene, : len(each)] = each.float()
    there = torch.arange(most) < torch.tensor([len(each) for each in boxes])[:, None]
    target = upright(padded.flatten(0, 1)).view(len(boxes), most, 4)
    lines = [_lines(grid, size) for grid in grids]
    x_line, y_line = (torch.stack([line[axis] for line in lines]) for axis in (0, 1))
    x_place, x_inside = _window(padded[..., 0], target[..., 0::2], x_line, [g.x_min for g in grids], grids[0].cell)
    y_place, y_inside = _window(padded[..., 1], target[..., 1::2], y_line, [g.y_min for g in grids], grids[0].cell)
    place = device or here
    padded, there, target, x_line, y_line = (part.to(place) for part in (padded, there, target, x_line, y_line))
    x_place, x_inside, y_place, y_inside = (part.to(place) for part in (x_place, x_inside, y_place, y_inside))

    x_shared, x_long = _overlap(x_line, x_place, target[..., 0::2])
    y_shared, y_long = _overlap(y_line, y_place, target[..., 1::2])
    shared = y_shared[:, :, :, None] * x_shared[:, :, None]  # (B, N, rows of the window, its columns, yaws)
    area, other = y_long[:, :, :, None] * x_long[:, :, None], (target[..., 2:] - target[..., :2] + 1).prod(dim=-1)
    overlap = shared / (area + other[:, :, None, None, None] - shared)
    counts = there[:, :, None, None] & y_inside[:, :, :, None] & x_inside[:, :, None]
    overlap = overlap.masked_fill(~counts[..., None], -1.0).flatten(2)

    cell = y_place[:, :, :, None] * columns + x_place[:, :, None]
    anchor = (cell[..., None] * yaws + torch.arange(yaws, device=place)).flatten(1)  # (B, N M)
    none = torch.full((len(boxes), rows * columns * yaws), most, dtype=torch.long, device=place)
    index = torch.arange(most, device=place)[None, :, None]
    above = none.scatter_reduce(1, anchor, torch.where(overlap > positive, index, most).flatten(1), "amin")
    near = torch.zeros_like(none).scatter_reduce(1, anchor, (overlap >= negative).long().flatten(1), "amax")
    best, first = overlap.max(dim=2)
    claims = torch.where(best > 0, index[..., 0], most)
    claimed = none.scatter_reduce(1, anchor.view(*overlap.shape).gather(2, first[..., None])[..., 0], claims, "amin")
    matched = torch.where(above < most, above, claimed)
    found = matched < most
    return AnchorAssignment(found, (near == 0) & (claimed == most), matched.masked_fill(~found, -1), padded)


def _lines(grid: BevGrid, size: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """(X, yaws, 2) lowest and highest x of the anchors of every column, and (Y, yaws, 2) y of those of every row."""
    row = replace(grid, y_max=grid.y_min + grid.cell)
    column = replace(grid, x_max=grid.x_min + grid.cell)
    along, across = (upright(anchors_of(line, size, 0.0)).view(-1, len(YAWS), 4) for line in (row, column))
    return along[..., 0::2], across[..., 1::2]


def _window(centre: Tensor, reach: Tensor, line: Tensor, start: Sequence[float], cell: float) -> tuple[Tensor, Tensor]:
    """(B, N, W) places on a line of anchors that boxes can overlap, and which of them are on the line.

    Args:
        centre: (B, N) of the boxes.
        reach: (B, N, 2) where they begin and end.
        line: (B, L, yaws, 2) where the anchors begin and end.
        start: of the B lines.
        cell: distance of the anchors.
    """
    length = line.shape[1]
    half = float((reach[..., 1] - reach[..., 0]).max()) / 2 + float((line[..., 1] - line[..., 0]).max()) / 2
    cells = math.ceil((half + 1) / cell) + 1  # the rule of pixels lets a gap of a metre pass
    if 2 * cells + 1 >= length:
        place = torch.arange(length, device=centre.device).expand(*centre.shape, length)
    else:
        origin = torch.tensor(start, dtype=torch.float64, device=centre.device)[:, None]
        # far away boxes reach no anchor wherever their window lies; as integers they might overflow
        middle = ((centre.double() - origin) / cell).floor().clamp(-length, 2 * length).long()
        place = middle[..., None] + torch.arange(-cells, cells + 1, device=centre.device)
    return place.clamp(0, length - 1), (place >= 0) & (place < length)


def _overlap(line: Tensor, place: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, W, yaws) length that boxes share with the anchors at the given places, and the anchors' own length."""
    batch = torch.arange(len(line), device=line.device)[:, None, None]
    low, high = line[batch, place].unbind(dim=-1)
    first, last = reach[:, :, None, None].unbind(dim=-1)
    return (torch.minimum(high, last) - torch.maximum(low, first) + 1).clamp(min=0), high - low + 1


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
