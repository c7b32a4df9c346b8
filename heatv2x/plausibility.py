"""Whether poses, labels and points can be true, and whether they belong together: left and right, up and down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from heatv2x.plurals import counted
from heatv2x.structures import AgentFrame, Bool, Float32, Float64, Frame, PointCloud

State = Literal["ok", "note", "fault"]

MAX_TILT_DEG = 30.0
MAX_TILT_ROADSIDE_DEG = 60.0
MAX_HEIGHT_M = 3000.0
MAX_APART_M = 500.0
MIN_APART_M = 0.5
MAX_JUMP_M = 100.0
MAX_REACH_M = 300.0
SIZE_M = (0.2, 30.0)
MAX_SPEED = 100.0

_NEAR_M = 40.0
_SIDE_M = 3.0
_BOXES_PER_SWEEP = 8
_ENOUGH_BOXES = 12
_ENOUGH_SWEEPS = 3
_ENOUGH_POINTS = 100
_SLACK_M = 0.1
_GROUND_RING_M = (3.0, 30.0)
_GROUND_M = (-15.0, -0.3)
_FLOATING_M = 0.6


@dataclass(frozen=True)
class Verdict:
    """The answer to one question about a whole dataset: what was asked, how it stands, and what was seen."""

    name: str
    state: State
    detail: str


@dataclass(frozen=True)
class Absurdity:
    """Something in one frame that cannot be.

    Attributes:
        kind: "pose" or "object".
        agent: whose description says so; None for the frame as a whole.
        key: the key or object at fault.
        problem: one sentence.
    """

    kind: str
    agent: int | None
    key: str
    problem: str


def absurd_poses(frame: Frame, before: Frame | None) -> Iterator[Absurdity]:
    """Poses of agents that cannot be.

    Args:
        before: the frame before it in the same scenario.
    """
    for agent in frame.agents:
        yield from _absurd_pose(agent)
    earlier = {} if before is None else {agent.agent_id: agent for agent in before.agents}
    for agent in frame.agents:
        old = earlier.get(agent.agent_id)
        if old is not None and (jump := agent.pose.planar_distance(old.pose)) > MAX_JUMP_M:
            yield Absurdity("pose", agent.agent_id, "pose", f"jumps {jump:,.0f} m since frame {old.timestamp}")
    for number, agent in enumerate(frame.agents):
        for other in frame.agents[:number]:
            apart = agent.pose.planar_distance(other.pose)
            if apart > MAX_APART_M:
                yield Absurdity("pose", agent.agent_id, "pose", f"is {apart:,.0f} m away from agent {other.agent_id}")
            elif apart < MIN_APART_M:
                yield Absurdity("pose", agent.agent_id, "pose", f"is where agent {other.agent_id} is ({apart:.2f} m)")


def absurd_objects(frame: Frame) -> Iterator[Absurdity]:
    """Labelled objects that cannot be, or cannot be seen from where the agents are."""
    objects = frame.objects
    if not len(objects):
        return
    centres = objects.T_world_object[:, :3, 3]
    agents = np.stack([agent.pose.xyz for agent in frame.agents])
    away = np.linalg.norm(centres[:, None, :2] - agents[None, :, :2], axis=2)  # (N, A)
    for row, object_id in enumerate(objects.ids):
        seers = np.flatnonzero(objects.hits[row] > 0)
        first = frame.agents[int(seers[0])].agent_id if len(seers) else None
        key = f"object {object_id}"
        size = objects.size[row]
        if size.min() < SIZE_M[0] or size.max() > SIZE_M[1]:
            shown = " x ".join(f"{side:.2f}" for side in size)
            yield Absurdity("object", first, key, f"measures {shown} m")
        if np.isfinite(objects.speed[row]) and abs(objects.speed[row]) > MAX_SPEED:
            yield Absurdity("object", first, key, f"moves at {objects.speed[row]:.0f} m/s")
        for column in seers:
            if away[row, column] > MAX_REACH_M:
                agent_id = frame.agents[int(column)].agent_id
                problem = f"is {away[row, column]:,.0f} m away from agent {agent_id}, whose LiDAR is said to see it"
                yield Absurdity("object", agent_id, key, problem)


def _absurd_pose(agent: AgentFrame) -> Iterator[Absurdity]:
    tilt = float(np.degrees(np.arccos(np.clip(agent.pose.matrix[2, 2], -1, 1))))
    if tilt > (MAX_TILT_ROADSIDE_DEG if agent.is_roadside else MAX_TILT_DEG):
        yield Absurdity("pose", agent.agent_id, "pose", f"is tilted by {tilt:.0f} degrees")
    if abs(agent.pose.xyz[2]) > MAX_HEIGHT_M:
        yield Absurdity("pose", agent.agent_id, "pose", f"lies at a height of {agent.pose.xyz[2]:,.0f} m")


@dataclass
class PointsAndLabels:
    """Whether points lie where labels say, gathered over a dataset.

    A tree that was converted with y on the wrong side still looks like streets; only points and labels together tell.
    """

    boxes: int = 0
    filled: int = 0
    filled_mirrored: int = 0
    ground_m: list[float] = field(default_factory=list)
    bottoms_m: list[float] = field(default_factory=list)

    def add(self, frame: Frame, agent_id: int, cloud: PointCloud) -> None:
        """Take in one sweep of one agent."""
        column = next(n for n, agent in enumerate(frame.agents) if agent.agent_id == agent_id)
        points = cloud.points
        ground = _ground(points)
        if ground is not None and not frame.agents[column].is_roadside:
            self.ground_m.append(ground)
        if not len(frame.objects):
            return
        T_agent_object = frame.agents[column].pose.inverse() @ frame.objects.T_world_object
        centres = T_agent_object[:, :3, 3]
        distance = np.hypot(centres[:, 0], centres[:, 1])
        seen = (frame.objects.hits[:, column] > 0) & (distance < _NEAR_M)
        if ground is not None:
            bottoms = centres[seen, 2] - frame.objects.size[seen, 2] / 2 - ground
            self.bottoms_m.extend(bottoms.tolist())
        beside = np.flatnonzero(seen & (np.abs(centres[:, 1]) > _SIDE_M))
        for row in beside[np.argsort(distance[beside])][:_BOXES_PER_SWEEP]:
            inside = _inside(points, T_agent_object[row], frame.objects.size[row])
            mirrored = _inside(
                points * np.array([1, -1, 1, 1], np.float32), T_agent_object[row], frame.objects.size[row]
            )
            self.boxes += 1
            self.filled += bool(inside.any())
            self.filled_mirrored += bool(mirrored.any())

    def verdicts(self) -> list[Verdict]:
        """What was seen."""
        return [self._handedness(), self._ground_plane()]

    def _handedness(self) -> Verdict:
        if self.boxes < _ENOUGH_BOXES:
            return Verdict("handedness", "note", f"not judged: only {self.boxes} labelled objects near enough to tell")
        share, mirrored = self.filled / self.boxes, self.filled_mirrored / self.boxes
        seen = f"{share:.0%} of {self.boxes} near boxes hold points, {mirrored:.0%} if left and right are swapped"
        if share >= 0.6 or share > mirrored + 0.3:
            return Verdict("handedness", "ok", seen)
        if mirrored > share + 0.3:
            return Verdict("handedness", "fault", f"left and right are swapped between points and labels: {seen}")
        return Verdict("handedness", "fault", f"points and labels do not belong together: {seen}")

    def _ground_plane(self) -> Verdict:
        if len(self.ground_m) < _ENOUGH_SWEEPS:
            return Verdict("ground plane", "note", f"not judged: only {len(self.ground_m)} sweeps with enough points")
        ground = float(np.median(self.ground_m))
        if not _GROUND_M[0] <= ground <= _GROUND_M[1]:
            below = f"{-ground:.1f} m below" if ground < 0 else f"{ground:.1f} m above"
            return Verdict(
                "ground plane", "fault", f"the ground lies {below} the LiDAR: up and down, or units, are wrong"
            )
        seen = f"the LiDAR stands {-ground:.1f} m above the ground"
        if len(self.bottoms_m) < _ENOUGH_BOXES:
            return Verdict("ground plane", "ok", seen)
        gap = float(np.median(self.bottoms_m))
        seen += f", boxes stand {abs(gap):.1f} m {'above' if gap > 0 else 'below'} it"
        return Verdict("ground plane", "ok" if abs(gap) <= _FLOATING_M else "fault", seen)


def _ground(points: Float32) -> float | None:
    """Height of the ground in the sensor's frame: the low end of what lies around it."""
    reach = np.hypot(points[:, 0], points[:, 1])
    around = points[(reach > _GROUND_RING_M[0]) & (reach < _GROUND_RING_M[1]), 2]
    return float(np.percentile(around, 10)) if len(around) >= _ENOUGH_POINTS else None


