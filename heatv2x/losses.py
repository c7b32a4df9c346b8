"""Losses that heads and confidence share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def heatmap_focal(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Penalty-reduced focal loss of centre heatmaps (Law and Deng 2018, eq. 1; Zhou et al. 2019), per object.

    Args:
        logits: any shape.
        target: same shape, 1 at object centres, a gaussian around them, 0 elsewhere.
        weight: same shape, 0 where a cell does not count.

    Returns:
        A scalar: the sum over cells divided by the number of centres (at least 1).
    """
    # clamped: beyond these ends the logarithm would dominate the batch
    probability = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    centres = target >= 0.999
    positive = -(probability.log()) * (1 - probability) ** 2
    negative = -((1 - probability).log()) * probability**2 * (1 - target) ** 4
    loss = torch.where(centres, positive, negative)
    if weight is not None:
        loss = loss * weight
        centres = centres & (weight > 0)
    return loss.sum() / centres.sum().clamp(min=1)


def weighted_smooth_l1(prediction: Tensor, target: Tensor, weight: Tensor, beta: float = 0.1) -> Tensor:
    """Smooth L1 over the rows that carry weight.

    Args:
        prediction, target: (N, F).
        weight: (N,).

    Returns:
        A scalar: mean over the weight, summed over the F features.
    """
    loss = functional.smooth_l1_loss(prediction, target, beta=beta, reduction="none").sum(dim=1)
    return (loss * weight).sum() / weight.sum().clamp(min=1)
