"""What a kind of agent promises.

Shapes: N agents of one type, C shared channels, Y X shared grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from heatv2x.core.config import Config
from heatv2x.errors import ConfigError, HeatError
from heatv2x.geometry.grid import BevGrid
from heatv2x.structures import AgentFrame, PointCloud


class Agent(nn.Module, ABC):
    """Turns one agent's own sensor data into a bird's-eye-view feature on the shared grid, in the agent's own frame.

    A subclass in `heatv2x/agents/<name>.py` is a new kind of agent; any kind can be base, ego or newcomer. The
    constructor takes the kind's `Config`, the shared grid and the number of shared channels. `prepare` and `collate`
    are numpy work without gradients; their result is cached where nothing before it is trained.

    Attributes:
        source: the paper, or "ours".
        sensors: names of the sensors this agent needs (`structures.SENSORS`); nothing else is read for it.
        exact: names of the submodules that stay in float32 when a model is deployed in bfloat16: those whose output
            decides where features go, where a small error becomes a large one (a depth distribution and all before it).
    """

    Config: type[Config]
    source: ClassVar[str]
    sensors: tuple[str, ...]
    exact: ClassVar[tuple[str, ...]] = ()

    def __init__(self, grid: BevGrid, channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.channels = channels

    def reduce(self, frame: AgentFrame) -> AgentFrame:
        """The frame with only what `prepare` needs, kept as small as possible in memory."""
        lidars = {name: cloud for name, cloud in frame.lidars.items() if name in self.sensors}
        return replace(frame, lidars=lidars, cameras=frame.cameras if "camera" in self.sensors else ())

    @abstractmethod
    def prepare(self, frame: AgentFrame) -> Any:
        """Turn one agent's frame into this kind's input.

        Raises:
            DataError: the frame lacks a sensor that this agent declares.
        """

    @abstractmethod
    def collate(self, items: Sequence[Any]) -> Any:
        """Put the inputs of N agents into one batch."""

    @abstractmethod
    def forward(self, batch: Any) -> Tensor:
        """(N, C, Y, X) feature on the shared grid, in each agent's own frame."""

    def supervised(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The feature, and this kind's own auxiliary loss (a scalar; zero unless the kind has one, such as depth)."""
        feature = self(batch)
        return feature, torch.zeros((), device=feature.device)


def sweep(frame: AgentFrame, sensor: str) -> PointCloud:
    """The sweep of the LiDAR an agent declares.

    Raises:
        HeatError: the frame was read without that sensor.
    """
    if sensor not in frame.lidars:
        have = ", ".join(frame.lidars) or "no LiDAR"
        raise HeatError(
            f"agent {frame.agent_id} at {frame.timestamp} needs sensor '{sensor}', but its frame holds {have}"
        )
    return frame.lidars[sensor]


def image_grid(shared: BevGrid, cell_m: float) -> BevGrid:
    """The grid of an agent's own bird's-eye-view image: the shared extent in cells of `cell_m` metres.

    Raises:
        ConfigError: the shared cell is not a whole multiple of the agent's.
    """
    factor = round(shared.cell / cell_m)
    if factor < 1 or abs(shared.cell / cell_m - factor) > 1e-6:
        raise ConfigError(f"cell_m={cell_m} does not divide the shared cell of {shared.cell} m")
    return shared.finer(factor)