def _inside(points: Float32, T_agent_object: Float64, size: Float32) -> Bool:
    half = size / 2 + _SLACK_M
    low = 0.3 - size[2] / 2  # the road inside a box is no proof of a vehicle
    centre = T_agent_object[:3, 3]
    near = points[np.abs(points[:, :2] - centre[:2]).max(axis=1) < np.hypot(half[0], half[1]), :3]
    local = (near - centre) @ T_agent_object[:3, :3]
    return np.asarray((np.abs(local) <= half).all(axis=1) & (local[:, 2] > low))


@dataclass
class Returns:
    """What the files of point clouds hold that is no usable point, gathered over a dataset."""

    clouds: int = 0
    points: int = 0
    left_out: int = 0
    clipped: int = 0
    without_intensity: int = 0

    def add(self, cloud: PointCloud) -> None:
        """Take in one sweep."""
        self.clouds += 1
        self.points += len(cloud)
        self.left_out += cloud.left_out
        self.clipped += cloud.clipped
        self.without_intensity += not cloud.has_intensity

    def verdicts(self) -> list[Verdict]:
        """What was seen; nothing if no cloud was read."""
        if not self.clouds:
            return []
        given, notes = self.points + self.left_out, []
        if self.left_out:
            notes.append(f"{_share(self.left_out, given)} of all points have no position (NaN or infinite): left out")
        if self.clipped:
            notes.append(
                f"{_share(self.clipped, self.points)} of all intensities exceed intensity_max: they count as 1"
            )
        clouds = counted(self.clouds, "cloud")
        if self.without_intensity:
            notes.append(f"{self.without_intensity:,} of {clouds} without intensity: it counts as 0")
        if notes:
            return [Verdict("points", "note", "; ".join(notes))]
        usable = f"{counted(given, 'point')} of {clouds}, all with a position and an intensity"
        return [Verdict("points", "ok", usable)]


def _share(part: int, whole: int) -> str:
    """A share in percent that is not shown as 0 unless it is."""
    share = part / max(whole, 1)
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
