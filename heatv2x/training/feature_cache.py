"""The frozen prefix, computed once: whatever lies before the first trainable tensor is the same at every step.

Augmentation of sensor data is drawn while the cache is filled; ego, dropped agents, types, pose noise and crops still
vary at every step.

Shapes: R rows (one per agent of every frame and version), C channels, Y X shared grid.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from heatv2x.core import distributed
from heatv2x.core.files import atomic_path
from heatv2x.errors import ConfigError, DataError
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.networks import ENCODES
from heatv2x.nn.move import in_precision, to_device
from heatv2x.structures import AgentFrame, Frame, Pose
from heatv2x.training.augmentation import mirrored_frame_copy
from heatv2x.training.distillation import TeacherFeatures, as_seen_by
from heatv2x.training.pool import Pool
from heatv2x.training.scenes import (
    Batch,
    Scene,
    SceneConfig,
    augment,
    collate_scenes,
    draw_members,
    draw_types,
    report_poses,
)

_ENCODE_AT_ONCE = 8
_FORMAT = {"format": 2}  # of the file; a cache of another one is refused, as one made from other data is


@dataclass
class FeatureCache:
    """Features of every agent of every frame as one type or several.

    Attributes:
        frames: labels as augmented, without sensor data.
        features: by type, (R, C, Y, X) float16.
        poses: by type, by frame, by agent: the pose that belongs to that type's augmented data.
        first_row: row of agent 0 of each frame.
        teacher: the features the base would have in the newcomer's place, if asked for.
    """

    frames: list[Frame]
    features: dict[str, Tensor]
    poses: dict[str, list[list[Pose]]]
    first_row: list[int]
    teacher: TeacherFeatures | None = None

    def rows(self, scene: Scene) -> list[int]:
        """Row of each member of a scene."""
        return [self.first_row[scene.where] + member for member in scene.members]

    def collate(
        self, scenes: Sequence[Scene], types: Collection[str], grid: BevGrid, config: SceneConfig
    ) -> tuple[Batch, list[int]]:
        """A batch whose features are the cached ones of some types, and the row of each of its agents."""
        batch = collate_scenes(scenes, None, grid, config)
        rows = [row for scene in scenes for row in self.rows(scene)]
        for name in types:
            mine = [row for row, t in zip(rows, batch.types, strict=True) if t == name]
            if mine:
                batch.features[name] = self.features[name][torch.tensor(mine)].float()
        return batch, rows

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
    precision: str = "float32",
    kept: FeatureCache | None = None,
) -> FeatureCache:
    """Compute the features of every agent once.

    Args:
        shared: deployed types: what they send (encoder, adapters and shared backbone).
        encoded: types whose adapters are to be trained: encoder outputs only.
        seed: of the augmentation.
        teacher: a base type that also encodes what the first of `encoded` saw, and whether from its "own" sweep or
            from a "companion" (see `distillation`).
        precision: of the encoders' matrix products; features are kept as float16 either way.
        kept: of an earlier stage, made from the same frames with the same seed; what it holds is not computed again.
    """
    model.eval()
    model.require([*shared, *encoded, *(() if teacher is None else teacher[:1])], ENCODES)
    device = next(model.parameters()).device
    known = set(kept.features) if kept is not None else set()
    types = [name for name in (*shared, *encoded) if name not in known]
    if encoded and encoded[0] in known:
        teacher = None
    frames, first_row = _frames(pool, config, seed)
    poses: dict[str, list[list[Pose]]] = {name: [] for name in types}
    lines = {name: _Line(model, name, name in shared, precision, device) for name in types}
    teacher_line = None if teacher is None else _Line(model, teacher[0], True, precision, device)
    for index in range(len(pool.frames)):
        flip = _flips(config, seed, index)
        for name in types:
            draws = [[seed, index, zlib.crc32(name.encode()), j] for j in range(len(frames[index].agents))]

            def agents_as(sensed: str, draws: list[list[int]] = draws, index: int = index, flip: bool = flip) -> Any:
                return [
                    augment(pool.agent(index, j, sensed), flip, config, np.random.default_rng(draw))
                    for j, draw in enumerate(draws)
                ]

            agents = agents_as(name)
            if teacher is not None and teacher_line is not None and name == encoded[0]:
                like, whose = teacher
                teacher_line.add([as_seen_by(model, like, a) for a in agents] if whose == "own" else agents_as(like))
            poses[name].append([agent.pose for agent in agents])
            lines[name].add(agents)
        if progress:
            progress(index + 1, len(pool.frames))
    features = {name: line.features()[-1] for name, line in lines.items()}
    said = None if teacher_line is None else TeacherFeatures(*teacher_line.features())
    if kept is not None:
        features, poses, said = kept.features | features, kept.poses | poses, said or kept.teacher
    return FeatureCache(frames, features, poses, first_row, said)


class _Line:
    """Agents waiting to be encoded several at a time, and what came out: encoder outputs, and shared features.

    Of several processes each encodes every so many groups; they are the same groups, whoever encodes them.
    """

    def __init__(self, model: Collaboration, name: str, share: bool, precision: str, device: torch.device) -> None:
        self.model, self.name, self.share, self.device = model, name, share, device
        self.precision = precision
        self.waiting: list[object] = []
        self.seen = 0
        self.rows: list[range] = []  # of the parts
        self.parts: tuple[list[Tensor], ...] = ([], []) if share else ([],)

    def add(self, agents: Sequence[AgentFrame]) -> None:
        for agent in agents:
            if self.seen // _ENCODE_AT_ONCE % distributed.world_size() == distributed.rank():
                self.waiting.append(self.model.agent(self.name).prepare(agent))
            self.seen += 1
            if len(self.waiting) == _ENCODE_AT_ONCE:
                self.flush()

    def flush(self) -> None:
        if not self.waiting:
            return
        agent = self.model.agent(self.name)
        first = (self.seen - 1) // _ENCODE_AT_ONCE * _ENCODE_AT_ONCE
        self.rows.append(range(first, first + len(self.waiting)))
        with in_precision(self.precision, self.device):
            found = [agent(to_device(agent.collate(self.waiting), self.device))]
            if self.share:
                found.append(self.model.to_shared_space(self.name, found[0]))
        for part, feature in zip(self.parts, found, strict=True):
            part.append(feature.half().cpu().contiguous())
        self.waiting.clear()

    def features(self) -> list[Tensor]:
        self.flush()
        if distributed.world_size() == 1:
            return [torch.cat(part) for part in self.parts]
        return [self._of_all(part) for part in self.parts]

    def _of_all(self, part: list[Tensor]) -> Tensor:
        model = self.model
        whole = torch.zeros(self.seen, model.config.channels, *model.grid.shape, dtype=torch.float16)
        for rows, features in zip(self.rows, part, strict=True):
            whole[rows.start : rows.stop] = features
        return distributed.all_reduce_rows(whole)


def save_cache(cache: FeatureCache, path: Path, about: Mapping[str, Any]) -> None:
    """Keep a cache for a later stage.

    Args:
        about: what it was made from; `load_cache` asks for the same.
    """
    tensors = {f"features.{name}": value for name, value in cache.features.items()}
    for name, frames in cache.poses.items():
        tensors[f"poses.{name}"] = torch.from_numpy(np.stack([pose.matrix for poses in frames for pose in poses]))
    if cache.teacher is not None:
        tensors["teacher.encoded"], tensors["teacher.shared"] = (
            cache.teacher.encoded,
            cache.teacher.shared,
        )
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, {"about": json.dumps({**about, **_FORMAT}, sort_keys=True)})


def load_cache(path: Path, pool: Pool, config: SceneConfig, seed: int, about: Mapping[str, Any]) -> FeatureCache:
    """A cache that an earlier stage kept.

    Args:
        pool, config, seed: what it was filled from.
        about: what it must have been made from.

    Raises:
        ConfigError: it was made from something else; says from what.
        DataError: the file is missing or corrupt.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            made_from = json.loads((file.metadata() or {})["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(path, f"is not a feature cache: {error}", way_out="leave cache= out") from error
    wanted = json.loads(json.dumps({**about, **_FORMAT}))
    differs = sorted(key for key in {*made_from, *wanted} if made_from.get(key) != wanted.get(key))
    if differs:
        raise ConfigError(
            f"{path} was made with different {', '.join(differs)}: leave out cache=, or use the same settings and data"
        )
    frames, first_row = _frames(pool, config, seed)
    poses: dict[str, list[list[Pose]]] = {}
    for name, matrices in tensors.items():
        if name.startswith("poses."):
            flat = [Pose(matrix) for matrix in matrices.numpy()]
            poses[name.removeprefix("poses.")] = [flat[a:b] for a, b in itertools.pairwise(first_row)]
    features = {n.removeprefix("features."): value for n, value in tensors.items() if n.startswith("features.")}
    teacher = None
    if "teacher.shared" in tensors:
        teacher = TeacherFeatures(tensors["teacher.encoded"], tensors["teacher.shared"])
    return FeatureCache(frames, features, poses, first_row, teacher)


def _frames(pool: Pool, config: SceneConfig, seed: int) -> tuple[list[Frame], list[int]]:
    """Labels as augmented, and the row of agent 0 of each frame."""
    frames, first_row = [], [0]
    for index, frame in enumerate(pool.frames):
        frames.append(mirrored_frame_copy(frame) if _flips(config, seed, index) else frame)
        first_row.append(first_row[-1] + len(frame.agents))
    return frames, first_row


def _flips(config: SceneConfig, seed: int, index: int) -> bool:
    return bool(config.mirror and np.random.default_rng([seed, index]).random() < 0.5)
