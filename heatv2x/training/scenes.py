"""Draws training scenes from a pool and puts them into batches.

A scene is one ego and the agents it hears, each of a drawn type, turned, mirrored and thinned, with the poses as
reported.

Shapes: A agents of a batch in one flat list, B egos, K message slots per ego, N boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatv2x.agents.base import Agent, sweep
from heatv2x.core.config import Config
from heatv2x.data.ground_truth import ground_truth
from heatv2x.geometry.grid import BevGrid
from heatv2x.link.channel import disturbed
from heatv2x.link.points import pooled
from heatv2x.model.heads.base import Detections
from heatv2x.model.links import Links
from heatv2x.nn.move import ON_HOST
from heatv2x.structures import AgentFrame, Frame, Pose
from heatv2x.training.augmentation import mirrored_copy, mirrored_frame_copy, rotated_copy, thinned_copy
from heatv2x.training.pool import Pool


class SceneConfig(Config):
    """How training scenes are drawn.

    Attributes:
        senders: the most agents an ego hears.
        alone: share of the scenes in which it receives no messages.
        range_m: communication range, metres.
        turn_rad: standard deviation of the random turn of every agent's frame.
        mirror: mirror half of the scenes.
        thin: greatest share of points dropped from a sweep.
        min_hits: LiDAR returns an object needs to be a training target.
        noise: draw pose noise for senders: 30 % none, 45 % up to 0.5 m and degrees, 25 % of 1 m and degree.
    """

    senders: int = 2
    alone: float = 0.15
    range_m: float = 70.0
    turn_rad: float = 0.12
    mirror: bool = True
    thin: float = 0.2
    min_hits: int = 2
    noise: bool = True


@dataclass
class Scene:
    """One ego and those it hears; agent 0 is the ego.

    Attributes:
        frame: the labels and poses of the agents, augmented alike.
        members: indices into `frame.agents`, the ego first.
        types: the drawn type of each member.
        agents: the sensor data of each member as its type; empty when features come from a cache.
        reported: poses of the members as they report them, with standard deviations (metres, radians).
        twins: the members once more as another type, augmented alike, if a teacher looks at them.
    """

    frame: Frame
    members: list[int]
    types: list[str]
    agents: list[AgentFrame]
    reported: list[tuple[Pose, float, float]]
    where: int = -1
    twins: list[AgentFrame] = field(default_factory=list)


@dataclass
class Batch:
    """What a collaborative training step sees.

    Attributes:
        inputs: by type, the collated sensor inputs (empty when features come from a cache).
        types: (A,) types of the flat list.
        links: who hears whom.
        boxes: B tensors (N, 7) float32, what the participants of each scene see, in the ego's frame; stay on the CPU.
        own_boxes: A tensors (N, 7), what each agent itself sees, in its own frame; stay on the CPU.
        features: by type, (N, C, Y, X) cached features, if there are any.
        teacher: (N, C, Y, X) what the base would have said in the newcomers' place, if it teaches from a cache.
        taught: what the teacher's encoder sees in the newcomers' place, collated, if it looks on.
        stand_ins: types whose inputs are no agents of these scenes, see `CollaborativeTraining.collate`.
        alone: what each of the A agents detects by itself, in its own frame, for the reader; stays on the CPU.
        share: of their cells that senders send.
    """

    inputs: dict[str, Any]
    types: list[str]
    links: Links
    boxes: list[Tensor] = field(metadata=ON_HOST)
    own_boxes: list[Tensor] = field(metadata=ON_HOST)
    features: dict[str, Tensor] = field(default_factory=dict)
    teacher: Tensor | None = None
    taught: Any = None
    stand_ins: tuple[str, ...] = ()
    alone: list[Detections] = field(default_factory=list, metadata=ON_HOST)
    share: float = 1.0


def draw_scene(
    pool: Pool,
    config: SceneConfig,
    types: Mapping[str, float],
    rng: np.random.Generator,
    required: str | None = None,
    twin: str | None = None,
) -> Scene:
    """A random scene with fresh augmentation.

    Args:
        types: how likely each type is for each member.
        required: a type that at least one member must have.
        twin: a type as which every member is drawn once more, augmented alike.
    """
    where = int(rng.integers(len(pool.frames)))
    frame = pool.frames[where]
    members = draw_members(frame, config, rng)
    drawn = draw_types(len(members), types, rng, required)
    flip = config.mirror and rng.random() < 0.5
    agents, twins = [], []
    for member, agent_type in zip(members, drawn, strict=True):
        agent = pool.agent(where, member, agent_type)
        if twin is None:
            agents.append(augment(agent, flip, config, rng))
            continue
        seed = int(rng.integers(2**62))
        agents.append(augment(agent, flip, config, np.random.default_rng(seed)))
        twins.append(augment(pool.agent(where, member, twin), flip, config, np.random.default_rng(seed)))
    if flip:
        frame = mirrored_frame_copy(frame)
    moved = list(frame.agents)
    for member, agent in zip(members, agents, strict=True):
        moved[member] = agent
    frame = frame.with_agents(tuple(moved))
    reported = report_poses([agent.pose for agent in agents], config, rng)
    return Scene(frame, members, drawn, agents, reported, where, twins)


def augment(agent: AgentFrame, flip: bool, config: SceneConfig, rng: np.random.Generator) -> AgentFrame:
    """One agent's sensor data mirrored (or not), turned and thinned by chance."""
    agent = mirrored_copy(agent) if flip else agent
    agent = rotated_copy(agent, float(rng.normal(0.0, config.turn_rad)))
    return thinned_copy(agent, float(rng.uniform(0.0, config.thin)), rng)


