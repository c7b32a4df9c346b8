"""What a training stage promises: which tensors learn, on which batches, with which loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heatv2x.core import distributed
from heatv2x.errors import ConfigError
from heatv2x.model.collaboration import Collaboration


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
    def draw(self, rng: np.random.Generator) -> Sequence[Any]:
        """What a step sees, one item per scene or agent, drawn from `rng` alone."""

    @abstractmethod
    def collate(self, items: Sequence[Any], drawn: Sequence[Any]) -> Any:
        """A batch of some of the items that were drawn: this process's share of them."""

    def batch(self, rng: np.random.Generator) -> Any:
        """A batch, drawn from `rng` alone. Of several processes each draws the whole and prepares its share.

        Raises:
            ConfigError: there are more processes than items.
        """
        drawn = self.draw(rng)
        if len(drawn) < distributed.world_size():
            raise ConfigError(
                f"batch_size={len(drawn)} cannot be split among {distributed.world_size()} processes: set a "
                "larger batch_size, or start fewer processes"
            )
        return self.collate(drawn[distributed.own_share(len(drawn))], drawn)

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Loss terms by name; their sum is minimised.

        Whatever is divided by a number of objects, cells or rows is divided by that of all processes, see `processes`.
        """

    def set_mode(self) -> None:
        """Training or evaluation mode of the parts.

        Frozen ones must be in evaluation mode, or their statistics move.
        """
        self.model.eval()

    def forward(self, batch: Any) -> Tensor:
        """The sum of the loss terms; of several processes the sum of theirs is that of the whole batch."""
        terms = self.losses(batch)
        self.last_terms = {name: value.detach() for name, value in terms.items()}
        return torch.stack(list(terms.values())).sum()


def names_below(model: nn.Module, prefixes: tuple[str, ...]) -> list[str]:
    """Names of a model's parameters that start with one of the prefixes."""
    return [name for name, _ in model.named_parameters() if name.startswith(prefixes)]
