"""Bottleneck blocks (He et al. 2016; grouped: Xie et al. 2017).

Shapes: N batch, C channels, Y X grid or image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from heatv2x.nn.recompute import Block


class Bottleneck(Block):
    """1x1, (grouped) 3x3 and 1x1 convolution with a skip.

    (N, C_in, Y, X) to (N, C_out, Y / stride, X / stride).

    Args:
        inner: channels of the 3x3 convolution.
        groups: of the 3x3 convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, inner: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.reduce = _normalised(nn.Conv2d(channels_in, inner, 1, bias=False))
        self.spatial = _normalised(nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False))
        self.expand = _normalised(nn.Conv2d(inner, channels_out, 1, bias=False))
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.skip = _normalised(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False))

    def compute(self, x: Tensor) -> Tensor:
        """(N, C_in, Y, X) to (N, C_out, Y / stride, X / stride), non-negative."""
        inner = torch.relu_(self.spatial(torch.relu_(self.reduce(x))))
        return torch.relu_(self.expand(inner) + self.skip(x))


def bottleneck_stage(
    channels_in: int, channels_out: int, inner: int, blocks: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A row of blocks, the first of them strided."""
    first = Bottleneck(channels_in, channels_out, inner, stride, groups)
    rest = (Bottleneck(channels_out, channels_out, inner, groups=groups) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def _normalised(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))
