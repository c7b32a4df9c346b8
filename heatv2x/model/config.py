"""What shapes a model, and how a newcomer joins it; both are stored in packs."""

from __future__ import annotations

import re
from typing import Any, Literal

import pydantic

from heatv2x.core.config import Config
from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.codebook import CodebookConfig
from heatv2x.model.reader import ReaderConfig

EXCHANGE_OF = {"late": "boxes", "early": "points"}
"""What agents exchange under late and early fusion."""


class ModelConfig(Config):
    """Everything that shapes a model; stored in every pack.

    Attributes:
        half_extent_m: how far the shared grid reaches ahead and behind; by default also to the sides.
        half_extent_y_m: how far it reaches to the left and right, if that differs.
        y_right: the networks' own axes are left-handed, as in models imported from HEAL; see `geometry.handedness`.
        cell_m: side of a cell of the shared grid, metres.
        channels: C, the channels of the shared feature.
        backbone_blocks: residual blocks of the shared backbone, on the sender's side.
        neck: on the ego's side, between fusion and head: two_scale (ours), or shrink (HEAL's: two convolutions that
            reduce the fused channels to `neck_channels`).
        neck_channels: channels of the two_scale neck's coarse branch, or output channels of the shrink neck.
        agents: the base's agent types by name, each with the part that encodes its sensor data.
        fusion: the part that combines the ego's feature with the received ones.
        head: the part that finds boxes in the fused feature.
        reader: how boxes that ride on messages are read; null sends and reads none (`train reader` adds it).
        codebook: turns a cell of a feature into a few bytes, for codec=codes (`train reader` fits it); null has none.
        budget_bytes: how long a message with a feature may be; the most relevant cells go first. Null sends all.
        exchange: what agents send: features, boxes (late fusion: detect alone, merge boxes), or points (early fusion).
        codec: how features are packed into messages (heatv2x list codecs).
    """

    half_extent_m: float = pydantic.Field(51.2, gt=0)
    half_extent_y_m: float | None = pydantic.Field(None, gt=0)
    y_right: bool = False
    cell_m: float = pydantic.Field(1.6, gt=0)
    channels: int = pydantic.Field(48, gt=0)
    backbone_blocks: int = pydantic.Field(1, ge=0)
    neck: Literal["two_scale", "shrink"] = "two_scale"
    neck_channels: int = pydantic.Field(96, gt=0)
    agents: dict[str, PartConfig] = pydantic.Field(default_factory=lambda: {"lidar64": PartConfig(part="lidar_pillar")})
    fusion: PartConfig = PartConfig(part="hetero_graph")
    head: PartConfig = PartConfig(part="center")
    reader: ReaderConfig | None = None
    codebook: CodebookConfig | None = None
    budget_bytes: int | None = pydantic.Field(None, ge=1000)
    exchange: Literal["features", "boxes", "points"] = "features"
    codec: str = "int8"

    @pydantic.field_validator("fusion")
    @classmethod
    def _fuses(cls, fusion: PartConfig) -> PartConfig:
        if fusion.part in EXCHANGE_OF:
            raise ValueError(
                f"'{fusion.part}' is not a fusion of features: remove this setting and set "
                f"exchange={EXCHANGE_OF[fusion.part]}"
            )
        return fusion

    @pydantic.model_validator(mode="after")
    def _possible(self) -> ModelConfig:
        if not self.agents:
            raise ValueError("agents is empty; a base needs at least one type")
        for name in self.agents:
            check_type_name(name)
        if self.codec == "codes" and self.codebook is None:
            raise ValueError("codec=codes needs a codebook, which this base lacks: fit one (heatv2x train reader)")
        try:
            shape = self.grid.shape
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if self.neck == "two_scale" and any(cells % 2 for cells in shape):
            raise ValueError(
                f"half_extent_m={self.half_extent_m} gives {max(shape)} cells a side; the neck needs an even number"
                if len(set(shape)) == 1
                else f"the grid has {shape} (Y, X) cells; the neck needs even numbers"
            )
        return self

    @pydantic.model_serializer(mode="wrap")
    def _written(self, write: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Models without a reader that exchange features are written as they were before these settings existed.

        So packs, records of jobs and cells of studies that were made then stay what they are.
        """
        written: dict[str, Any] = write(self)
        former = {"exchange": "features", "reader": None, "codebook": None, "budget_bytes": None}
        return {key: value for key, value in written.items() if key not in former or value != former[key]}

    @property
    def grid(self) -> BevGrid:
        """The shared grid."""
        x, y = self.half_extent_m, self.half_extent_y_m or self.half_extent_m
        return BevGrid(-x, x, -y, y, self.cell_m, self.y_right)


class AdapterConfig(Config):
    """How a newcomer joins.

    Attributes:
        agent: the newcomer's kind.
        like: the deployed type whose typed fusion parameters it starts from.
        before, after: Hetero-Aware Adapters before and after the shared backbone, on the sender's side.
        received: adapter on its warped contribution, on the ego's side, such as the Multi-Cognitive Adapter
            ("multi_cognitive"); none by default, for in no measurement it has made a difference (docs/method.md).
    """

    agent: PartConfig
    like: str = "lidar64"
    before: PartConfig | None = PartConfig(part="hetero_aware")
    after: PartConfig | None = PartConfig(part="hetero_aware", settings={"kernel": 1})
    received: PartConfig | None = None


def check_type_name(name: str) -> None:
    """Check a type's name, which is used in tensor names, file names and 32 bytes of a message."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name):
        raise ValueError(
            f"'{name}' is not a valid type name: start with a lowercase letter, then use lowercase letters, "
            "digits and _, 32 characters at most"
        )
