"""LiDAR and cameras on one agent: both are used, both are needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from heatv2x.errors import ConfigError, HeatError
from tests.scene_factory import CAMERA, PILLARS, agent_frame, build_agent

MARKERS = np.array([[8.0, 5.0, -0.6]])
SETTINGS = {"lidar_settings": PILLARS.settings, "camera_settings": CAMERA.settings}


def test_both_sensors_count() -> None:
    agent, frame = build_agent("lidar_camera", SETTINGS), agent_frame(MARKERS, ("lidar64", "camera"))
    other = agent_frame(np.array([[3.0, -6.0, -0.6]]), ("lidar64", "camera"))
    assert agent.sensors == ("lidar64", "camera")
    whole, points, pixels = (
        agent(agent.collate([agent.prepare(each)]))
        for each in (frame, replace(frame, cameras=other.cameras), replace(frame, lidars=other.lidars))
    )
    assert not torch.allclose(whole, points, atol=1e-4) and not torch.allclose(whole, pixels, atol=1e-4)


@pytest.mark.parametrize("sensors", [("lidar64",), ("camera",)])
def test_both_are_needed(sensors: tuple[str, ...]) -> None:
    with pytest.raises(HeatError, match="agent 1"):
        build_agent("lidar_camera", SETTINGS).prepare(agent_frame(MARKERS, sensors))


def test_depth_is_supervised() -> None:
    agent, frame = build_agent("lidar_camera", SETTINGS), agent_frame(MARKERS, ("lidar64", "camera"))
    assert agent.supervised(agent.collate([agent.prepare(frame)]))[1] > 0


@pytest.mark.parametrize("settings", [{"lidar": "camera_lift"}, {"camera": "lidar_slices"}])
def test_two_of_one_sensor_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="one kind of each sensor"):
        build_agent("lidar_camera", settings)
