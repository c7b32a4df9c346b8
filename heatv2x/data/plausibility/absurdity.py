"""Impossible poses and objects, each judged by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from heatv2x.structures import AgentFrame, Frame

MAX_TILT_DEG = 30.0
MAX_TILT_ROADSIDE_DEG = 60.0
MAX_HEIGHT_M = 3000.0
MAX_APART_M = 500.0
MIN_APART_M = 0.5
MAX_JUMP_M = 100.0
MAX_REACH_M = 300.0
SIZE_M = (0.2, 30.0)
MAX_SPEED = 100.0


@dataclass(frozen=True)
class Absurdity:
    """Something impossible in one frame.

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
    """Impossible poses of agents.

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
                yield Absurdity(
                    "pose",
                    agent.agent_id,
                    "pose",
                    f"is at the position of agent {other.agent_id} ({apart:.2f} m apart)",
                )


def absurd_objects(frame: Frame) -> Iterator[Absurdity]:
    """Labelled objects that are impossible, or that cannot be seen from where the agents are."""
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
                problem = f"is {away[row, column]:,.0f} m away from agent {agent_id}, whose LiDAR supposedly sees it"
                yield Absurdity("object", agent_id, key, problem)


def _absurd_pose(agent: AgentFrame) -> Iterator[Absurdity]:
    tilt = float(np.degrees(np.arccos(np.clip(agent.pose.matrix[2, 2], -1, 1))))
    if tilt > (MAX_TILT_ROADSIDE_DEG if agent.is_roadside else MAX_TILT_DEG):
        yield Absurdity("pose", agent.agent_id, "pose", f"is tilted by {tilt:.0f} degrees")
    if abs(agent.pose.xyz[2]) > MAX_HEIGHT_M:
        yield Absurdity("pose", agent.agent_id, "pose", f"lies at a height of {agent.pose.xyz[2]:,.0f} m")
