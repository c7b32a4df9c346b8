"""Losses that heads and confidence share.

Of several processes each gets its share of a batch and gives its share of the loss: a sum is divided by the number of
objects, cells or maps of the whole batch (`distributed.all_reduce_detached`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from heatv2x.core.distributed import all_reduce_count, all_reduce_detached


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
    return loss.sum() / all_reduce_detached(centres.sum()).clamp(min=1)


def weighted_smooth_l1(prediction: Tensor, target: Tensor, weight: Tensor, beta: float = 0.1) -> Tensor:
    """Smooth L1 over the rows that carry weight.

    Args:
        prediction, target: (N, F).
        weight: (N,).

    Returns:
        A scalar: mean over the weight, summed over the F features.
    """
    loss = functional.smooth_l1_loss(prediction, target, beta=beta, reduction="none").sum(dim=1)
    return (loss * weight).sum() / all_reduce_detached(weight.sum()).clamp(min=1)


def sigmoid_focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss per entry (Lin et al. 2017, eq. 5).

    Args:
        logits: any shape.
        target: same shape, 1 for objects, 0 otherwise.
    """
    probability = logits.sigmoid()
    missed = target * (1 - probability) + (1 - target) * probability
    weight = (target * alpha + (1 - target) * (1 - alpha)) * missed**gamma
    return weight * functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def softmax_focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss over classes, here depth bins (Reading et al. 2021, CaDDN, sec. 3.2).

    Args:
        logits: (M, D, ...).
        target: (M, ...) int64 class of each entry.

    Returns:
        (M, ...) loss per entry.
    """
    log_probability = logits.log_softmax(dim=1).gather(1, target[:, None])[:, 0]
    return -alpha * (1 - log_probability.exp()) ** gamma * log_probability


def pyramid_foreground(
    levels: Sequence[Tensor], positive: Tensor, negative: Tensor, weights: Sequence[float] = (0.4, 0.2, 0.1)
) -> Tensor:
    """Focal loss of foreground on every level of a pyramid (HEAL, Lu et al. 2024), positive cells twice.

    A coarser cell is positive if one below it is, negative if all below it are. Each level is divided by the positive
    cells of its map (at least 1), averaged over the maps and weighted.

    Args:
        levels: logits (N, 1, Y / f, X / f), f = 1, 2, 4, ...
        positive, negative: (N, Y, X) bool; what is neither does not count.
        weights: of the levels, at least as many; what is over is not used.

    Returns:
        A scalar.
    """
    terms = []
    for logits, weight in zip(levels, weights[: len(levels)], strict=True):
        factor = positive.shape[-1] // logits.shape[-1]
        here = functional.max_pool2d(positive[:, None].float(), factor).to(logits.device)
        nothing = 1 - functional.max_pool2d(1 - negative[:, None].float(), factor).to(logits.device)
        share = 1 / here.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
        loss = sigmoid_focal(logits.float(), here) * (2 * here + nothing) * share
        terms.append(weight * loss.sum() / all_reduce_count(len(logits)))
    return torch.stack(terms).sum()
