"""One sweep with everything that it is compared with: the agent's pose, and the labelled objects of its frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from heatv2x.structures import Bool, Float32, Float64, Frame, Int64, PointCloud

CROP_M = 60.0
_SWEEPS = 6
Group = tuple[str, str, int]
"""Split, scenario and agent: what is judged together."""
_VOXEL_M = 0.2


@dataclass(frozen=True, eq=False)
class Sweep:
    """A thinned sweep of one agent, its pose, and the labels of the frame.

    Attributes:
        split, scenario, timestamp: where it comes from.
        agent_id: negative for roadside units.
        T_world_agent: (4, 4) the pose.
        points: (P, 3) float32 in the agent's frame by ascending x, one per 0.2 m voxel, within `CROP_M` of
            the sensor, or of where the pose says it stands (points may wrongly be in world coordinates).
        poses: (4, 4) of all agents of the frame, by id.
        ids, T_world_object, size: (N,), (N, 4, 4), (N, 3) of the frame's labelled objects.
        own: (N,) whether the agent itself labels the object; all True where a dataset does not say who labels.
        tracked: whether ids follow objects from frame to frame.
    """

    split: str
    scenario: str
    timestamp: str
    agent_id: int
    T_world_agent: Float64
    points: Float32
    poses: Mapping[int, Float64]
    ids: Int64
    T_world_object: Float64
    size: Float64
    own: Bool
    tracked: bool = True
    T_agent_world: Float64 = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "T_agent_world", np.linalg.inv(self.T_world_agent))
        by_x = self.points[np.argsort(self.points[:, 0], kind="stable")]
        object.__setattr__(self, "points", np.asfortranarray(by_x))  # so that a box finds its points by bisection

    @property
    def group(self) -> Group:
        """Split, scenario and agent: sweeps of one group are judged together."""
        return self.split, self.scenario, self.agent_id

    @property
    def T_agent_object(self) -> Float64:  # noqa: N802
        """(N, 4, 4) the labelled objects in the agent's frame."""
        return np.asarray(self.T_agent_world @ self.T_world_object)


def take_sweep(split: str, frame: Frame, agent_id: int, cloud: PointCloud, tracked: bool = True) -> Sweep:
    """The sweep of one agent of a frame, thinned."""
    column = next(n for n, agent in enumerate(frame.agents) if agent.agent_id == agent_id)
    objects = frame.objects
    pose = frame.agents[column].pose
    attributed = bool((objects.hits > 0).any())
    return Sweep(
        split=split,
        scenario=frame.scenario,
        timestamp=frame.timestamp,
        agent_id=agent_id,
        T_world_agent=pose.matrix,
        points=_thinned(cloud.points[:, :3], pose.xyz),
        poses={agent.agent_id: agent.pose.matrix for agent in frame.agents},
        ids=objects.ids,
        T_world_object=objects.T_world_object,
        size=objects.size.astype(np.float64),
        own=objects.hits[:, column] > 0 if attributed else np.ones(len(objects), bool),
        tracked=tracked,
    )


def _thinned(points: Float32, position: Float64) -> Float32:
    """(P, 3) one point per voxel, near the origin or near `position`."""
    near = (np.abs(points[:, :2]) < CROP_M).all(axis=1)
    if np.hypot(*position[:2]) > CROP_M:
        near |= (np.abs(points[:, :2] - position[:2]) < CROP_M).all(axis=1)
    points = points[near & (np.abs(points) < 1e5).all(axis=1)]
    cells = np.floor(points / _VOXEL_M).astype(np.int64)
    cells -= cells.min(axis=0) if len(cells) else 0
    codes = (cells[:, 0] << 42) + (cells[:, 1] << 21) + cells[:, 2]
    _, first = np.unique(codes, return_index=True)
    return np.ascontiguousarray(points[np.sort(first)])


def spread(sweeps: list[Sweep], count: int = _SWEEPS) -> list[Sweep]:
    """At most `count` of them, spread over the scenario."""
    return [sweeps[i] for i in np.unique(np.linspace(0, len(sweeps) - 1, min(len(sweeps), count)).astype(int))]
