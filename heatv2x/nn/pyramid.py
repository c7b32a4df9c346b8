"""A feature pyramid of grouped residual blocks (ResNeXt, Xie et al. 2017), as HEAL's shared backbone uses it.

Shapes: N maps, C channels, Y X grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

GROUPS = 32


class GroupedBottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution with a skip; inside twice as wide as outside.

    (N, C_in, Y, X) to (N, C_out, Y / stride, X / stride).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        inner = 2 * channels_out // GROUPS * GROUPS
        self.reduce = _normalised(nn.Conv2d(channels_in, inner, 1, bias=False))
        self.spatial = _normalised(nn.Conv2d(inner, inner, 3, stride, 1, groups=GROUPS, bias=False))
        self.expand = _normalised(nn.Conv2d(inner, channels_out, 1, bias=False))
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.skip = _normalised(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, Y, X) to (N, C_out, Y / stride, X / stride), non-negative."""
        inner = torch.relu(self.spatial(torch.relu(self.reduce(x))))
        return torch.relu(self.expand(inner) + self.skip(x))


def grouped_stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    """A row of blocks, the first of them strided."""
    first = GroupedBottleneck(channels_in, channels_out, stride)
    return nn.Sequential(first, *(GroupedBottleneck(channels_out, channels_out) for _ in range(blocks - 1)))


def grouped_stages(channels: int, widths: Sequence[int], blocks: Sequence[int]) -> nn.ModuleList:
    """One stage per level, each but the first at half the resolution of the one before."""
    steps = zip(itertools.pairwise((channels, *widths)), blocks, strict=True)
    return nn.ModuleList(
        grouped_stage(*pair, count, 1 if level == 0 else 2) for level, (pair, count) in enumerate(steps)
    )


def enlarge(channels_in: int, channels_out: int, factor: int) -> nn.Sequential:
    """Transposed convolution, normalisation, ReLU: (N, C_in, Y, X) to (N, C_out, factor Y, factor X)."""
    convolution = nn.ConvTranspose2d(channels_in, channels_out, factor, factor, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.01), nn.ReLU(inplace=True))


def _normalised(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))
