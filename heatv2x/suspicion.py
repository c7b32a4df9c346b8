"""Received messages that an ego should not simply believe.

`message.Limits` refuses what cannot be true at all. Here a message is held against the ego's own view: a sender too far
away to share any ground, or of another time, has nothing to say; a feature that stands out from the ego's own (a broken
encoder, other weights under the same name, an attacker) is tried before it is used, and left out if the ego's own
confident detections do not survive it. An attacker who stays within the ordinary is not stopped by this. Our own
design; the thresholds are beyond what honest agents of the shipped types, cameras among them, reach on a generated
test split: at most 4.5, 1.9 and 2.1 times the ego's.

Shapes: C channels, Y X shared grid, N boxes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from heatv2x.geometry import rotated_iou_bev
from heatv2x.grid import BevGrid
from heatv2x.message import Message
from heatv2x.structures import Boxes3D

MAX_AGE_S = 10.0
"""Messages that are older are of no use, and neither are those that come from the future by as much."""
_POINTS_REACH_M = 330.0  # as far as a message's points lie from their sender
_LARGEST, _MEAN, _BRIGHTEST_CELL = 8.0, 2.5, 3.0  # times the ego's own
_CONFIDENT = 0.5  # detections of the ego that a message must not cost it
_LOST_SHARE = 0.1  # of them, beyond one, that an honest message may move


def concerns(ego: Message, message: Message, grid: BevGrid) -> bool:
    """Whether a message is of this time, and of ground that the ego sees, too.

    Boxes alone may come from a sender with a larger grid; those that lie on the ego's are picked later.
    """
    if abs(ego.captured_us - message.captured_us) > MAX_AGE_S * 1e6:
        return False
    if message.feature is None and message.points is None:
        return True
    reach = math.hypot(max(-grid.x_min, grid.x_max), max(-grid.y_min, grid.y_max))
    reach += _POINTS_REACH_M if message.points is not None else reach
    return ego.pose.planar_distance(message.pose) <= reach


def stands_out(feature: Tensor, own: Tensor) -> bool:
    """Whether a (C, Y, X) feature is out of proportion to the ego's own, as a whole or anywhere."""
    theirs, ours = _size(feature), _size(own)
    return bool((theirs > ours * theirs.new_tensor([_LARGEST, _MEAN, _BRIGHTEST_CELL])).any())


def _size(feature: Tensor) -> Tensor:
    """(3,) largest value, mean, and mean of the brightest cell, of absolute values."""
    amount = feature.abs()
    return torch.stack([amount.amax(), amount.mean(), amount.mean(dim=0).amax()])


def survives(alone: Boxes3D, fused: Boxes3D) -> bool:
    """Whether the ego's own confident detections are still there among the fused ones."""
    assert alone.scores is not None
    sure = alone[alone.scores >= _CONFIDENT]
    if len(sure) == 0:
        return True
    if len(fused) == 0:
        return False
    overlap = rotated_iou_bev(torch.from_numpy(sure.boxes), torch.from_numpy(fused.boxes)).amax(dim=1)
    return int((overlap < 0.3).sum()) <= 1 + _LOST_SHARE * len(sure)
