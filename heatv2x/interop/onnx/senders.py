"""The sender's side: encoder, Hetero-Aware Adapters and shared backbone, from what an agent kind's `collate` gives.

What comes before stays outside: grouping points into pillars or slices, scaling images, and which grid cells a camera's
pixels may lie in (this depends on the calibration alone, so a vehicle computes it once). Sparse convolution has no
counterpart in ONNX.

Shapes: N agents, P points, M images, D depth bins, H W pixels, h w feature cells of an image, Y' X' the kind's own
grid, C channels, Y X shared grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from heatv2x.agents.base import Agent
from heatv2x.agents.camera_lift import CameraLift
from heatv2x.agents.camera_lss import CameraLss
from heatv2x.agents.lidar_camera import LidarCamera
from heatv2x.agents.lidar_pillar import LidarPillar
from heatv2x.agents.lidar_slices import LidarSlices
from heatv2x.interop.onnx.stage import Example, ExportError, ExportStage, Outputs, Port, random_frame
from heatv2x.model.collaboration import Collaboration
from heatv2x.nn.images import CameraInput
from heatv2x.nn.pillars import Pillars


class Encoder(nn.Module, ABC):
    """An agent kind's network on plain tensors."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[Port, ...]:
        """What goes in."""

    @abstractmethod
    def tensors(self, batch: Any) -> Outputs:
        """The inputs, from what the kind's `collate` gives."""


class PillarStage(Encoder):
    """`lidar_pillar`. The points come with their cells, so that they need not be sorted."""

    def __init__(self, agent: LidarPillar) -> None:
        super().__init__()
        self.agent = agent

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Points, their cells, and how many each agent has."""
        pillars, config = self.agent.pillars, self.agent.config
        rows, columns = pillars.grid.shape
        kept = f"at most {config.max_points} of a cell, as `pillars_of` describes them"
        if config.empty_slots:
            kept += f"; a row of zeros more for each cell with fewer than {config.max_points}"
        return (
            Port("points", ("points", pillars.linear.in_features), f"point features, agent after agent, {kept}"),
            Port("cells", ("points",), f"row * {columns} + column on the agent's own grid of {rows} x {columns} cells"),
            Port("points_per_agent", ("agents",), "how many of the points belong to each agent"),
        )

    def tensors(self, batch: Pillars) -> Outputs:
        """Points sorted by agent."""
        rows, columns = self.agent.pillars.grid.shape
        features, cells = batch.features, batch.cells.repeat_interleave(batch.counts)
        if self.agent.pillars.slots:
            fewer = batch.cells[batch.counts < self.agent.pillars.slots]
            features = torch.cat([features, features.new_zeros(len(fewer), features.shape[1])])
            cells = torch.cat([cells, fewer])
        owner = cells // (rows * columns)
        order = torch.argsort(owner, stable=True)
        return features[order], (cells % (rows * columns))[order], torch.bincount(owner, minlength=batch.agents)

    def forward(self, points: Tensor, cells: Tensor, points_per_agent: Tensor) -> Tensor:
        """(N, C, Y, X)."""
        pillars = self.agent.pillars
        rows, columns = pillars.grid.shape
        agents = points_per_agent.shape[0]
        flat = owners(points.shape[0], points_per_agent) * (rows * columns) + cells
        values = torch.relu(pillars.norm(pillars.linear(points)))
        image = scattered(values, flat, agents * rows * columns)
        encoded: Tensor = self.agent.trunk(image.view(agents, rows, columns, -1).permute(0, 3, 1, 2))
        return encoded


class SliceEncoder(Encoder):
    """`lidar_slices`."""

    def __init__(self, agent: LidarSlices) -> None:
        super().__init__()
        self.agent = agent

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The image of slices."""
        slices = self.agent.config.slices
        about = f"{slices} occupied height slices, mean intensity, log(1 + points) / 3"
        return (Port("slices", ("agents", slices + 2, *self.agent.image_grid.shape), about),)

    def tensors(self, batch: Tensor) -> Outputs:
        """The image, unchanged."""
        return (batch,)

    def forward(self, slices: Tensor) -> Tensor:
        """(N, C, Y, X)."""
        encoded: Tensor = self.agent(slices)
        return encoded


