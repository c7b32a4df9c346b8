"""Hetero-Aware Adapter: re-mixes a foreign encoder's channels so that a frozen base understands them (LHFT).

The design is ours: the paper's internals are not public. A full convolution that starts as the identity is all there is
to it: a low-rank residual alone leaves the identity path misaligned, and one on top of the convolution added nothing in
three seeds, see docs/method.md.

Shapes: N batch, C channels, Y X grid.
"""

from __future__ import annotations

import pydantic
from torch import Tensor, nn

from heatv2x.adapters.base import Adapter
from heatv2x.core import config


class HeteroAware(Adapter):
    """A convolution that starts as the identity.

    It is linear, so LHFT can start it at the solution of a ridge regression (`heatv2x.training.distillation`).
    """

    source = "ours, for HeatV2X, arXiv 2511.10211"

    class Config(config.Config):
        """Attributes:
        kernel: its size (3 before the shared backbone, 1 after it).
        """

        kernel: int = pydantic.Field(3, gt=0)

        @pydantic.field_validator("kernel")
        @classmethod
        def _odd(cls, kernel: int) -> int:
            if kernel % 2 == 0:
                raise ValueError(f"kernel={kernel}: an even kernel has no centre; set an odd number")
            return kernel

    def __init__(self, config: HeteroAware.Config, channels: int) -> None:
        super().__init__()
        self.remix = nn.Conv2d(channels, channels, config.kernel, padding=config.kernel // 2)
        nn.init.dirac_(self.remix.weight)
        nn.init.zeros_(self.remix.bias)  # type: ignore[arg-type]

    def adapt(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) to (N, C, Y, X)."""
        remixed: Tensor = self.remix(x)
        return remixed
