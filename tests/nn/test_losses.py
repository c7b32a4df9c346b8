"""The losses against their formulas, written out cell by cell."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from heatv2x.nn.losses import heatmap_focal, pyramid_foreground, sigmoid_focal, weighted_smooth_l1


def focal_by_hand(logits: list[float], target: list[float], weight: list[float] | None = None) -> float:
    loss, centres = 0.0, 0
    for i, (logit, t) in enumerate(zip(logits, target, strict=True)):
        w = 1.0 if weight is None else weight[i]
        p = min(max(1 / (1 + math.exp(-logit)), 1e-4), 1 - 1e-4)
        loss += w * (-math.log(p) * (1 - p) ** 2 if t == 1 else -math.log(1 - p) * p**2 * (1 - t) ** 4)
        centres += t == 1 and w > 0
    return loss / max(centres, 1)


@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 1.0, 1.0, 0.0], [0.0] * 5])
def test_focal_by_hand(weight: list[float] | None) -> None:
    logits, target = [2.0, -1.0, 0.5, -30.0, 30.0], [1.0, 1.0, 0.6, 0.0, 0.2]
    loss = heatmap_focal(torch.tensor(logits), torch.tensor(target), None if weight is None else torch.tensor(weight))
    assert float(loss) == pytest.approx(focal_by_hand(logits, target, weight), rel=1e-4)


def test_focal_without_objects_is_finite_and_falls_with_silence() -> None:
    nothing = torch.zeros(1, 1, 8, 8)
    loud, quiet = (heatmap_focal(torch.full_like(nothing, logit), nothing) for logit in (3.0, -6.0))
    assert loud.isfinite() and float(quiet) < 1e-3 < float(loud)


def test_focal_has_a_gradient_at_both_ends() -> None:
    logits = torch.tensor([-8.0, 8.0], requires_grad=True)
    heatmap_focal(logits, torch.tensor([1.0, 0.0])).backward()
    assert logits.grad is not None and logits.grad[0] < 0 < logits.grad[1]


def test_smooth_l1_by_hand() -> None:
    prediction = torch.tensor([[0.0, 1.0], [0.05, 0.0], [9.0, 9.0]])
    target = torch.zeros(3, 2)
    weight = torch.tensor([1.0, 0.5, 0.0])
    rows = [1.0 - 0.05, 0.05**2 / (2 * 0.1)]
    loss = weighted_smooth_l1(prediction, target, weight)
    assert float(loss) == pytest.approx((rows[0] + 0.5 * rows[1]) / 1.5, rel=1e-5)


def test_smooth_l1_of_nothing_is_zero() -> None:
    loss = weighted_smooth_l1(torch.zeros(0, 8, requires_grad=True), torch.zeros(0, 8), torch.zeros(0))
    loss.backward()
    assert float(loss.detach()) == 0


def test_the_focal_loss_of_the_reference(golden: Path) -> None:
    with np.load(golden / "j_loss.npz") as vectors:
        logits, target, wanted = (torch.from_numpy(vectors[f"focal{part}"]) for part in ("_logit", "_target", ""))
    torch.testing.assert_close(sigmoid_focal(logits.double(), target), wanted, rtol=1e-5, atol=1e-7)


def test_foreground_of_a_pyramid_is_the_references(golden: Path) -> None:
    with np.load(golden / "j_loss.npz") as vectors:
        levels = [torch.from_numpy(vectors[f"occ{level}"]).requires_grad_() for level in range(3)]
        gradients = [torch.from_numpy(vectors[f"grad_occ{level}"]) for level in range(3)]
        positive = torch.from_numpy(vectors["pos"] > 0).any(dim=-1)
        negative = torch.from_numpy(vectors["neg"] > 0).all(dim=-1)
        wanted = float(vectors["pyramid_loss_single_suffix"])
    loss = pyramid_foreground(levels, positive, negative)
    assert float(loss.detach()) == pytest.approx(wanted, rel=2e-6)
    loss.backward()
    for logits, gradient in zip(levels, gradients, strict=True):
        torch.testing.assert_close(logits.grad, gradient, rtol=1e-4, atol=1e-6)
