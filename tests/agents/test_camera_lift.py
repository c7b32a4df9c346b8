"""The camera agent beyond the contract: depth, agents with other numbers of cameras, images of other sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from heatv2x.agents.camera_lift import CameraLift
from heatv2x.errors import ConfigError
from heatv2x.structures import AgentFrame
from tests.scene_factory import CAMERA, agent_frame, build_agent

MARKER = np.array([[6.0, 0.0, -0.6]])


@pytest.fixture
def agent() -> CameraLift:
    built = build_agent("camera_lift", CAMERA.settings)
    assert isinstance(built, CameraLift)
    return built


@pytest.fixture
def frame() -> AgentFrame:
    return agent_frame(MARKER, ["camera"])


def test_agents_with_other_numbers_of_cameras_share_a_batch(agent: CameraLift, frame: AgentFrame) -> None:
    front_only = replace(agent_frame(np.array([[4.0, 1.0, -0.6]]), ["camera"]), cameras=frame.cameras[:1])
    for frames in ([frame, front_only], [front_only, frame], [front_only, front_only]):
        together = agent(agent.collate([agent.prepare(each) for each in frames]))
        for row, each in zip(together, frames, strict=True):
            torch.testing.assert_close(row, agent(agent.collate([agent.prepare(each)]))[0], rtol=1e-4, atol=1e-5)


def test_depth_loss_falls_when_the_depth_is_right(agent: CameraLift, frame: AgentFrame) -> None:
    agent.train()
    batch = agent.collate([agent.prepare(frame)])
    optimizer = torch.optim.Adam(agent.parameters(), 3e-2)
    losses = []
    for _ in range(8):
        _, loss = agent.supervised(batch)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0], losses


def test_without_depth_there_is_no_depth_loss(agent: CameraLift, frame: AgentFrame) -> None:
    blind = replace(frame, cameras=tuple(replace(camera, depth=None) for camera in frame.cameras))
    for frames in ([blind], [blind, frame]):
        batch = agent.collate([agent.prepare(each) for each in frames])
        assert batch.depth is None and float(agent.supervised(batch)[1].detach()) == 0.0


def test_unknown_depth_does_not_count(agent: CameraLift, frame: AgentFrame) -> None:
    dark = replace(frame, cameras=tuple(replace(c, depth=np.zeros_like(c.depth)) for c in frame.cameras))
    assert float(agent.supervised(agent.collate([agent.prepare(dark)]))[1].detach()) == 0.0
    half = replace(frame, cameras=(*frame.cameras[:3], dark.cameras[3]))
    assert float(agent.supervised(agent.collate([agent.prepare(half)]))[1].detach()) > 0.1


def test_a_camera_that_is_turned_with_its_mount_turns_the_feature(agent: CameraLift) -> None:
    """The rear camera with the front camera's image gives the front's cells, mirrored through the origin."""
    frame = agent_frame(MARKER, ["camera"])
    front = agent.prepare(replace(frame, cameras=frame.cameras[:1])).cells
    back = agent.prepare(replace(frame, cameras=(replace(frame.cameras[3], image=frame.cameras[0].image),))).cells
    last = agent.splat_grid.shape[0] * agent.splat_grid.shape[1] - 1
    agree = (front >= 0) & (back >= 0)
    assert agree.sum() > 100
    off = (front[agree] - (last - back[agree])).abs()
    assert ((off == 0).float().mean()) > 0.95  # a few points lie on the edge of two cells


def test_large_images_are_scaled_with_their_intrinsics(agent: CameraLift, frame: AgentFrame) -> None:
    double = tuple(camera.scaled(96, 128) for camera in frame.cameras)
    assert double[0].K[0, 0] == 2 * frame.cameras[0].K[0, 0]
    large, small = agent.prepare(replace(frame, cameras=double)), agent.prepare(frame)
    assert large.images.shape == small.images.shape
    assert (large.cells == small.cells).float().mean() > 0.99
    assert large.depth is not None and small.depth is not None
    torch.testing.assert_close(large.depth, small.depth)


def test_a_cell_that_does_not_divide_the_shared_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cell_m=0\.7 does not divide the shared cell of 1\.6 m"):
        build_agent("camera_lift", {**CAMERA.settings, "cell_m": 0.7})