class CameraEncoder(Encoder):
    """`camera_lift` and `camera_lss`."""

    def __init__(self, agent: CameraLift | CameraLss) -> None:
        super().__init__()
        self.agent = agent

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Images, the cells of their lifted pixels, and how many each agent has."""
        config, (rows, columns) = self.agent.config, self.agent.splat_grid.shape
        height, width = config.image_size
        lifted = (config.depth_bins, height // self.agent.stride, width // self.agent.stride)
        about = f"row * {columns} + column of every lifted pixel on the {rows} x {columns} splat grid, -1 outside"
        return (
            Port("images", ("images", 3, height, width), "RGB, normalised as the kind's `prepare` does"),
            Port("cells", ("images", *lifted), about),
            Port("images_per_agent", ("agents",), "how many of the images belong to each agent"),
        )

    def tensors(self, batch: CameraInput) -> Outputs:
        """Images agent after agent."""
        return batch.images, batch.cells, torch.bincount(batch.owners, minlength=batch.agents)

    def forward(self, images: Tensor, cells: Tensor, images_per_agent: Tensor) -> Tensor:
        """(N, C, Y, X)."""
        of_image = owners(images.shape[0], images_per_agent)
        encoded: Tensor = self.agent(CameraInput(images, cells, None, of_image, images_per_agent.shape[0]))
        return encoded


class LidarCameraEncoder(Encoder):
    """`lidar_camera`: the inputs of both kinds, the LiDAR's first."""

    def __init__(self, agent: LidarCamera, part: str) -> None:
        super().__init__()
        self.mix = agent.mix
        self.lidar = encoder_of(agent.lidar, part)
        self.camera = encoder_of(agent.camera, part)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The cameras' ports carry their sensor's name, since both kinds have cells."""
        renamed = [Port(f"camera_{port.name}", port.axes, port.about) for port in self.camera.inputs]
        return (*self.lidar.inputs, *renamed)

    def tensors(self, batch: tuple[Any, Any]) -> Outputs:
        """Both kinds' tensors."""
        return (*self.lidar.tensors(batch[0]), *self.camera.tensors(batch[1]))

    def forward(self, *tensors: Tensor) -> Tensor:
        """(N, C, Y, X)."""
        split = len(self.lidar.inputs)
        features = [self.lidar(*tensors[:split]), self.camera(*tensors[split:])]
        encoded: Tensor = self.mix(torch.cat(features, dim=1))
        return encoded


def encoder_of(agent: Agent, part: str) -> Encoder:
    """The network of an agent on plain tensors.

    Raises:
        ExportError: this kind has none.
    """
    if isinstance(agent, LidarPillar):
        return PillarStage(agent)
    if isinstance(agent, LidarSlices):
        return SliceEncoder(agent)
    if isinstance(agent, CameraLift | CameraLss):
        return CameraEncoder(agent)
    if isinstance(agent, LidarCamera):
        return LidarCameraEncoder(agent, part)
    raise ExportError(
        f"{part} cannot be exported to ONNX: only lidar_pillar, lidar_slices, camera_lift, camera_lss and lidar_camera "
        "can (sparse convolution has no ONNX operators).\n"
        "  Way out: leave its agent pack out; messages of its type can still be received"
    )


class Sender(ExportStage):
    """One type's side of the link."""

    counted = "agents"

    def __init__(self, model: Collaboration, agent_type: str) -> None:
        super().__init__()
        self.agent_type = agent_type
        self.name = f"sender_{agent_type}"
        self.about = f"what a {agent_type} sends: encoder, adapters, shared backbone"
        part = model.config.agents[agent_type] if agent_type in model.config.agents else model.joined[agent_type].agent
        self.part = f"agent type '{agent_type}' ({part.part})"
        self.model = model
        self.encoder = encoder_of(model.agent(agent_type), self.part)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What the encoder takes."""
        return self.encoder.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The message's feature, before the codec."""
        about = "feature in the base's space on the shared grid, in the agent's own frame"
        return (Port("feature", ("agents", self.model.config.channels, *self.model.grid.shape), about),)

    def forward(self, *tensors: Tensor) -> Outputs:
        """(N, C, Y, X)."""
        return (self.model.to_shared_space(self.agent_type, self.encoder(*tensors)),)

    def example(self, number: int, random: torch.Generator) -> Example:
        """Agents that sense noise."""
        agent = self.model.agent(self.agent_type)
        grid = self.model.grid
        frames = [random_frame(agent.sensors, min(grid.x_max, grid.y_max), random) for _ in range(number)]
        batch = agent.collate([agent.prepare(frame) for frame in frames])
        return Example(
            self.encoder.tensors(batch), lambda: (self.model.to_shared_space(self.agent_type, agent(batch)),)
        )


def owners(rows: int, per_agent: Tensor) -> Tensor:
    """(rows,) int64 agent of each row, given how many rows each agent has."""
    ends = per_agent.cumsum(dim=0)
    return (torch.arange(rows)[:, None] >= ends[None]).sum(dim=1)


def scattered(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """(rows, C) the maximum of the (P, C) values at each row of the (P,) `index`, and of zero.

    In a graph it names the ONNX operator itself: the exporter writes torch's scatter as one that goes value by value,
    ten times slower than row by row.
    """
    nothing = values.new_zeros((rows, values.shape[1]))
    if not torch.compiler.is_exporting():
        return nothing.scatter_reduce(0, index[:, None].expand_as(values), values, "amax")
    result: Tensor = torch.onnx.ops.symbolic(
        "ScatterND",
        (nothing, index[:, None], values),
        attrs={"reduction": "max"},
        dtype=values.dtype,
        shape=nothing.shape,
        version=18,
    )
    return result
