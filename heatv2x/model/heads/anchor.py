"""Anchor head: a score, a box and a direction for two anchors per cell (SECOND, Yan et al. 2018; as HEAL uses it).

The default is a head for our own models; with `hidden=0` and `largest_m`, `z_range` and `whole` set (`PUBLISHED`) it is
the head of OpenCOOD and HEAL, parameter for parameter.

Shapes: B scenes, C channels, Y X shared grid, A anchors, N boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.core import config
from heatv2x.core.distributed import all_reduce_count
from heatv2x.geometry.boxes import corners_3d, inside_range, nms, wrap_angle
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.heads.base import Detections, Head, no_detections
from heatv2x.nn.anchors import (
    BOX_TERMS,
    YAWS,
    AnchorAssignment,
    anchors_of,
    assign,
    decode_terms,
    direction_of,
    encode_terms,
    with_direction,
)
from heatv2x.nn.losses import sigmoid_focal
from heatv2x.nn.residual import conv_block

PUBLISHED = {"hidden": 0, "largest_m": 6.0, "z_range": (-3.0, 1.0), "whole": True}
_BOX_WEIGHT, _DIRECTION_WEIGHT, _POSITIVE_WEIGHT = 2.0, 0.2, 2.0  # HEAL
_MAPS = ("score", "box", "direction")
_FRONT_LOGIT = 3.0  # of a received box's direction: it has one, but whoever saw it may have been wrong
_KNEE = 1 / 9  # of smooth L1, sigma 3 in SECOND's notation


@dataclass
class AnchorTargets:
    """What the maps of B scenes should say.

    Attributes:
        positive, negative: (B, A) float32, 1 where an anchor counts as such.
        terms: (B, A, 7) box terms of the positive anchors, 0 elsewhere.
    """

    positive: Tensor
    negative: Tensor
    terms: Tensor


class Anchor(Head):
    """Two anchors per cell of the shared grid."""

    source = "SECOND, Yan et al. 2018; as in HEAL, arXiv 2401.13964"
    terms = BOX_TERMS + 2

    class Config(config.Config):
        """Attributes:
        size: length, width, height of the anchors, metres.
        z: height of their centres, metres.
        positive_iou, negative_iou: thresholds of the assignment, see `nn.anchors.assign`.
        hidden: channels of a convolution before the outputs; 0 leaves it out, as published.
        prior: object probability that the scores start at.
        score_threshold: detections below it are dropped.
        nms_iou: boxes that overlap a better one by more than this are dropped.
        max_detections: detections kept per scene before suppression.
        largest_m: boxes longer than this along x or y are dropped; None keeps all. Published: 6.
        z_range: boxes that reach below or above it, metres, are dropped; None keeps all. Published: -3 to 1.
        whole: drop boxes that are not wholly on the grid, as published.
        """

        size: tuple[float, float, float] = (3.9, 1.6, 1.56)
        z: float = -1.0
        positive_iou: float = 0.6
        negative_iou: float = 0.45
        hidden: int = 48
        prior: float = 0.01
        score_threshold: float = 0.2
        nms_iou: float = 0.15
        max_detections: int = 1000
        largest_m: float | None = None
        z_range: tuple[float, float] | None = None
        whole: bool = False

    def __init__(self, config: Anchor.Config, channels: int, grid: BevGrid) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        wide = config.hidden or channels
        self.hidden = conv_block(channels, wide) if config.hidden else nn.Identity()
        self.score = nn.Conv2d(wide, len(YAWS), 1)
        self.box = nn.Conv2d(wide, BOX_TERMS * len(YAWS), 1)
        self.direction = nn.Conv2d(wide, 2 * len(YAWS), 1)
        assert self.score.bias is not None
        nn.init.constant_(self.score.bias, -math.log((1 - config.prior) / config.prior))

    def forward(self, feature: Tensor) -> dict[str, Tensor]:
        """{"score": (B, 2, Y, X), "box": (B, 14, Y, X), "direction": (B, 4, Y, X)} from (B, C, Y, X).

        Channels go anchor by anchor.
        """
        hidden = self.hidden(feature)
        return {"score": self.score(hidden), "box": self.box(hidden), "direction": self.direction(hidden)}

    def loss(
        self, maps: dict[str, Tensor], boxes: Sequence[Tensor], grids: Sequence[BevGrid], margin: int = 0
    ) -> dict[str, Tensor]:
        """{"score", "box", "direction"} losses."""
        return anchor_losses(maps, self.targets(boxes, grids, margin, maps["score"].device))

    def targets(
        self, boxes: Sequence[Tensor], grids: Sequence[BevGrid], margin: int = 0, device: torch.device | None = None
    ) -> AnchorTargets:
        """What the maps should say; see `loss` for the arguments.

        Args:
            device: where to compute; by default where the boxes are.
        """
        assigned = self._assigned(boxes, grids, device)
        rows, columns = grids[0].shape
        inner = torch.zeros(rows, columns, len(YAWS), device=assigned.positive.device)
        inner[margin : rows - margin, margin : columns - margin] = 1
        each = {grid: self._anchors(grid) for grid in set(grids)}
        anchors = torch.stack([each[grid] for grid in grids]).to(inner.device)
        return AnchorTargets(
            assigned.positive * inner.flatten(), assigned.negative * inner.flatten(), box_terms(assigned, anchors)
        )

    def foreground(
        self, boxes: Sequence[Tensor], grid: BevGrid, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, Y, X) bool: one of the cell's anchors is positive; all of them are negative."""
        assigned = self._assigned(boxes, [grid] * len(boxes), device)
        shape = (len(boxes), *grid.shape, len(YAWS))
        return assigned.positive.view(shape).any(dim=-1), assigned.negative.view(shape).all(dim=-1)

    @torch.no_grad()
    def decode(self, maps: dict[str, Tensor], grid: BevGrid) -> list[Detections]:
        """Anchors with a score, their boxes and directions, rotated suppression."""
        anchors = self._anchors(grid).to(maps["score"].device)
        score, terms, direction = (per_anchor(maps[name].float()) for name in _MAPS)
        probability = score[..., 0].sigmoid()
        found = []
        for scene in range(len(probability)):
            index = torch.nonzero(probability[scene] > self.config.score_threshold)[:, 0]
            found.append(
                self._boxes(
                    probability[scene, index], terms[scene, index], direction[scene, index], anchors[index], grid
                )
            )
        return found

    def _boxes(self, scores: Tensor, terms: Tensor, direction: Tensor, anchors: Tensor, grid: BevGrid) -> Detections:
        config = self.config
        boxes = decode_terms(terms, anchors)
        boxes[:, 6] = with_direction(boxes[:, 6], direction.argmax(dim=1))
        possible = self._possible(boxes)
        boxes, scores = boxes[possible], scores[possible]
        if len(boxes) == 0:
            return no_detections(scores.device)
        keep = nms(boxes, scores, config.nms_iou, config.max_detections)
        boxes, scores = boxes[keep], scores[keep]
        if config.whole:
            low, high = config.z_range or (-math.inf, math.inf)
            inside = inside_range(boxes, (grid.x_min, grid.y_min, low, grid.x_max, grid.y_max, high))
            boxes, scores = boxes[inside], scores[inside]
        return Detections(boxes, scores)

    def _possible(self, boxes: Tensor) -> Tensor:
        """(N,) bool, boxes that are neither too large nor too low or high."""
        corners = corners_3d(boxes)
        low, high = corners.amin(dim=1), corners.amax(dim=1)
        keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
        if self.config.largest_m is not None:
            keep &= ((high - low)[:, :2] <= self.config.largest_m).all(dim=1)
        if self.config.z_range is not None:
            keep &= (low[:, 2] >= self.config.z_range[0]) & (high[:, 2] <= self.config.z_range[1])
        return keep

    def slots_of(self, boxes: Tensor, grid: BevGrid) -> Tensor:
        """(N, 9) anchors around each centre, of the two on a cell the one that the box lies along."""
        (rows, columns), middle = grid.shape, boxes.new_tensor([grid.y_min, grid.x_min])
        offset = torch.arange(-1, 2, device=boxes.device)
        place = torch.floor((boxes[:, [1, 0]] - middle) / grid.cell).long()[:, None]
        place = place + torch.cartesian_prod(offset, offset)
        row, column = place.unbind(dim=-1)
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        across = (boxes[:, 6].sin().abs() > boxes[:, 6].cos().abs()).long()[:, None]
        return torch.where(inside, (row * columns + column) * len(YAWS) + across, -1)

    def cells_of(self, slots: Tensor, grid: BevGrid) -> Tensor:
        cell, columns = slots // len(YAWS), grid.shape[1]
        return torch.stack([cell // columns, cell % columns], dim=1)

    def terms_of(self, boxes: Tensor, slots: Tensor, grid: BevGrid) -> Tensor:
        """(P, 9) box terms, the yaw without its front, and logits of the two directions."""
        terms = encode_terms(boxes, self._anchors(grid).to(boxes.device)[slots])
        terms[:, 6] = wrap_angle(terms[:, 6], math.pi)
        front = functional.one_hot(direction_of(boxes[:, 6]), 2).to(terms)
        return torch.cat([terms, _FRONT_LOGIT * (2 * front - 1)], dim=1)

    def read(self, maps: dict[str, Tensor], scenes: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        score, terms, direction = (per_anchor(maps[name])[scenes, slots].float() for name in _MAPS)
        return score[:, 0], torch.cat([terms, direction], dim=1)

    def rewritten(
        self, maps: dict[str, Tensor], scenes: Tensor, slots: Tensor, logits: Tensor, terms: Tensor
    ) -> dict[str, Tensor]:
        new = dict(zip(_MAPS, (logits[:, None], *terms.tensor_split([BOX_TERMS], dim=1)), strict=True))
        changed = {}
        for name, values in new.items():
            rows = per_anchor(maps[name].float()).index_put((scenes, slots), values)
            batch, _, height, width = maps[name].shape
            split = rows.view(batch, height, width, len(YAWS), -1).permute(0, 3, 4, 1, 2)
            changed[name] = split.reshape_as(maps[name])
        return changed

    def _anchors(self, grid: BevGrid) -> Tensor:
        return anchors_of(grid, self.config.size, self.config.z)

    def _assigned(
        self, boxes: Sequence[Tensor], grids: Sequence[BevGrid], device: torch.device | None
    ) -> AnchorAssignment:
        config = self.config
        return assign(grids, config.size, boxes, config.positive_iou, config.negative_iou, device)


def box_terms(assigned: AnchorAssignment, anchors: Tensor) -> Tensor:
    """(B, A, 7) terms of the positive anchors' boxes, 0 elsewhere.

    Args:
        assigned: of B scenes.
        anchors: (B, A, 7).
    """
    index = assigned.matched.clamp(min=0)[..., None].expand(-1, -1, BOX_TERMS)
    boxes = torch.where(assigned.positive[..., None], assigned.boxes.gather(1, index), anchors)
    return encode_terms(boxes.flatten(0, 1), anchors.flatten(0, 1)).view_as(anchors)


def per_anchor(maps: Tensor) -> Tensor:
    """(B, A, F) rows per anchor of (B, 2 F, Y, X) maps."""
    batch, channels, rows, columns = maps.shape
    split = maps.view(batch, len(YAWS), channels // len(YAWS), rows, columns)
    return split.permute(0, 3, 4, 1, 2).reshape(batch, -1, channels // len(YAWS))


def anchor_losses(maps: dict[str, Tensor], targets: AnchorTargets) -> dict[str, Tensor]:
    """Losses by name, HEAL's weights included.

    Scores: focal loss, positive anchors twice. Boxes: smooth L1 over positive anchors, of the yaw the sine of the
    difference. Directions: cross-entropy over positive anchors. Each is divided by the positive anchors of its scene
    (at least 1), then averaged over the scenes.
    """
    score, terms, direction = (per_anchor(maps[name].float()) for name in _MAPS)
    batch, positive = all_reduce_count(len(score)), targets.positive
    share = 1 / positive.sum(dim=1, keepdim=True).clamp(min=1)
    weight = (_POSITIVE_WEIGHT * positive + targets.negative) * share
    score_loss = (sigmoid_focal(score[..., 0], positive) * weight).sum()
    error = terms - targets.terms
    error = torch.cat([error[..., :6], error[..., 6:].sin()], dim=-1)
    distance = functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=_KNEE)
    box_loss = (distance.sum(dim=-1) * positive * share).sum()
    front = direction_of(targets.terms[..., 6] + _anchor_yaws(positive))
    entropy = functional.cross_entropy(direction.flatten(0, 1), front.flatten(), reduction="none").view_as(positive)
    direction_loss = (entropy * positive * share).sum()
    return {
        "score": score_loss / batch,
        "box": _BOX_WEIGHT * box_loss / batch,
        "direction": _DIRECTION_WEIGHT * direction_loss / batch,
    }


def _anchor_yaws(positive: Tensor) -> Tensor:
    """(A,) the yaw of every anchor."""
    return positive.new_tensor(YAWS).repeat(positive.shape[1] // len(YAWS))
