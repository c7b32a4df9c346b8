"""Backward alignment: the newcomer's encoder moves, everything of the base stays."""

from __future__ import annotations

import numpy as np
import torch

from heatv2x.training.backward import BackwardAlignment
from heatv2x.training.loop import train
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
