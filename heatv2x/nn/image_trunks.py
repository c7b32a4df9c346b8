"""Image trunks of the published camera agents, both to stride 8 and 512 channels; no torchvision.

EfficientNet-b0 (Tan and Le 2019, table 1) with two upsampling steps as in Lift-Splat-Shoot, and the first half of a
ResNet-50 or -101 (He et al. 2016; up to its second stage the two are the same).

Shapes: M images, C channels, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.nn.bottleneck import bottleneck_stage
from heatv2x.nn.recompute import Block

STRIDE = 8
CHANNELS = 512
# EfficientNet-b0: expansion, channels, blocks, stride, kernel of its seven stages
_STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5))
_LAST_STAGE = (6, 320, 1, 1, 3)


class SqueezeExcite(nn.Module):
    """A factor per channel from the mean over the image (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(M, C, H, W) to the same shape."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        factor: Tensor = self.expand(functional.silu(self.reduce(mean))).sigmoid()
        return factor * x


class InvertedBottleneck(Block):
    """Widen, depthwise convolution, squeeze and excite, narrow; a skip where the shape allows it (MBConv)."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expand: nn.Module = nn.Identity()
        if expansion != 1:
            self.expand = nn.Sequential(_convolution(channels_in, wide, 1), _norm(wide), nn.SiLU())
        self.depthwise = nn.Sequential(_convolution(wide, wide, kernel, stride, wide), _norm(wide), nn.SiLU())
        self.squeeze = SqueezeExcite(wide, max(1, channels_in // 4))
        self.project = nn.Sequential(_convolution(wide, channels_out, 1), _norm(channels_out))
        self.skip = stride == 1 and channels_in == channels_out

    def compute(self, x: Tensor) -> Tensor:
        """(M, C_in, H, W) to (M, C_out, H / stride, W / stride)."""
        change: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + change if self.skip else change


class EfficientNetB0(nn.Module):
    """The trunk, and its maps at strides 8, 16 and 32.

    Args:
        classifier: keep the image classifier, which nothing here uses: published parameter counts include it.
    """

    def __init__(self, classifier: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(3, 32, 3, 2), _norm(32), nn.SiLU())
        blocks, channels = [], 32
        for expansion, width, count, stride, kernel in (*_STAGES, _LAST_STAGE):
            for index in range(count):
                blocks.append(InvertedBottleneck(channels, width, expansion, kernel, stride if index == 0 else 1))
                channels = width
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.ModuleList()
        if classifier:
            self.classifier.extend([_convolution(320, 1280, 1), _norm(1280), nn.Linear(1280, 1000)])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(M, 40, H/8, W/8), (M, 112, H/16, W/16), (M, 320, H/32, W/32) from (M, 3, H, W)."""
        x = self.stem(images)
        taps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in {4, 10}:
                taps.append(x)
        return taps[0], taps[1], x


class Enlarge(nn.Module):
    """A coarse map twice as large beside a finer one, then two convolutions (Lift-Splat-Shoot).

    (M, C, H, W) and (M, C', 2 H, 2 W) to (M, C_out, 2 H, 2 W).
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """(M, C_out, 2 H, 2 W)."""
        larger = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=True)
        mixed: Tensor = self.mix(torch.cat([fine, larger], dim=1))
        return mixed


class EfficientNetTrunk(nn.Module):
    """EfficientNet-b0 with its strides 32 and 16 brought back to 8; arguments as `EfficientNetB0`."""

    def __init__(self, classifier: bool = False) -> None:
        super().__init__()
        self.network = EfficientNetB0(classifier)
        self.up = nn.ModuleList([Enlarge(320 + 112, CHANNELS), Enlarge(CHANNELS + 40, CHANNELS)])

    def forward(self, images: Tensor) -> Tensor:
        """(M, 512, H/8, W/8) from (M, 3, H, W); H and W are multiples of 32."""
        fine, middle, coarse = self.network(images)
        result: Tensor = self.up[1](self.up[0](coarse, middle), fine)
        return result


class HalfResNet(nn.Module):
    """Stem and the first two stages of ResNet-50 (or -101)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        self.stages = nn.ModuleList(
            [bottleneck_stage(64, 256, 64, 3), bottleneck_stage(256, CHANNELS, 128, 4, stride=2)]
        )

    def forward(self, images: Tensor) -> Tensor:
        """(M, 512, H/8, W/8) from (M, 3, H, W); H and W are multiples of 8."""
        x: Tensor = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return x


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    # padded alike on both sides, as the reference does; TensorFlow's original pads a strided one on one side only
    return nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
