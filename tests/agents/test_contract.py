"""What every kind of agent promises; a new file in heatv2x/agents/ is tested by being there."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from heatv2x.agents.base import Agent
from heatv2x.errors import HeatError
from heatv2x.structures import SENSORS, AgentFrame, PointCloud
from tests.parts import parts
from tests.scene_factory import CHANNELS, GRID, agent_frame, build_agent

KINDS = parts("agents")
AHEAD_LEFT = np.array([[8.0, 5.0, -0.6]])
NOTHING = np.zeros((0, 3))


def encode(agent: Agent, *frames: AgentFrame) -> Tensor:
    feature: Tensor = agent(agent.collate([agent.prepare(frame) for frame in frames]))
    return feature


def in_the_dark(frame: AgentFrame) -> AgentFrame:
    lidars = {name: PointCloud(np.zeros((0, 4), np.float32)) for name in frame.lidars}
    cameras = (replace(c, image=np.zeros_like(c.image), depth=np.zeros_like(c.depth)) for c in frame.cameras)
    return replace(frame, lidars=lidars, cameras=tuple(cameras))


@pytest.fixture(params=KINDS)
def agent(request: pytest.FixtureRequest) -> Agent:
    return build_agent(request.param)


@pytest.fixture
def frame() -> AgentFrame:
    """An agent that carries every sensor there is."""
    return agent_frame(AHEAD_LEFT, SENSORS)


def test_declares_known_sensors(agent: Agent) -> None:
    assert agent.sensors and set(agent.sensors) <= set(SENSORS)


def test_reduce_keeps_what_is_needed_and_nothing_else(agent: Agent, frame: AgentFrame) -> None:
    reduced = agent.reduce(frame)
    assert {*reduced.lidars, *(["camera"] if reduced.cameras else [])} == set(agent.sensors)
    assert (reduced.agent_id, reduced.timestamp, reduced.pose) == (frame.agent_id, frame.timestamp, frame.pose)
    assert torch.equal(encode(agent, reduced), encode(agent, frame))
    assert torch.equal(encode(agent, agent.reduce(reduced)), encode(agent, frame))


def test_gives_a_feature_on_the_shared_grid(agent: Agent, frame: AgentFrame) -> None:
    feature = encode(agent, frame, frame)
    assert feature.shape == (2, CHANNELS, *GRID.shape) and feature.dtype == torch.float32
    assert feature.isfinite().all() and feature.std() > 0


def test_what_is_ahead_left_lands_ahead_left(agent: Agent) -> None:
    with_marker, without = (encode(agent, agent_frame(markers, SENSORS))[0] for markers in (AHEAD_LEFT, NOTHING))
    energy = (with_marker - without).square().sum(dim=0)
    energy = torch.where(energy > 0.2 * energy.max(), energy, 0.0)
    x, y = ((energy[..., None] * GRID.centres()).sum(dim=(0, 1)) / energy.sum()).tolist()
    assert math.degrees(abs(math.atan2(y, x) - math.atan2(5.0, 8.0))) < 12, (x, y)
    if "camera" not in agent.sensors:  # an untrained camera agent knows the direction only
        assert math.hypot(x - 8.0, y - 5.0) < GRID.cell, (x, y)


def test_a_missing_sensor_is_named(agent: Agent, frame: AgentFrame) -> None:
    with pytest.raises(HeatError, match=r"agent 1 at 000000") as caught:
        agent.prepare(replace(frame, lidars={}, cameras=()))
    assert any(sensor in str(caught.value) for sensor in agent.sensors)


def test_no_returns_at_all(agent: Agent, frame: AgentFrame) -> None:
    assert encode(agent, in_the_dark(frame)).isfinite().all()
    agent.train()
    feature = encode(agent, in_the_dark(frame), frame)
    assert feature.isfinite().all() and not torch.equal(feature[0], feature[1])


def test_a_batch_equals_one_at_a_time(agent: Agent) -> None:
    markers = (AHEAD_LEFT, NOTHING, np.array([[-6.0, 3.0, -0.6], [2.0, -7.0, -0.6]]))
    frames = [agent_frame(marker, SENSORS, seed=seed) for seed, marker in enumerate(markers)]
    together = encode(agent, *frames)
    for row, frame in zip(together, frames, strict=True):
        torch.testing.assert_close(row, encode(agent, frame)[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[2], atol=1e-3)


def test_same_input_same_feature(agent: Agent, frame: AgentFrame) -> None:
    before = encode(agent, frame)
    encode(agent, agent_frame(NOTHING, SENSORS, seed=3))
    assert torch.equal(before, encode(agent, frame))


def test_gradients_reach_every_parameter(agent: Agent, frame: AgentFrame) -> None:
    agent.train()
    feature, own_loss = agent.supervised(agent.collate([agent.prepare(frame), agent.prepare(agent.reduce(frame))]))
    assert own_loss.shape == () and own_loss.isfinite()
    (feature.square().mean() + own_loss).backward()
    silent = [
        name
        for name, p in agent.named_parameters()
        if p.grad is None or not p.grad.any() or not p.grad.isfinite().all()
    ]
    assert not silent, silent


def test_supervision_does_not_change_the_feature(agent: Agent, frame: AgentFrame) -> None:
    batch = agent.collate([agent.prepare(frame)])
    assert torch.equal(agent.supervised(batch)[0], agent(batch))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "camera" not in build_agent(kind).sensors])
def test_points_off_the_grid_do_not_count(kind: str, frame: AgentFrame) -> None:
    agent = build_agent(kind)
    edge = GRID.x_max
    far = np.float32(
        [[edge, 0, 0, 1], [-edge - 0.01, 0, 0, 1], [0, edge, 0, 1], [0, -40, 0, 1], [3, 3, 50, 1], [3, 3, -50, 1]]
    )
    more = {name: PointCloud(np.concatenate([far, cloud.points])) for name, cloud in frame.lidars.items()}
    assert torch.equal(encode(agent, replace(frame, lidars=more)), encode(agent, frame))
