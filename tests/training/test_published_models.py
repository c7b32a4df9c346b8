"""HEAL's networks, left-handed, in every stage of training: nothing here is only for looking at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heatv2x.core.plugins import PartConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.training.end_to_end import CollaborativeTraining
from heatv2x.training.gcft import CollaborativeFineTuning
from heatv2x.training.lhft import LocalFineTuning
from heatv2x.training.loop import LoopConfig, train
from heatv2x.training.stage import Stage
from tests.scene_factory import changed, joined, pool_of, small_model, state_copy
from tests.training.stages import SCENES, WINDOW, cache_of

FAST = LoopConfig(steps=3, checkpoint_every=3, measure_every=1, lr=2e-3, precision="float32")


def heal(shake: float = 0.02) -> Collaboration:
    settings = {"blocks": (1, 1, 1), "enlarged": 8}
    return small_model(
        PartConfig(part="pyramid", settings=settings),
        shake=shake,
        head=PartConfig(part="anchor", settings={"hidden": 0}),
        neck="shrink",
        backbone_blocks=0,
        y_right=True,
    )


def build(name: str) -> Stage:
    torch.manual_seed(0)
    model = joined(heal())
    if name == "local":
        return LocalFineTuning(model, "lidar16", cache_of(model), 3, WINDOW, min_hits=1)
    if name == "collaborative":
        types = {"lidar64": 0.5, "lidar16": 0.5}
        return CollaborativeFineTuning(model, "lidar16", types, cache_of(model), SCENES, 3, WINDOW)
    base = heal()
    return CollaborativeTraining(base, pool_of(base, ["lidar64"]), {"lidar64": 1.0}, SCENES, 2)


@pytest.mark.parametrize("name", ["base", "local", "collaborative"])
def test_every_stage_trains_what_it_declares(name: str) -> None:
    stage = build(name)
    before = state_copy(stage.model)
    record = train(stage, FAST)
    moved, parameters = changed(before, stage.model.state_dict()), {key for key, _ in stage.model.named_parameters()}
    assert moved & parameters == set(stage.trainable())
    assert name == "base" or record.frozen_proof["bit_identical"]


def test_foreground_is_learned_on_every_level() -> None:
    stage = build("base")
    stage.set_mode()
    terms = stage.losses(stage.batch(np.random.default_rng(0)))
    assert set(terms) == {"score", "box", "direction", "auxiliary", "occupancy"}
    terms["occupancy"].backward()
    foreground = stage.model.get_submodule("fusion.foreground")
    silent = [name for name, p in foreground.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent, silent
