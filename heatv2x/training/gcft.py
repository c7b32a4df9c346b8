"""Global Collaborative Fine-Tuning (GCFT): a newcomer learns to send and receive in scenes of mixed types.

Its Hetero-Aware Adapters, its typed fusion parameters, a Multi-Cognitive Adapter if it has one, and how the reader
believes its boxes train together under the collaborative detection loss; everything deployed is frozen. Messages of
deployed types and encoder outputs of the newcomer are cached. The design is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from heatv2x.geometry.grid import BevGrid
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.links import in_order
from heatv2x.training.distillation import DistillationLoss
from heatv2x.training.feature_cache import FeatureCache
from heatv2x.training.reader import boxes_alone
from heatv2x.training.scenes import Batch, Scene, SceneConfig
from heatv2x.training.stage import Stage, names_below
from heatv2x.training.windows import WindowConfig, draw_window


class CollaborativeFineTuning(Stage):
    """Trains everything that belongs to the newcomer, on scenes that contain it.

    Args:
        newcomer: the type that joins.
        types: how likely each type is for each agent; at least one member of a scene is the newcomer.
        cache: shared features of deployed types, encoder outputs of the newcomer.
        scenes: how scenes are drawn.
        batch_size: scenes per step.
        window: crop and margin, in the ego's frame.
        distill: weight of the distance from the teacher's features, if the cache has them.
    """

    name = "collaborative"

    def __init__(
        self,
        model: Collaboration,
        newcomer: str,
        types: dict[str, float],
        cache: FeatureCache,
        scenes: SceneConfig,
        batch_size: int = 4,
        window: WindowConfig | None = None,
        distill: float = 0.0,
    ) -> None:
        super().__init__(model)
        self.distill = distill
        self.distillation_loss = (
            DistillationLoss(model, cache.teacher.shared) if cache.teacher is not None and distill else None
        )
        self.newcomer = newcomer
        self.types = types
        self.cache = cache
        self.scenes = scenes
        self.batch_size = batch_size
        self.window = window or WindowConfig()
        # found once, before this stage, which changes little of what the newcomer detects
        self.boxes = {} if model.reader is None else boxes_alone(model, cache, [newcomer])

    def trainable(self) -> list[str]:
        """The newcomer's adapters on both sides, its typed fusion parameters, and how the reader trusts it."""
        name = self.newcomer
        parts = (f"senders.{name}.", f"receivers.{name}.", f"fusion.types.{name}.", f"reader.types.{name}.")
        return names_below(self.model, parts)

    def draw(self, rng: np.random.Generator) -> list[tuple[Scene, BevGrid]]:
        """Scenes with at least one newcomer, and their windows."""
        scenes = [self.cache.draw_scene(self.scenes, self.types, rng, self.newcomer) for _ in range(self.batch_size)]
        return [(scene, draw_window(self.model.grid, self.window, rng)) for scene in scenes]

    def collate(self, items: Sequence[tuple[Scene, BevGrid]], drawn: Sequence[tuple[Scene, BevGrid]]) -> Batch:
        """Scenes whose features come from the cache."""
        scenes = [scene for scene, _ in items]
        batch, rows = self.cache.collate(scenes, self.types, self.model.grid, self.scenes)
        if self.distillation_loss is not None and self.cache.teacher is not None:
            mine = [row for row, name in zip(rows, batch.types, strict=True) if name == self.newcomer]
            batch = replace(batch, teacher=self.cache.teacher.shared[torch.tensor(mine)].float())
        alone = [self.boxes[name][row] for row, name in zip(rows, batch.types, strict=True)] if self.boxes else []
        return replace(batch, links=replace(batch.links, windows=[window for _, window in items]), alone=alone)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Detection after fusion inside the windows, and the distance from the teacher's features."""
        shared = {name: self._shared(name, feature) for name, feature in batch.features.items()}
        maps = self.model.collaborate(in_order(shared, batch.types), batch.types, batch.links, batch.alone)
        terms = self.model.head.loss(maps, batch.boxes, batch.links.windows, self.window.margin)
        if self.distillation_loss is not None and batch.teacher is not None:
            terms["distill"] = self.distill * self.distillation_loss(shared[self.newcomer], batch.teacher)
        return terms

    def _shared(self, name: str, feature: Tensor) -> Tensor:
        return self.model.to_shared_space(name, feature) if name == self.newcomer else feature
