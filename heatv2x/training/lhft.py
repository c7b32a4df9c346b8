"""Local Heterogeneous Fine-Tuning (LHFT): a newcomer learns the base's feature space from its own data alone.

Only its Hetero-Aware Adapters train, by detecting what the newcomer itself sees through the frozen backbone and head
(backward alignment, HEAL, Lu et al. 2024, with adapters in place of the encoder). No other agent is needed. The design
is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from heatv2x.data.ground_truth import ground_truth
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.collaboration import Collaboration
from heatv2x.nn.move import ON_HOST
from heatv2x.training.distillation import DistillationLoss
from heatv2x.training.feature_cache import FeatureCache
from heatv2x.training.stage import Stage, names_below
from heatv2x.training.windows import WindowConfig, draw_window


@dataclass
class LocalBatch:
    """Crops of single agents.

    Attributes:
        encoded: (N, C, Yw, Xw) encoder outputs.
        boxes: N tensors (M, 7), what each agent sees, in its own frame; stay on the CPU.
        windows: N grids of the crops.
        teacher: (N, C, Yw, Xw) the base's features in the newcomer's place, if the base teaches.
    """

    encoded: Tensor
    boxes: list[Tensor] = field(metadata=ON_HOST)
    windows: list[BevGrid]
    teacher: Tensor | None = None


class LocalFineTuning(Stage):
    """Trains the newcomer's adapters on its cached encoder outputs.

    Args:
        newcomer: the type that joins.
        cache: its encoder outputs.
        batch_size: agents per step.
        window: crop and margin.
        min_hits: returns an object needs to be a target.
        distill: weight of the distance from the teacher's features, if the cache has them.
    """

    name = "local"

    def __init__(
        self,
        model: Collaboration,
        newcomer: str,
        cache: FeatureCache,
        batch_size: int = 6,
        window: WindowConfig | None = None,
        min_hits: int = 2,
        distill: float = 0.0,
    ) -> None:
        super().__init__(model)
        self.distill = distill
        self.distillation_loss = (
            DistillationLoss(model, cache.teacher.shared) if cache.teacher is not None and distill else None
        )
        self.newcomer = newcomer
        self.cache = cache
        self.batch_size = batch_size
        self.window = window or WindowConfig()
        self.min_hits = min_hits

    def trainable(self) -> list[str]:
        """The newcomer's Hetero-Aware Adapters."""
        return names_below(self.model, (f"senders.{self.newcomer}.",))

    def draw(self, rng: np.random.Generator) -> list[tuple[int, int, BevGrid]]:
        """Frame, agent and window of random agents."""
        drawn = []
        for _ in range(self.batch_size):
            where = int(rng.integers(len(self.cache.frames)))
            member = int(rng.integers(len(self.cache.frames[where].agents)))
            drawn.append((where, member, draw_window(self.model.grid, self.window, rng)))
        return drawn

    def collate(
        self, items: Sequence[tuple[int, int, BevGrid]], drawn: Sequence[tuple[int, int, BevGrid]]
    ) -> LocalBatch:
        """Their cached features and what they see."""
        grid = self.model.grid
        limits = (grid.x_min, grid.y_min, -10.0, grid.x_max, grid.y_max, 10.0)
        encoded, boxes, windows, taught = [], [], [], []
        for where, member, window in items:
            frame = self.cache.frame_as(where, {member: self.newcomer})
            seen = ground_truth(frame, member, [member], limits=limits, min_hits=self.min_hits)
            row = self.cache.first_row[where] + member
            encoded.append(grid.crop(self.cache.features[self.newcomer][row], window).float())
            if self.distillation_loss is not None and self.cache.teacher is not None:
                taught.append(grid.crop(self.cache.teacher.shared[row], window).float())
            boxes.append(torch.from_numpy(seen.boxes))
            windows.append(window)
        return LocalBatch(torch.stack(encoded), boxes, windows, torch.stack(taught) if taught else None)

    def losses(self, batch: LocalBatch) -> dict[str, Tensor]:
        """Single-agent detection through the frozen base, and the distance from the teacher's features."""
        feature = self.model.to_shared_space(self.newcomer, batch.encoded)
        terms = self.model.head.loss(
            self.model.predict_alone(feature, [self.newcomer] * len(feature)),
            batch.boxes,
            batch.windows,
            self.window.margin,
        )
        if self.distillation_loss is not None and batch.teacher is not None:
            terms["distill"] = self.distill * self.distillation_loss(feature, batch.teacher)
        return terms
