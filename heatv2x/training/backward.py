"""Backward alignment after HEAL: a newcomer's whole encoder trains against the frozen base (Lu et al., ICLR 2024).

The rival of Local Heterogeneous Fine-Tuning: the same data, the same loss, the same windows, but no adapters; nothing
can be cached, because the first trainable tensor comes first. HEAL's rule is from its paper; this code is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatv2x.data.ground_truth import ground_truth
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.collaboration import Collaboration
from heatv2x.nn.move import ON_HOST
from heatv2x.training.distillation import Onlooker
from heatv2x.training.pool import Pool
from heatv2x.training.scenes import Scene, SceneConfig, draw_scene
from heatv2x.training.stage import Stage, names_below
from heatv2x.training.windows import WindowConfig, draw_window


@dataclass
class AloneBatch:
    """Freshly augmented single agents.

    Attributes:
        inputs: collated sensor inputs of N agents of the newcomer's type.
        boxes: N tensors (M, 7), what each agent sees, in its own frame; stay on the CPU.
        windows: N grids on which the loss is computed.
        taught: what the teacher's encoder sees in their places, collated, if there is a teacher.
    """

    inputs: Any
    boxes: list[Tensor] = field(metadata=ON_HOST)
    windows: list[BevGrid]
    taught: Any = None


class BackwardAlignment(Stage):
    """Trains the newcomer's encoder, every tensor of it, through the frozen backbone, neck and head.

    Args:
        newcomer: the type that joins.
        pool: training frames with its sensor data.
        scenes: augmentation.
        batch_size: agents per step.
        window: crop and margin behind the encoder.
        teacher: the base's encoder, which HEAL does without.
        distill: weight of the distance from what it says.
    """

    name = "backward_alignment"

    def __init__(
        self,
        model: Collaboration,
        newcomer: str,
        pool: Pool,
        scenes: SceneConfig,
        batch_size: int = 6,
        window: WindowConfig | None = None,
        teacher: Onlooker | None = None,
        distill: float = 0.0,
    ) -> None:
        super().__init__(model)
        self.newcomer = newcomer
        self.pool = pool
        self.scenes = scenes.model_copy(update={"senders": 0, "alone": 1.0})
        self.batch_size = batch_size
        self.window = window or WindowConfig()
        self.teacher = teacher
        self.distill = distill

    def trainable(self) -> list[str]:
        """The newcomer's encoder."""
        return names_below(self.model, (f"agents.{self.newcomer}.",))

    def set_mode(self) -> None:
        """The encoder in training mode, with its normalisation statistics; all else frozen."""
        self.model.eval()
        self.model.agent(self.newcomer).train()

    def draw(self, rng: np.random.Generator) -> list[tuple[Scene, BevGrid]]:
        """Random agents, random windows."""
        types = {self.newcomer: 1.0}
        twin = None if self.teacher is None else self.teacher.twin
        scenes = [draw_scene(self.pool, self.scenes, types, rng, twin=twin) for _ in range(self.batch_size)]
        return [(scene, draw_window(self.model.grid, self.window, rng)) for scene in scenes]

    def collate(self, items: Sequence[tuple[Scene, BevGrid]], drawn: Sequence[tuple[Scene, BevGrid]]) -> AloneBatch:
        """Their sensor inputs and what they see."""
        grid = self.model.grid
        limits = (grid.x_min, grid.y_min, -10.0, grid.x_max, grid.y_max, 10.0)
        agent = self.model.agent(self.newcomer)
        scenes = [scene for scene, _ in items]
        seen = [
            ground_truth(s.frame, s.members[0], s.members, limits=limits, min_hits=self.scenes.min_hits) for s in scenes
        ]
        return AloneBatch(
            agent.collate([agent.prepare(scene.agents[0]) for scene in scenes]),
            [torch.from_numpy(boxes.boxes) for boxes in seen],
            [window for _, window in items],
            None if self.teacher is None else self.teacher.inputs(self.teacher.sights(scenes, [self.newcomer])),
        )

    def losses(self, batch: AloneBatch) -> dict[str, Tensor]:
        """Single-agent detection through the frozen base, and the encoder's own loss (a camera's depth)."""
        feature, auxiliary = self.model.agent(self.newcomer).supervised(batch.inputs)
        crops = torch.stack([self.model.grid.crop(f, w) for f, w in zip(feature, batch.windows, strict=True)])
        shared = self.model.to_shared_space(self.newcomer, crops)
        terms = self.model.head.loss(
            self.model.predict_alone(shared, [self.newcomer] * len(shared)),
            batch.boxes,
            batch.windows,
            self.window.margin,
        )
        if self.teacher is not None:
            said = self.teacher.says(batch.taught)
            crops = torch.stack([self.model.grid.crop(f, w) for f, w in zip(said, batch.windows, strict=True)])
            terms["distill"] = self.distill * self.teacher.loss(shared, crops)
        return {**terms, "auxiliary": auxiliary}
