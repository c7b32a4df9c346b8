"""What an adapter promises.

Shapes: N batch, C channels, Y X grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from heatv2x.core.config import Config


class Adapter(nn.Module, ABC):
    """Maps a feature (N, C, Y, X) to one of the same shape.

    It is the identity, bit for bit, at initialisation and while disabled. The constructor takes the part's `Config` and
    C. All its parameters are trainable; it has no running statistics, so it behaves alike in training and in use.

    Attributes:
        source: the paper, or "ours".
    """

    Config: type[Config]
    source: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) to (N, C, Y, X)."""
        return self.adapt(x) if self.enabled else x

    @abstractmethod
    def adapt(self, x: Tensor) -> Tensor:
        """What the enabled adapter does."""
