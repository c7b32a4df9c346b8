"""Small stages of every sort, the same each time they are built."""

from __future__ import annotations

import torch

from heatv2x.model.codebook import CodebookConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.reader import ReaderConfig
from heatv2x.model.variants import reading
from heatv2x.training.end_to_end import CollaborativeTraining
from heatv2x.training.feature_cache import FeatureCache, fill_cache
from heatv2x.training.gcft import CollaborativeFineTuning
from heatv2x.training.lhft import LocalFineTuning
from heatv2x.training.loop import LoopConfig
from heatv2x.training.reader import ReaderTraining, sampled_cells
from heatv2x.training.scenes import SceneConfig
from heatv2x.training.stage import Stage
from heatv2x.training.windows import WindowConfig
from tests.scene_factory import SmallScenes, joined, pool_of, small_model

STAGES = ("base", "full", "local", "collaborative", "reader")
SCENES = SceneConfig(alone=0.0, min_hits=1)
WINDOW = WindowConfig(cells=12, margin=1)
FAST = LoopConfig(steps=6, checkpoint_every=3, measure_every=2, lr=5e-3, precision="float32")


def cache_of(model: Collaboration, config: SceneConfig = SCENES, dataset: SmallScenes | None = None) -> FeatureCache:
    """What a deployed lidar64 sends and what a newcomer's encoder gives."""
    pool = pool_of(model, ["lidar64", "lidar16"], dataset or SmallScenes())
    return fill_cache(model, pool, ["lidar64"], ["lidar16"], config, seed=0)


def build_stage(name: str) -> Stage:
    """A stage with a fresh model and fresh data."""
    torch.manual_seed(0)
    model = joined(small_model(shake=0.05))
    if name == "local":
        return LocalFineTuning(model, "lidar16", cache_of(model), 3, WINDOW, min_hits=1)
    if name == "collaborative":
        types = {"lidar64": 0.5, "lidar16": 0.5}
        return CollaborativeFineTuning(model, "lidar16", types, cache_of(model), SCENES, 3, WINDOW)
    if name == "full":
        pool = pool_of(model, ["lidar64", "lidar16"])
        return CollaborativeTraining(
            model, pool, {"lidar64": 0.5, "lidar16": 0.5}, SCENES, 2, required="lidar16", name="full_finetune"
        )
    base = small_model(shake=0.05)
    if name == "reader":
        model = reading(base, ReaderConfig(hidden=16, min_score=0.0), CodebookConfig(stages=2, entries=16))
        cache = fill_cache(model, pool_of(model, ["lidar64"]), ["lidar64"], [], SCENES, seed=0)
        assert model.codebook is not None
        model.codebook.fit(sampled_cells(model, cache, seed=0), 0)
        return ReaderTraining(model, {"lidar64": 1.0}, cache, SCENES, 3, WINDOW, shares=(1.0, 0.2))
    return CollaborativeTraining(base, pool_of(base, ["lidar64"]), {"lidar64": 1.0}, SCENES, 2)
