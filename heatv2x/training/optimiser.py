"""One step of an optimiser: gradients of one batch or of several, a learning rate on a schedule, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import pydantic
import torch
from torch import Tensor, nn

from heatv2x.core import distributed
from heatv2x.core.config import Config
from heatv2x.nn.move import in_precision
from heatv2x.training.stage import Stage


class OptimiserConfig(Config):
    """Attributes:
    steps: optimiser steps.
    lr: peak learning rate; rises over the first 15 % of the steps, then follows the schedule.
    schedule: "cosine" falls along half a cosine; "steps" falls to a tenth at each milestone.
    milestones: shares of the steps at which schedule=steps falls; the default is that of HEAL's base on OPV2V.
    accumulate: batches whose gradients make one step: the effect of a larger batch in the memory of a small one.
    ema: the packs hold a moving average of the weights with this decay, 0.999 for example; 0 takes the weights.
    weight_decay: AdamW's weight decay.
    clip: largest norm of the gradient.
    """

    steps: int = pydantic.Field(300, gt=0)
    lr: float = pydantic.Field(2e-3, gt=0)
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[Annotated[float, pydantic.Field(gt=0, lt=1)], ...] = (0.5, 5 / 6)
    accumulate: int = pydantic.Field(1, gt=0)
    ema: float = pydantic.Field(0.0, ge=0, lt=1)
    weight_decay: float = pydantic.Field(1e-2, ge=0)
    clip: float = pydantic.Field(10.0, gt=0)


class Optimiser:
    """AdamW with everything that belongs to a step.

    Args:
        model: its free parameters are trained.
        precision: of the matrix products.

    Attributes:
        adamw: torch's.
        average: of the weights; None if they are taken as they are.
        rate, norm: learning rate of the last step, and the norm of its gradient.
    """

    def __init__(self, model: nn.Module, config: OptimiserConfig, precision: str) -> None:
        self.config, self.precision = config, precision
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.adamw = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay)
        self.average = MovingAverage(model, config.ema) if config.ema else None
        self.rate, self.norm = 0.0, torch.zeros(())

    def add(self, stage: Stage, batch: Any, first: bool) -> Tensor:
        """Add the gradients of one of the batches that make a step; gives its loss.

        Args:
            first: it is the first of them.
        """
        with in_precision(self.precision, self.parameters[0].device):
            loss: Tensor = stage(batch)
        if first:
            self.adamw.zero_grad(set_to_none=True)
        rounds = self.config.accumulate
        (loss if rounds == 1 else loss / rounds).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step(self, number: int) -> None:
        """Change the weights; `number` steps were done before."""
        config = self.config
        self.rate = learning_rate(number, config.steps, config.lr, config.schedule, config.milestones)
        (group,) = self.adamw.param_groups
        group["lr"] = self.rate
        distributed.all_reduce_gradients(self.parameters)
        self.norm = nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.adamw.step()
        if self.average is not None:
            self.average.follow()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model have the average for a while, if one is kept."""
        if self.average is None:
            yield
            return
        own = {name: weight.detach().clone() for name, weight in self.average.weights.items()}
        self.average.take()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self.average.weights.items():
                    weight.copy_(own[name])


class MovingAverage:
    """An exponential moving average of the weights that train, with a decay that grows to its value.

    The first steps count little: after n of them the decay is at most (1 + n) / (10 + n), as is common.

    Args:
        model: its free parameters are followed.
        decay: of the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.weights.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the weights after one more step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, weight in self.weights.items():
            self.average[name].lerp_(weight, 1 - decay)

    @torch.no_grad()
    def take(self) -> None:
        """Give the model the average for good."""
        for name, weight in self.weights.items():
            weight.copy_(self.average[name])


def learning_rate(
    step: int,
    steps: int,
    peak: float,
    schedule: str = "cosine",
    milestones: Sequence[float] = (),
    warm_up: float = 0.15,
) -> float:
    """Linear rise over the first share of the steps, then half a cosine down to a hundredth of the peak.

    With schedule "steps" a tenth of the peak after each milestone, a share of the steps.
    """
    rise = max(1, round(warm_up * steps))
    if step < rise:
        return peak * ((step + 1) / rise)
    if schedule == "steps":
        return float(peak * 0.1 ** sum(step >= round(share * steps) for share in milestones))
    fall = (step - rise) / max(1, steps - rise)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fall)))
