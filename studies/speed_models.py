"""The networks that are timed, with seeded weights: what a frame costs does not depend on what they have learnt.

Weights, biases and statistics of normalisations are drawn as those of a trained network lie, so that no map is empty by
accident and nothing that skips zeros is flattered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from heatv2x.core.config import build, read_recipe
from heatv2x.core.plugins import PartConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import ModelConfig
from heatv2x.model.heads import anchor
from heatv2x.model.published_types import TYPES
from heatv2x.training import recipes


@dataclass(frozen=True)
class SpeedModel:
    """One network of the benchmark.

    Attributes:
        title: what it is, for tables.
        config: builds its settings.
        reference: the reference's numbers are of the same network.
        same_grid: it covers the same ground in the same cells as the reference.
    """

    title: str
    config: Callable[[], ModelConfig]
    reference: bool = False
    same_grid: bool = False


def published(*types: str) -> ModelConfig:
    """Published types with pyramid fusion and anchor head, as `heatv2x import heal` builds them."""
    return ModelConfig(
        half_extent_m=102.4,
        y_right=True,
        cell_m=0.8,
        channels=64,
        backbone_blocks=0,
        neck="shrink",
        neck_channels=256,
        agents={name: TYPES[name].part for name in types},
        fusion=PartConfig(part="pyramid"),
        head=PartConfig(part="anchor", settings=dict(anchor.PUBLISHED)),
        codec="half",
    )


def recipe(name: str) -> ModelConfig:
    """The model of a recipe that comes with the package."""
    return build(ModelConfig, read_recipe(recipes.FOLDER / f"{name}.yaml")["model"], source=name)


MIXED = "four_types"
MODELS = {
    "published": SpeedModel(
        "PointPillars + pyramid fusion, as published",
        lambda: published("lidar64_pillars"),
        reference=True,
        same_grid=True,
    ),
    "heatv2x": SpeedModel(
        "HeatV2X, recipe opv2v_h on the reference's grid",
        lambda: recipe("opv2v_h").model_copy(update={"half_extent_y_m": None}),
        same_grid=True,
    ),
    "demo": SpeedModel("HeatV2X, demo", lambda: recipe("demo_base")),
    MIXED: SpeedModel("the four published types together", lambda: published(*TYPES)),
}


def seeded(config: ModelConfig, seed: int = 0) -> Collaboration:
    """A model in evaluation mode with drawn weights."""
    model = Collaboration(config).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
            elif name.endswith(("running_mean", "bias")):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=draw))
            elif tensor.ndim > 1:
                fan_in = tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=draw) / fan_in**0.5)
    return model
