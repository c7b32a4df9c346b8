"""The network that a newcomer brings with it: what stands behind its encoder in its own single-agent detector.

A newcomer was somebody's finished vehicle before it joined. Its adapters teach its features the base's language; what
it detects alone it keeps saying with its own backbone, neck and head, which were trained for its sensor. Boxes mean the
same in every network. They ride on its messages and are its own hypotheses where it is the ego; how the base reads
their scores is learnt in GCFT (`reader.TypeTrust`). The design is ours.

Shapes: N agents, C channels, Y X shared grid.
"""

from __future__ import annotations

from typing import Literal

import pydantic
from torch import Tensor, nn

from heatv2x.core.config import Config
from heatv2x.core.plugins import PartConfig, build_part
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.heads.base import Head
from heatv2x.nn.residual import TwoScaleNeck, residual_trunk, shrink_neck


class DetectorConfig(Config):
    """What shapes a detector; the meaning of each setting is that of `ModelConfig`."""

    backbone_blocks: int = pydantic.Field(1, ge=0)
    neck: Literal["two_scale", "shrink"] = "two_scale"
    neck_channels: int = pydantic.Field(96, gt=0)
    head: PartConfig = PartConfig(part="center")


class Detector(nn.Module):
    """Backbone, neck and head of one type alone.

    Args:
        channels: C.
        grid: of the encoder's output.
    """

    def __init__(self, config: DetectorConfig, channels: int, grid: BevGrid) -> None:
        super().__init__()
        self.config = config
        self.backbone = residual_trunk(channels, config.backbone_blocks)
        self.neck, trunk = neck_of(config.neck, channels, config.neck_channels)
        self.head: Head = build_part("heads", config.head, trunk, grid)

    def forward(self, encoded: Tensor) -> dict[str, Tensor]:
        """Dense predictions from (N, C, Y, X) outputs of the type's encoder."""
        maps: dict[str, Tensor] = self.head(self.neck(self.backbone(encoded)))
        return maps


def neck_of(kind: str, channels: int, neck_channels: int) -> tuple[nn.Module, int]:
    """A neck, and how many channels it gives."""
    if kind == "shrink":
        return shrink_neck(channels, neck_channels), neck_channels
    return TwoScaleNeck(channels, neck_channels), channels