def draw_members(frame: Frame, config: SceneConfig, rng: np.random.Generator) -> list[int]:
    """A random ego and some of the agents in its range."""
    able = range(len(frame.agents)) if frame.egos is None else frame.egos
    ego = able[int(rng.integers(len(able)))]
    pose = frame.agents[ego].pose
    near = [j for j, a in enumerate(frame.agents) if j != ego and a.pose.planar_distance(pose) <= config.range_m]
    count = 0 if rng.random() < config.alone else min(config.senders, len(near))
    return [ego, *(int(j) for j in rng.permutation(near)[:count])]


def draw_types(count: int, types: Mapping[str, float], rng: np.random.Generator, required: str | None) -> list[str]:
    """A type for each of `count` members; one is made the required type if none is."""
    names = list(types)
    weights = np.array([types[name] for name in names])
    drawn = [str(name) for name in rng.choice(names, size=count, p=weights / weights.sum())]
    if required is not None and required not in drawn:
        drawn[int(rng.integers(count))] = required
    return drawn


def report_poses(
    poses: Sequence[Pose], config: SceneConfig, rng: np.random.Generator
) -> list[tuple[Pose, float, float]]:
    """The pose each member reports: exact for the ego, noisy for senders, which also report how noisy."""
    reported = [(poses[0], 0.0, 0.0)]
    for pose in poses[1:]:
        kind = rng.random()
        sigma = 0.0 if kind < 0.3 or not config.noise else float(rng.uniform(0, 0.5)) if kind < 0.75 else 1.0
        x, y, yaw = rng.normal(size=3) * [sigma, sigma, np.radians(sigma)]
        reported.append((disturbed(pose, x, y, yaw) if sigma else pose, sigma, float(np.radians(sigma))))
    return reported


def only_ego(scene: Scene) -> Scene:
    """The scene as if no one had sent anything."""
    first = slice(0, 1)
    parts = (scene.members[first], scene.types[first], scene.agents[first], scene.reported[first])
    return Scene(scene.frame, *parts, scene.where)


def with_pooled_points(scene: Scene, lidar_of: Callable[[str], str]) -> Scene:
    """The ego alone, with the points of all whom it hears in its sweep, where their reported poses put them.

    Points travel exactly here; a message rounds them to centimetres.

    Args:
        lidar_of: the one LiDAR of a type.
    """
    ego, lidars = scene.agents[0], [lidar_of(name) for name in scene.types]
    own = scene.reported[0][0]
    senders = sorted(range(1, len(scene.agents)), key=lambda i: scene.agents[i].agent_id)  # as in a vehicle
    received = [(scene.reported[i][0].relative_to(own), sweep(scene.agents[i], lidars[i])) for i in senders]
    cloud = pooled(sweep(ego, lidars[0]), received)
    alone = only_ego(scene)
    alone.agents = [replace(ego, lidars={**ego.lidars, lidars[0]: cloud})]
    return alone


def targets(scene: Scene, grid: BevGrid, min_hits: int) -> tuple[Tensor, list[Tensor]]:
    """(N, 7) boxes that the participants see, in the ego's frame, and what each member sees in its own."""
    limits = (grid.x_min, grid.y_min, -10.0, grid.x_max, grid.y_max, 10.0)
    seen = ground_truth(scene.frame, scene.members[0], scene.members, limits=limits, min_hits=min_hits)
    own = [ground_truth(scene.frame, member, [member], limits=limits, min_hits=min_hits) for member in scene.members]
    return torch.from_numpy(seen.boxes), [torch.from_numpy(boxes.boxes) for boxes in own]


def collate_scenes(
    scenes: Sequence[Scene], agents: Mapping[str, Agent] | None, grid: BevGrid, config: SceneConfig
) -> Batch:
    """Put scenes into a batch; K is `config.senders`, so that shapes do not change from step to step.

    Args:
        agents: encoders that prepare the inputs; None if features come from a cache.
    """
    types = [t for scene in scenes for t in scene.types]
    first = np.cumsum([0, *(len(scene.members) for scene in scenes)])
    inputs: dict[str, Any] = {}
    if agents is not None:
        everyone = [agent for scene in scenes for agent in scene.agents]
        for name in sorted(set(types)):
            prepared = [agents[name].prepare(agent) for agent, t in zip(everyone, types, strict=True) if t == name]
            inputs[name] = agents[name].collate(prepared)
    seen = [targets(scene, grid, config.min_hits) for scene in scenes]
    return Batch(
        inputs,
        types,
        link(scenes, [int(i) for i in first[:-1]], config.senders),
        [boxes for boxes, _ in seen],
        [boxes for _, own in seen for boxes in own],
    )


def link(scenes: Sequence[Scene], first: Sequence[int], slots: int) -> Links:
    """The links of several scenes whose members follow one another in the flat list, starting at `first`."""
    batch = len(scenes)
    senders = torch.full((batch, slots), -1, dtype=torch.long)
    T = torch.eye(4, dtype=torch.float64).repeat(batch, slots, 1, 1)
    sigma_m, sigma_rad = torch.zeros(batch, slots), torch.zeros(batch, slots)
    for b, scene in enumerate(scenes):
        ego = scene.reported[0][0]
        for k, (pose, metres, radians) in enumerate(scene.reported[1:]):
            senders[b, k] = first[b] + 1 + k
            T[b, k] = torch.from_numpy(ego.relative_to(pose))
            sigma_m[b, k], sigma_rad[b, k] = metres, radians
    return Links(torch.tensor(first), senders, T, sigma_m, sigma_rad, torch.zeros(batch, slots))
