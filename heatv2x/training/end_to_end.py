"""Collaborative training of everything.

Of the base, a single agent's network, full fine-tuning, training from scratch on a mix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from heatv2x.agents.base import Agent
from heatv2x.core import distributed
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.exchange import only_lidar
from heatv2x.model.heads.center import heatmap_targets
from heatv2x.model.links import in_order
from heatv2x.nn.losses import heatmap_focal, pyramid_foreground
from heatv2x.training.distillation import Onlooker
from heatv2x.training.pool import Pool
from heatv2x.training.scenes import (
    Batch,
    Scene,
    SceneConfig,
    collate_scenes,
    draw_scene,
    only_ego,
    targets,
    with_pooled_points,
)
from heatv2x.training.stage import Stage


class CollaborativeTraining(Stage):
    """Trains every tensor of a model end to end on scenes of the given types.

    Args:
        pool: training frames with the sensor data of every type in `types`.
        types: how likely each type is for each agent. One type gives the base; a deployed and a new one give full
            fine-tuning.
        scenes: how scenes are drawn; `senders=0` trains a single agent's network.
        batch_size: scenes per step.
        required: a type that every scene must contain.
        occupancy_weight: weight of the confidence loss, where the head has none of its own (`Head.foreground`).
        teacher: a frozen copy of the base, as it was before, that teaches `required` what to say; none by default.
        distill: weight of the distance from that.
    """

    def __init__(
        self,
        model: Collaboration,
        pool: Pool,
        types: Mapping[str, float],
        scenes: SceneConfig,
        batch_size: int = 4,
        required: str | None = None,
        occupancy_weight: float = 0.2,
        name: str = "base",
        teacher: Onlooker | None = None,
        distill: float = 0.0,
    ) -> None:
        super().__init__(model)
        self.name = name
        self.pool = pool
        self.types = dict(types)
        self.scenes = scenes
        self.batch_size = batch_size
        self.required = required
        self.occupancy_weight = occupancy_weight
        self.teacher = teacher
        self.distill = distill

    def trainable(self) -> list[str]:
        """Everything but the reader, which is trained on what the finished networks say, and newcomers' detectors."""
        left_out = ("reader.", "detectors.")
        return [name for name, _ in self.model.named_parameters() if not name.startswith(left_out)]

    def set_mode(self) -> None:
        """All in training mode."""
        self.model.train()

    def draw(self, rng: np.random.Generator) -> list[Scene]:
        """Freshly augmented scenes."""
        twin = None if self.teacher is None else self.teacher.twin
        some = range(self.batch_size)
        return [draw_scene(self.pool, self.scenes, self.types, rng, self.required, twin) for _ in some]

    def collate(self, items: Sequence[Scene], drawn: Sequence[Scene]) -> Batch:
        """Scenes with raw sensor inputs.

        With early fusion those of the egos alone, each with the points of all whom it hears.

        A type that only other processes hold gets a stand-in, an agent of theirs: its encoder takes part in the shared
        statistics of batch normalisation, and counts for nothing.
        """
        agents: dict[str, Agent] = {name: self.model.agent(name) for name in self.types}
        seen = items
        if self.model.exchange.name == "points":  # the ego looks at everybody's points, and hears no features
            items = [with_pooled_points(scene, partial(only_lidar, self.model)) for scene in items]
            drawn = [only_ego(scene) for scene in drawn]
        batch = collate_scenes(items, agents, self.model.grid, self.scenes)
        if seen is not items:
            batch.boxes = [targets(scene, self.model.grid, self.scenes.min_hits)[0] for scene in seen]
        elsewhere = {t: agent for scene in drawn for t, agent in zip(scene.types, scene.agents, strict=True)}
        missing = sorted(set(elsewhere) - set(batch.types))
        stand_ins = {name: agents[name].collate([agents[name].prepare(elsewhere[name])]) for name in missing}
        taught = None
        if self.teacher is not None and self.required is not None:
            taught = self.teacher.inputs(self.teacher.sights(items, [self.required]))
        return replace(batch, inputs=batch.inputs | stand_ins, stand_ins=tuple(missing), taught=taught)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Detection after fusion, each kind's own loss, and confidence on every agent's own labels."""
        encoded, auxiliary = {}, []
        for name in sorted(batch.inputs):  # the order in which processes meet in their normalisations
            absent = name in batch.stand_ins
            with distributed.uncounted() if absent else nullcontext():
                feature, extra = self.model.agent(name).supervised(batch.inputs[name])
                shared = self.model.to_shared_space(name, feature)
            if absent:
                auxiliary.append(0 * (shared.float().sum() + extra))
            else:
                encoded[name] = shared
                auxiliary.append(extra)
        features = in_order(encoded, batch.types)
        maps = self.model.collaborate(features, batch.types, batch.links)
        grids = batch.links.windows or [self.model.grid] * len(batch.boxes)
        terms = self.model.head.loss(maps, batch.boxes, grids)
        terms["auxiliary"] = torch.stack(auxiliary).sum()
        if self.teacher is not None and self.required is not None:
            terms["distill"] = self.distill * self.teacher.loss(encoded[self.required], self.teacher.says(batch.taught))
        levels = self.model.fusion.occupancies(features)
        if levels:
            terms["occupancy"] = self._occupancy(levels, batch.own_boxes)
        return terms

    def _occupancy(self, levels: list[Tensor], own_boxes: list[Tensor]) -> Tensor:
        """How well each agent's confidence tells where it sees objects.

        By the head's own cells where it has an opinion (published weights); otherwise by heatmaps, half the weight for
        every level.
        """
        grid = self.model.grid
        told = self.model.head.foreground(own_boxes, grid, levels[0].device)
        if told is not None:
            return pyramid_foreground(levels, *told)
        terms = []
        for level, logits in enumerate(levels):
            target = heatmap_targets(own_boxes, [grid.coarser(2**level)] * len(own_boxes), device=logits.device)
            terms.append(self.occupancy_weight / 2**level * heatmap_focal(logits.float(), target[:, None]))
        return torch.stack(terms).sum()
