"""What becomes one file: a part of the method with named tensors on both sides.

The files follow the arrows of the method. On a sender's vehicle `sender_TYPE` runs, on the ego's `warp`,
`received_TYPE` for newcomers that have a Multi-Cognitive Adapter, `fusion` and `head`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from heatv2x.errors import HeatError
from heatv2x.structures import AgentFrame, Camera, PointCloud, Pose

Outputs = tuple[Tensor, ...]
_POINTS = 20_000  # of a random sweep; a sweep of 64 beams over the demo's grid has about as many
_IMAGE = (600, 800)


class ExportError(HeatError):
    """A part cannot be exported, or what was written computes something else."""


@dataclass(frozen=True)
class Port:
    """One tensor that goes into a stage or comes out of it.

    Attributes:
        name: as the file calls it.
        axes: length of each axis; a name where it may differ from call to call, the same length wherever it stands.
        about: what it holds, with units and frame.
    """

    name: str
    axes: tuple[int | str, ...]
    about: str


@dataclass(frozen=True)
class Example:
    """One call of a stage.

    Attributes:
        inputs: in the order of the stage's ports.
        expected: computes what the model itself makes of them, in the order of the outputs.
    """

    inputs: Outputs
    expected: Callable[[], Outputs]


class ExportStage(nn.Module, ABC):
    """A part of the method as one graph.

    `forward` takes the tensors of `inputs` and gives those of `outputs`. Where that is not the model's own code,
    `example` says what the model makes of the same input.

    Attributes:
        name: of the file, without its suffix.
        about: what it computes, one sentence.
        counted: the axis that counts agents.
        part: which part it comes from, for messages.
    """

    name: str
    about: str
    counted: str
    part: str

    @property
    @abstractmethod
    def inputs(self) -> tuple[Port, ...]:
        """What goes in."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[Port, ...]:
        """What comes out."""

    @abstractmethod
    def example(self, number: int, random: torch.Generator) -> Example:
        """A call with `number` along the axis `counted`."""


def random_frame(sensors: tuple[str, ...], reach_m: float, random: torch.Generator) -> AgentFrame:
    """An agent that senses noise: points within `reach_m` metres, four cameras of 800 x 600 pixels."""
    lidars = {name: PointCloud(_sweep(reach_m, random)) for name in sensors if name != "camera"}
    cameras = tuple(_camera(quarter, random) for quarter in range(4)) if "camera" in sensors else ()
    return AgentFrame(1, "000000", Pose.planar(0, 0, 0), lidars, cameras)


def _sweep(reach_m: float, random: torch.Generator) -> Any:
    position = (2 * torch.rand(_POINTS, 2, generator=random) - 1) * reach_m
    height_and_intensity = torch.rand(_POINTS, 2, generator=random) * torch.tensor([4.0, 1.0]) - torch.tensor([2.5, 0])
    return torch.cat([position, height_and_intensity], dim=1).numpy()


def _camera(quarter: int, random: torch.Generator) -> Camera:
    """A camera that looks ahead, to the left, behind or to the right, 90 degrees wide."""
    height, width = _IMAGE
    image = torch.randint(0, 256, (height, width, 3), generator=random, dtype=torch.uint8).numpy()
    K = torch.tensor([[width / 2, 0, width / 2 - 0.5], [0, width / 2, height / 2 - 0.5], [0, 0, 1]]).double().numpy()
    mount = Pose.planar(0, 0, quarter * torch.pi / 2).matrix.copy()
    axes = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]).double().numpy()  # right, down, forward in the agent's
    mount[:3, :3] = mount[:3, :3] @ axes
    return Camera(f"camera{quarter}", image, K, mount)
