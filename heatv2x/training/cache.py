"""The frozen prefix, computed once: whatever lies before the first trainable tensor is the same at every step.

Augmentation of sensor data is drawn while the cache is filled; ego, dropped agents, types, pose noise and crops still
vary at every step.

Shapes: R rows (one per agent of every frame and version), C channels, Y X shared grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from heatv2x.model import Collaboration
from heatv2x.nn.move import to_device
from heatv2x.structures import Frame, Pose
from heatv2x.training.augment import mirrored_world
from heatv2x.training.lesson import Lesson, as_seen_by
from heatv2x.training.pool import Pool
from heatv2x.training.scenes import Scene, SceneConfig, draw_members, draw_types, report_poses, vary

_ENCODE_AT_ONCE = 8


@dataclass
class FeatureCache:
    """Features of every agent of every frame as one type or several.

    Attributes:
        frames: labels as augmented, without sensor data.
        features: by type, (R, C, Y, X) float16.
        poses: by type, by frame, by agent: the pose that belongs to that type's augmented data.
        first_row: row of agent 0 of each frame.
        lesson: what the base would have said in the newcomer's place, if asked for.
    """

    frames: list[Frame]
    features: dict[str, Tensor]
    poses: dict[str, list[list[Pose]]]
    first_row: list[int]
    lesson: Lesson | None = None

    def rows(self, scene: Scene) -> list[int]:
        """Row of each member of a scene."""
        return [self.first_row[scene.where] + member for member in scene.members]

    def frame_as(self, where: int, types: dict[int, str]) -> Frame:
        """A frame whose given agents have the poses of their types' data."""
        frame = self.frames[where]
        agents = list(frame.agents)
        for member, agent_type in types.items():
            agents[member] = replace(agents[member], pose=self.poses[agent_type][where][member])
        return frame.with_agents(tuple(agents))

    def draw_scene(
        self, config: SceneConfig, types: dict[str, float], rng: np.random.Generator, required: str | None
    ) -> Scene:
        """A random scene; its sensor data are the cached features."""
        where = int(rng.integers(len(self.frames)))
        members = draw_members(self.frames[where], config, rng)
        drawn = draw_types(len(members), types, rng, required)
        frame = self.frame_as(where, dict(zip(members, drawn, strict=True)))
        poses = [frame.agents[member].pose for member in members]
        return Scene(frame, members, drawn, [], report_poses(poses, config, rng), where)


@torch.no_grad()
def fill_cache(
    model: Collaboration,
    pool: Pool,
    shared: Sequence[str],
    encoded: Sequence[str],
    config: SceneConfig,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    teacher: tuple[str, str] | None = None,
) -> FeatureCache:
    """Compute the features of every agent once.

    Args:
        shared: deployed types: what they send (encoder, adapters and shared backbone).
        encoded: types whose adapters are to be trained: encoder outputs only.
        seed: of the augmentation.
        teacher: a base type that also encodes what the first of `encoded` saw, and whether from its "own" sweep or
            from a "companion" (see `lesson`).
    """
    model.eval()
    device = next(model.parameters()).device
    types = [*shared, *encoded]
    lessons: tuple[list[Tensor], list[Tensor]] = ([], [])
    lesson_waiting: list[object] = []
    frames, first_row = [], [0]
    poses: dict[str, list[list[Pose]]] = {name: [] for name in types}
    parts: dict[str, list[Tensor]] = {name: [] for name in types}
    waiting: dict[str, list[object]] = {name: [] for name in types}

    def flush(name: str) -> None:
        if waiting[name]:
            agent = model.agent(name)
            feature = agent(to_device(agent.collate(waiting[name]), device))
            parts[name].append((model.share(name, feature) if name in shared else feature).half().cpu())
            waiting[name].clear()

    def flush_lesson() -> None:
        if teacher is not None and lesson_waiting:
            agent = model.agent(teacher[0])
            feature = agent(to_device(agent.collate(lesson_waiting), device))
            lessons[0].append(feature.half().cpu())
            lessons[1].append(model.share(teacher[0], feature).half().cpu())
            lesson_waiting.clear()

    for index, frame in enumerate(pool.frames):
        flip = bool(config.mirror and np.random.default_rng([seed, index]).random() < 0.5)
        for place, name in enumerate(types):
            draws = [[seed, index, place, j] for j in range(len(frame.agents))]
            agents = [
                vary(pool.agent(index, j, name), flip, config, np.random.default_rng(draw))
                for j, draw in enumerate(draws)
            ]
            if teacher is not None and name == encoded[0]:
                like, whose = teacher
                seen = (
                    [as_seen_by(model, like, agent) for agent in agents]
                    if whose == "own"
                    else [
                        vary(pool.agent(index, j, like), flip, config, np.random.default_rng(draw))
                        for j, draw in enumerate(draws)
                    ]
                )
                for agent in seen:
                    lesson_waiting.append(model.agent(like).prepare(agent))
                    if len(lesson_waiting) == _ENCODE_AT_ONCE:
                        flush_lesson()
            poses[name].append([agent.pose for agent in agents])
            for agent in agents:
                waiting[name].append(model.agent(name).prepare(agent))
                if len(waiting[name]) == _ENCODE_AT_ONCE:
                    flush(name)
        frames.append(mirrored_world(frame) if flip else frame)
        first_row.append(first_row[-1] + len(frame.agents))
        if progress:
            progress(index + 1, len(pool.frames))
    for name in types:
        flush(name)
    flush_lesson()
    lesson = Lesson(torch.cat(lessons[0]), torch.cat(lessons[1])) if teacher is not None else None
    return FeatureCache(frames, {name: torch.cat(parts[name]) for name in types}, poses, first_row, lesson)
