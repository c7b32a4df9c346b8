"""Hetero-Aware Adapter: re-mixes a foreign encoder's channels so that a frozen base understands them (LHFT).

The design is ours: the paper's internals are not public. An identity-initialised full convolution comes first, because
a low-rank residual alone leaves the identity path misaligned: that was the largest single effect we measured.

Shapes: N batch, C channels, Y X grid.
"""

from __future__ import annotations

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x import config
from heatv2x.adapters.base import Adapter


class HeteroAware(Adapter):
    """Identity-initialised convolution, then a gated residual bottleneck.

    x' = Conv(x);  y = x' + Up( gate(m(x')) * GELU(DW(Down(Norm(x')))) ), Up starts at zero. m is the mean feature
    weighted by activity: empty cells do not count, so a crop and the whole map give nearly the same gate.
    """

    source = "ours, for HeatV2X, arXiv 2511.10211"

    class Config(config.Config):
        """Attributes:
        kernel: size of the identity-initialised convolution (3 before the shared backbone, 1 after it).
        rank: channels of the bottleneck, r; 0 leaves it out.
        """

        kernel: int = pydantic.Field(3, gt=0)
        rank: int = pydantic.Field(24, ge=0)

    def __init__(self, config: HeteroAware.Config, channels: int) -> None:
        super().__init__()
        self.config = config
        self.remix = nn.Conv2d(channels, channels, config.kernel, padding=config.kernel // 2)
        nn.init.dirac_(self.remix.weight)
        nn.init.zeros_(self.remix.bias)  # type: ignore[arg-type]
        if not config.rank:
            return
        self.norm = nn.LayerNorm(channels)
        self.down = nn.Conv2d(channels, config.rank, 1)
        self.depthwise = nn.Conv2d(config.rank, config.rank, 3, padding=1, groups=config.rank)
        self.gate = nn.Linear(channels, config.rank)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.up = nn.Conv2d(config.rank, channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)  # type: ignore[arg-type]

    def adapt(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) to (N, C, Y, X)."""
        x = self.remix(x)
        if not self.config.rank:
            return x
        activity = x.abs().mean(dim=1, keepdim=True)
        mean = (activity * x).sum(dim=(2, 3)) / activity.sum(dim=(2, 3)).clamp(min=1e-6)
        gate = 2 * torch.sigmoid(self.gate(mean))[:, :, None, None]
        normed = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        adapted: Tensor = x + self.up(gate * functional.gelu(self.depthwise(self.down(normed))))
        return adapted
