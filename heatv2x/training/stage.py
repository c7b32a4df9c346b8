"""What a training stage promises: which tensors learn, on which batches, with which loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heatv2x.model import Collaboration


class Stage(nn.Module, ABC):
    """One way to train a model. The loop does the rest: steps, checkpoints, the proof that frozen tensors stayed.

    Attributes:
        name: what records call it.
        model: the model in training.
    """

    name: str

    def __init__(self, model: Collaboration) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def trainable(self) -> list[str]:
        """Names of the model's parameters that learn; every other tensor stays bit-identical."""

    @abstractmethod
    def batch(self, rng: np.random.Generator) -> Any:
        """A batch, drawn from `rng` alone."""

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Loss terms by name; their sum is minimised."""

    def set_mode(self) -> None:
        """Training or evaluation mode of the parts.

        Frozen ones must be in evaluation mode, or their statistics move.
        """
        self.model.eval()

    def forward(self, batch: Any) -> Tensor:
        """The sum of the loss terms (the forward pass that data-parallel training wraps)."""
        terms = self.losses(batch)
        self.last_terms = {name: float(value.detach()) for name, value in terms.items()}
        return torch.stack(list(terms.values())).sum()


def names_below(model: nn.Module, prefixes: tuple[str, ...]) -> list[str]:
    """Names of a model's parameters that start with one of the prefixes."""
    return [name for name, _ in model.named_parameters() if name.startswith(prefixes)]
