"""A frame as it was read, and what a model detects in it: what is drawn, before it is drawn.

A picture that looks right means poses, handedness, labels and calibration belong together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heatv2x.core.config import nearest
from heatv2x.data.datasets.base import Dataset
from heatv2x.errors import ConfigError
from heatv2x.geometry.matching import Judged
from heatv2x.structures import LIDARS, AgentFrame, Bool, Float64, Frame

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#6f4fb0", "#7f7f7f")
"""Told apart by colour-blind eyes, too (Okabe and Ito, darkened for white ground)."""
_POINTS_PER_AGENT = 60_000
_SIGNS = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
_UNIT = np.array([[*sign, z] for z in (-1, 1) for sign in _SIGNS])
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Of a box, by the numbers of its corners in `View.corners`."""


@dataclass(frozen=True)
class Sight:
    """What a model detects in a frame, beside the labels that it should find.

    Attributes:
        heard: ids of the agents whose messages arrived; empty for the ego alone.
        types: the type that each agent plays, by id.
        judged: detections and labels in the ego's frame.
    """

    heard: tuple[int, ...]
    types: dict[int, str]
    judged: Judged

    @property
    def labelled(self) -> bool:
        """Whether there are labels to judge by."""
        return len(self.judged.truth) > 0

    @property
    def tally(self) -> str:
        """In words: found, missed, false alarms."""
        hits, shown = int(self.judged.hit.sum()), len(self.judged.detections)
        if not self.labelled:
            return f"{shown} detections, no labels to judge them by"
        return f"{hits} of {len(self.judged.truth)} found, {shown - hits} false"


@dataclass(frozen=True)
class View:
    """What is drawn of a frame.

    Attributes:
        frame: with one sweep and the cameras of each agent.
        lidars: the sweep's name by agent id.
        reach_m: how far around the agents.
        sights: what a model detects, without messages and with them; none if only labels are drawn.
    """

    frame: Frame
    lidars: dict[int, str]
    reach_m: float
    sights: tuple[Sight, ...] = ()

    @property
    def ego(self) -> AgentFrame:
        """The agent in whose frame everything is drawn: the first one."""
        return self.frame.agents[0]

    def points(self, agent: AgentFrame) -> Float64:
        """(P, 3) in the ego's frame, thinned."""
        name = self.lidars.get(agent.agent_id)
        if name is None:
            return np.zeros((0, 3))
        points = agent.lidars[name].points
        points = points[:: max(1, len(points) // _POINTS_PER_AGENT)]
        T_ego_agent = agent.pose.relative_to(self.ego.pose)
        return np.asarray(points[:, :3] @ T_ego_agent[:3, :3].T + T_ego_agent[:3, 3])

    def corners(self) -> Float64:
        """(N, 8, 3) of all objects in the world: bottom front left, then round, then the top."""
        return _corners(self.frame.objects.T_world_object, self.frame.objects.size)

    def detected_corners(self, sight: Sight) -> Float64:
        """(D, 8, 3) of a model's detections in the world, in the same order."""
        boxes = sight.judged.detections.boxes.astype(np.float64)
        cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
        T = np.zeros((len(boxes), 4, 4))
        T[:, 0, 0], T[:, 0, 1], T[:, 1, 0], T[:, 1, 1], T[:, 2, 2], T[:, 3, 3] = cos, -sin, sin, cos, 1, 1
        T[:, :3, 3] = boxes[:, :3]
        return _corners(self.ego.pose.matrix @ T, boxes[:, 3:6])

    def missed(self, sight: Sight) -> Bool:
        """(N,) which of the frame's objects count and were not found."""
        ids = sight.judged.truth.ids
        lost = [] if ids is None else ids[sight.judged.missed].tolist()
        return np.isin(self.frame.objects.ids, np.array(lost, np.int64))

    def name(self, agent: AgentFrame) -> str:
        """An agent's id and part."""
        role = ", ego" if agent is self.ego else ", roadside" if agent.is_roadside else ""
        return f"{agent.agent_id}{role}"

    def colour(self, agent: AgentFrame) -> str:
        """An agent's colour, the same all over the picture."""
        number = [each.agent_id for each in self.frame.agents].index(agent.agent_id)
        return COLOURS[number % len(COLOURS)]

    def title(self, sight: Sight) -> str:
        """What is seen by whom."""
        if not sight.heard:
            return f"Agent {self.ego.agent_id} alone: {sight.tally}"
        return f"Together with {', '.join(map(str, sight.heard))}: {sight.tally}"


def _corners(T: Float64, size: np.ndarray) -> Float64:
    """(N, 8, 3) of boxes at (N, 4, 4) with (N, 3) full sizes: bottom front left, then round, then the top."""
    local = _UNIT[None] * size[:, None] / 2
    return np.asarray(local @ T[:, :3, :3].transpose(0, 2, 1) + T[:, None, :3, 3])


def frame_number(dataset: Dataset, wanted: str | int) -> int:
    """The index of a frame by number or name.

    Raises:
        ConfigError: there is no such frame; the message names the nearest.
    """
    text = str(wanted)
    if text.lstrip("-").isdecimal() and "/" not in text:
        index = int(text)
        if not -len(dataset) <= index < len(dataset):
            raise ConfigError(f"there is no frame {index}: the split has frames 0 to {len(dataset) - 1}")
        return index % len(dataset)
    names = {dataset.name(index): index for index in range(len(dataset))}
    if text not in names:
        raise ConfigError(f"there is no frame '{text}'; {nearest(text, list(names)[:200])[:400]}")
    return names[text]


def look(
    dataset: Dataset,
    index: int,
    lidar: str | None = None,
    cameras: bool = True,
    reach_m: float = 50.0,
    sights: tuple[Sight, ...] = (),
) -> View:
    """Read a frame with one sweep and, if wanted, all cameras of every agent.

    Args:
        dataset: the split.
        index: of the frame.
        lidar: which sweep of those who have several; None takes the one with most beams.
        cameras: whether images are read.
        reach_m: how far around the agents is drawn, metres.
        sights: what a model detects in this frame (`evaluation.sight.Watcher`).

    Raises:
        DataError: a file is missing or corrupt.
        ConfigError: no agent has the sweep that `lidar` names.
    """
    available = dataset.available(index)
    lidars: dict[int, str] = {}
    for agent, names in available.items():
        wanted = LIDARS if lidar is None else (lidar,)
        if sweep := next((name for name in wanted if name in names), None):
            lidars[agent] = sweep
    if lidar is not None and not lidars:
        raise ConfigError(f"no agent of {dataset.name(index)} has lidar={lidar}: {available}")
    camera = ["camera"] if cameras else []
    sensors = {
        agent: [*([lidars[agent]] if agent in lidars else []), *(name for name in camera if name in names)]
        for agent, names in available.items()
    }
    return View(dataset.read(index, sensors), lidars, reach_m, sights)
