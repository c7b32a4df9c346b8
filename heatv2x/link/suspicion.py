"""Received messages that an ego should not simply believe.

`link.limits` refuses what cannot be true at all. Here a message is held against the ego's own view: a sender too far
away to share any ground, or of another time, has nothing to say; and a message that costs the ego what it detects by
itself is left out. Boxes and points are always judged by that. Of features only those are that stand out from the ego's
own (a broken encoder, other weights under the same name, an attacker), since judging takes another pass of neck and
head: in size, beyond what honest agents of the shipped types, cameras among them, reach on a generated test split (4.5,
1.9 and 2.1 times the ego's), or flat as no scene is. An attacker who stays within the ordinary is not stopped by this.
Our own design.

Shapes: C channels, Y X shared grid, N boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heatv2x.geometry.boxes import rotated_iou_bev
from heatv2x.geometry.grid import BevGrid
from heatv2x.link.message import Message
from heatv2x.structures import Bool, Boxes3D, Float32

MAX_AGE_S = 10.0
"""Messages older than this are useless, and so are those from further than this in the future."""
_POINTS_REACH_M = 330.0  # as far as a message's points lie from their sender
_LARGEST, _MEAN, _BRIGHTEST_CELL, _FLAT = 8.0, 2.5, 3.0, 2.0  # times the ego's own; the last one is a divisor
_BELIEVED = 0.3  # detections of the ego with such a score are worth defending


@dataclass(frozen=True)
class Loss:
    """What messages may cost an ego of its own detections, as shares of their summed scores.

    Honest messages move boxes, and remove false ones. The limits are beyond what they do on a generated validation
    split, with poses exact and off by up to a metre and a degree (in brackets the largest share seen).

    Attributes:
        gone: believed detections that nothing overlaps by 0.3 any more.
        moved: believed detections that nothing overlaps by 0.5 any more.
        faint: all detections, those that are hardly believed too, that nothing overlaps by 0.5 any more.
    """

    gone: float
    moved: float
    faint: float = 1.0


LOSSES = {
    "boxes": Loss(gone=0.05, moved=0.28, faint=0.18),  # 0.00, 0.27, 0.17
    "features": Loss(gone=0.14, moved=0.24),  # 0.13, 0.23
    "points": Loss(gone=0.3, moved=0.5),  # 0.29, 0.48
}
"""By what is exchanged."""


def concerns(ego: Message, message: Message, grid: BevGrid) -> bool:
    """Whether a message is recent and covers ground that the ego sees, too.

    Boxes alone may come from a sender with a larger grid; those that lie on the ego's are picked later.
    """
    if abs(ego.captured_us - message.captured_us) > MAX_AGE_S * 1e6:
        return False
    if message.map is None and message.points is None:
        return True
    reach = math.hypot(max(-grid.x_min, grid.x_max), max(-grid.y_min, grid.y_max))
    reach += _POINTS_REACH_M if message.points is not None else reach
    return ego.pose.planar_distance(message.pose) <= reach


def stands_out(feature: Tensor, own: Tensor) -> bool:
    """Whether a (C, Y, X) feature is out of proportion to the ego's own, overall or anywhere, or is flat."""
    theirs, ours = _size(feature), _size(own)
    large = (theirs[:3] > ours[:3] * theirs.new_tensor([_LARGEST, _MEAN, _BRIGHTEST_CELL])).any()
    return bool(large | (theirs[3] * _FLAT < ours[3]))


def _size(feature: Tensor) -> Tensor:
    """(4,) largest value, mean, mean of the brightest cell, and that over the mean; of absolute values."""
    amount = feature.abs()
    mean, brightest = amount.mean(), amount.mean(dim=0).amax()
    return torch.stack([amount.amax(), mean, brightest, brightest / mean.clamp(min=1e-12)])


def survives(alone: Boxes3D, fused: Boxes3D, loss: Loss) -> bool:
    """Whether the ego keeps enough of its own detections when it hears others."""
    assert alone.scores is not None
    overlap = np.zeros(len(alone))
    if len(alone) and len(fused):
        pairs = rotated_iou_bev(torch.from_numpy(alone.boxes), torch.from_numpy(fused.boxes))
        overlap = pairs.amax(dim=1).numpy()
    believed = alone.scores >= _BELIEVED
    return (
        _share(alone.scores[believed], overlap[believed] < 0.3) <= loss.gone
        and _share(alone.scores[believed], overlap[believed] < 0.5) <= loss.moved
        and _share(alone.scores, overlap < 0.5) <= loss.faint
    )


def _share(scores: Float32, lost: Bool) -> float:
    return float(scores[lost].sum() / scores.sum()) if scores.sum() > 0 else 0.0
