"""Training of the reader: how far an ego believes the boxes that its senders found alone.

Everything else is frozen, so what agents say is computed once: their features, and the boxes that they detect by
themselves. Frames that the base was trained on will do (docs/method.md says what others brought).
Every step draws who hears whom, where the senders believe to be, and how much of their maps they
send. The design is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from heatv2x.errors import ConfigError
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.exchange import worthwhile
from heatv2x.model.heads.base import Detections
from heatv2x.model.links import in_order
from heatv2x.training.feature_cache import FeatureCache
from heatv2x.training.scenes import Batch, Scene, SceneConfig
from heatv2x.training.stage import Stage, names_below
from heatv2x.training.windows import WindowConfig, draw_window

_AT_ONCE = 8
_MAPS, _CELLS = 120, 400  # maps that a codebook is fitted to, and cells of each
_FLOOR = 0.02  # weight of a cell without any object


class ReaderTraining(Stage):
    """Trains the reader of a base, on scenes of the base's types.

    Args:
        types: how likely each type is for each agent.
        cache: shared features of all of them.
        scenes: how scenes are drawn.
        batch_size: scenes per step.
        window: crop and margin, in the ego's frame.
        shares: shares of their cells that senders send; every step draws one.
        unreported: share of the senders that report an exact pose, whatever it is.
    """

    name = "reader"

    def __init__(
        self,
        model: Collaboration,
        types: dict[str, float],
        cache: FeatureCache,
        scenes: SceneConfig,
        batch_size: int = 4,
        window: WindowConfig | None = None,
        shares: Sequence[float] = (1.0,),
        unreported: float = 0.2,
    ) -> None:
        super().__init__(model)
        if model.reader is None:
            raise ConfigError("this model has no reader to train")
        self.types = types
        self.cache = cache
        self.scenes = scenes
        self.batch_size = batch_size
        self.window = window or WindowConfig()
        self.shares = tuple(shares)
        self.unreported = unreported
        self.boxes = boxes_alone(model, cache)

    def trainable(self) -> list[str]:
        """The reader."""
        return names_below(self.model, ("reader.",))

    def draw(self, rng: np.random.Generator) -> list[tuple[Scene, BevGrid, float]]:
        """Scenes, their windows, and the share of cells that is sent, one for all."""
        share = self.shares[int(rng.integers(len(self.shares)))]
        scenes = [self.cache.draw_scene(self.scenes, self.types, rng, None) for _ in range(self.batch_size)]
        for scene in scenes:
            scene.reported = [
                (pose, 0.0, 0.0) if rng.random() < self.unreported else (pose, metres, radians)
                for pose, metres, radians in scene.reported
            ]
        return [(scene, draw_window(self.model.grid, self.window, rng), share) for scene in scenes]

    def collate(
        self, items: Sequence[tuple[Scene, BevGrid, float]], drawn: Sequence[tuple[Scene, BevGrid, float]]
    ) -> Batch:
        """Scenes whose features and boxes come from the cache."""
        scenes = [scene for scene, _, _ in items]
        batch, rows = self.cache.collate(scenes, self.types, self.model.grid, self.scenes)
        alone = [self.boxes[name][row] for row, name in zip(rows, batch.types, strict=True)]
        links = replace(batch.links, windows=[window for _, window, _ in items])
        return replace(batch, links=links, alone=alone, share=items[0][2])

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Detection after fusion and reading, inside the windows."""
        features = in_order(batch.features, batch.types)
        maps = self.model.collaborate(features, batch.types, batch.links, batch.alone, batch.share)
        terms = self.model.head.loss(maps, batch.boxes, batch.links.windows, self.window.margin)
        if not any(term.requires_grad for term in terms.values()):  # nobody heard of a box: nothing to learn, no error
            assert self.model.reader is not None
            terms["reader"] = 0 * torch.stack([parameter.sum() for parameter in self.model.reader.parameters()]).sum()
        return terms


@torch.no_grad()
def boxes_alone(model: Collaboration, cache: FeatureCache, encoded: Sequence[str] = ()) -> dict[str, list[Detections]]:
    """By type, what every agent of a cache detects by itself, as far as it is worth sending; on the CPU.

    Args:
        encoded: types of which the cache holds encoder outputs, not shared features.
    """
    model.eval()
    least = model.sends_boxes_above
    assert least is not None, "there is a reader"
    found: dict[str, list[Detections]] = {}
    for name, features in cache.features.items():
        found[name] = []
        for first in range(0, len(features), _AT_ONCE):
            rows = features[first : first + _AT_ONCE].float().to(model.device)
            if name in encoded:
                alone = model.own_detections(name, rows)
            else:
                alone = model.head.decode(model.predict_alone(rows, [name] * len(rows)), model.grid)
            found[name] += [Detections.of(worthwhile(each.to_boxes(), least)) for each in alone]
    return found


@torch.no_grad()
def sampled_cells(model: Collaboration, cache: FeatureCache, seed: int) -> Tensor:
    """(R, C) cells of the cached features to fit a codebook to, relevant ones more often."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for features in cache.features.values():
        rows = torch.randperm(len(features), generator=generator)[:_MAPS]
        for row in rows:
            feature = features[row][None].float().to(model.device)
            relevance = model.fusion.relevance(feature).flatten().cpu()
            relevance = _FLOOR + relevance / relevance.amax().clamp(min=1e-6)
            chosen = torch.multinomial(relevance, min(_CELLS, len(relevance)), generator=generator)
            found.append(feature[0].flatten(1).T.cpu()[chosen])
    return torch.cat(found)
