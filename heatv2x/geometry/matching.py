"""Which detections find which labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from heatv2x.geometry.boxes import rotated_iou_bev
from heatv2x.structures import Bool, Boxes3D, Float32, Int64

FOUND_FROM_IOU = 0.5


@dataclass(frozen=True)
class Judged:
    """Detections beside labels.

    Attributes:
        detections: those that were judged, best first.
        truth: the labels.
        label: (D,) row of the label that a detection finds, -1 for a false alarm.
        overlap: (D,) overlap with the label it finds, or else with the nearest one, seen from above.
    """

    detections: Boxes3D
    truth: Boxes3D
    label: Int64
    overlap: Float32

    @property
    def hit(self) -> Bool:
        """(D,) which detections are right."""
        return self.label >= 0

    @property
    def missed(self) -> Bool:
        """(G,) which labels no detection found."""
        missed = np.ones(len(self.truth), bool)
        missed[self.label[self.hit]] = False
        return missed


def judge(detections: Boxes3D, truth: Boxes3D, min_score: float = 0.0) -> Judged:
    """Which detections are right: best score first, each takes the label it overlaps most among those still free.

    Args:
        detections: with scores, in the same frame as the labels.
        truth: the labels.
        min_score: detections with less do not count.
    """
    assert detections.scores is not None
    order = np.argsort(-detections.scores, kind="stable")
    judged = detections[order[detections.scores[order] >= min_score]]
    overlaps = rotated_iou_bev(torch.from_numpy(judged.boxes), torch.from_numpy(truth.boxes)).numpy()
    label, overlap = np.full(len(judged), -1), np.zeros(len(judged), np.float32)
    free = np.ones(len(truth), bool)
    for row in range(len(judged) if len(truth) else 0):
        best = int(np.argmax(np.where(free, overlaps[row], -1.0)))
        if free[best] and overlaps[row, best] >= FOUND_FROM_IOU:
            label[row], free[best] = best, False
            overlap[row] = overlaps[row, best]
        else:
            overlap[row] = overlaps[row].max()
    return Judged(judged, truth, label, overlap)
