"""A feature pyramid of grouped residual blocks (ResNeXt, Xie et al. 2017), as HEAL's shared backbone uses it.

Shapes: N maps, C channels, Y X grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from heatv2x.nn.bottleneck import bottleneck_stage

GROUPS = 32


def grouped_stages(channels: int, widths: Sequence[int], blocks: Sequence[int]) -> nn.ModuleList:
    """One stage per level, each but the first at half the resolution of the one before.

    Inside, a block is twice as wide as outside.
    """
    stages = []
    for level, ((before, width), count) in enumerate(zip(itertools.pairwise((channels, *widths)), blocks, strict=True)):
        stride = 1 if level == 0 else 2
        stages.append(bottleneck_stage(before, width, 2 * width, count, stride, GROUPS))
    return nn.ModuleList(stages)


def enlarge(channels_in: int, channels_out: int, factor: int) -> nn.Sequential:
    """Transposed convolution, normalisation, ReLU: (N, C_in, Y, X) to (N, C_out, factor Y, factor X)."""
    convolution = nn.ConvTranspose2d(channels_in, channels_out, factor, factor, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.01), nn.ReLU(inplace=True))
