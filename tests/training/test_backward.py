"""Backward alignment: the newcomer's encoder moves, everything of the base stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heatv2x.training.backward import BackwardAlignment
from heatv2x.training.distillation import Onlooker, as_seen_by
from heatv2x.training.loop import train
from heatv2x.training.scenes import draw_scene
from tests.scene_factory import changed, joined, pool_of, small_model, state_copy
from tests.training.stages import FAST, SCENES, WINDOW


def build() -> BackwardAlignment:
    torch.manual_seed(0)
    model = joined(small_model(shake=0.05))
    return BackwardAlignment(model, "lidar16", pool_of(model, ["lidar16"]), SCENES, 3, WINDOW)


def test_exactly_the_encoder_moves() -> None:
    stage = build()
    before = state_copy(stage.model)
    record = train(stage, FAST)
    moved = changed(before, stage.model.state_dict())
    encoder = {name for name, _ in stage.model.named_parameters() if name.startswith("agents.lidar16.")}
    assert encoder <= moved and all(name.startswith("agents.lidar16.") for name in moved)
    assert record.frozen_proof["bit_identical"] and record.curve[-1].keys() >= {"heatmap", "box", "auxiliary"}


def test_batches_are_single_agents_in_windows() -> None:
    stage = build()
    batch = stage.batch(np.random.default_rng(1))
    again = stage.batch(np.random.default_rng(1))
    assert len(batch.boxes) == len(batch.windows) == 3
    assert all(window.shape == (WINDOW.cells, WINDOW.cells) for window in batch.windows)
    assert all(torch.equal(a, b) for a, b in zip(batch.boxes, again.boxes, strict=True))


@pytest.mark.parametrize("whose", ["own", "companion"])
def test_a_teacher_pulls_the_newcomers_features_towards_the_bases(whose: str) -> None:
    """It sees the place that the newcomer sees, turned and mirrored alike, and learns nothing itself."""
    torch.manual_seed(0)
    model = joined(small_model(shake=0.05))
    pool = pool_of(model, ["lidar16", "lidar64"])
    seen_as = "lidar16" if whose == "own" else "lidar64"
    some = [pool.agent(index, 0, seen_as) for index in range(2)]
    some = [as_seen_by(model, "lidar64", agent) for agent in some] if whose == "own" else some
    teacher = Onlooker(model, "lidar64", whose, some)
    before = state_copy(teacher.base)
    stage = BackwardAlignment(model, "lidar16", pool, SCENES, 3, WINDOW, teacher, distill=4.0)
    record = train(stage, FAST.model_copy(update={"steps": 30, "lr": 1e-2}))
    terms = [point["distill"] for point in record.curve]
    assert terms[-1] < 0.8 * terms[0]
    assert record.frozen_proof["bit_identical"] and not changed(before, teacher.base.state_dict())


def test_a_companion_is_drawn_where_the_newcomer_stands() -> None:
    model = joined(small_model(shake=0.05))
    pool = pool_of(model, ["lidar16", "lidar64"])
    scene = draw_scene(pool, SCENES, {"lidar16": 1.0}, np.random.default_rng(3), twin="lidar64")
    assert len(scene.twins) == len(scene.agents) > 1
    for agent, twin in zip(scene.agents, scene.twins, strict=True):
        assert np.array_equal(agent.pose.matrix, twin.pose.matrix)
        assert set(agent.lidars) == {"lidar16"} and set(twin.lidars) == {"lidar64"}
