"""Convolution blocks of the bird's-eye-view trunks.

Shapes: N batch, C channels, Y X grid.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from heatv2x.errors import ConfigError
from heatv2x.nn.recompute import Block

Norm = Literal["batch", "group"]
_GROUPS = 8


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Batch normalisation, or group normalisation with 8 groups (no statistics that depend on the batch).

    Raises:
        ConfigError: the channels cannot be put into 8 groups.
    """
    if norm == "group" and channels % _GROUPS:
        raise ConfigError(f"channels={channels}: group normalisation needs a multiple of {_GROUPS}")
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(_GROUPS, channels)


def conv_block(
    channels_in: int, channels_out: int, *, kernel: int = 3, stride: int = 1, norm: Norm = "batch"
) -> nn.Sequential:
    """Convolution, normalisation, ReLU: (N, C_in, Y, X) to (N, C_out, Y / stride, X / stride)."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        norm_layer(norm, channels_out),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(Block):
    """Two 3x3 convolutions with a skip (He et al. 2016, basic block).

    (N, C_in, Y, X) to (N, C_out, Y / stride, X / stride).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, norm: Norm = "batch") -> None:
        super().__init__()
        self.first = conv_block(channels_in, channels_out, stride=stride, norm=norm)
        self.second = nn.Sequential(
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False), norm_layer(norm, channels_out)
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.skip = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), norm_layer(norm, channels_out)
            )

    def compute(self, x: Tensor) -> Tensor:
        """(N, C_in, Y, X) to (N, C_out, Y / stride, X / stride), non-negative."""
        return functional.relu_(self.second(self.first(x)) + self.skip(x))


def residual_trunk(channels: int, blocks: int, norm: Norm = "batch") -> nn.Sequential:
    """A row of residual blocks that keeps the shape (N, C, Y, X)."""
    return nn.Sequential(*(ResidualBlock(channels, channels, norm=norm) for _ in range(blocks)))


class TwoScaleNeck(nn.Module):
    """A residual block at full resolution plus a branch at half resolution for context: (N, C, Y, X) to the same shape.

    Args:
        channels: C.
        wide: channels of the half-resolution branch.
    """

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()
        self.fine = ResidualBlock(channels, channels)
        self.coarse = nn.Sequential(conv_block(channels, wide, stride=2), ResidualBlock(wide, wide))
        self.merge = conv_block(wide, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, Y, X) to (N, C, Y, X); Y and X must be even."""
        fine = self.fine(x)
        coarse = functional.interpolate(
            self.merge(self.coarse(fine)), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        merged: Tensor = fine + coarse
        return merged


def shrink_neck(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two plain 3x3 convolutions with ReLU: (N, C_in, Y, X) to (N, C_out, Y, X), as HEAL puts before its head."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.ReLU(inplace=True),
    )
