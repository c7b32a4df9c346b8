"""The sender's side on plain tensors says what the model says, for every kind of agent that can be exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from heatv2x.agents.base import Agent
from heatv2x.interop.onnx.senders import encoder_of, owners, scattered
from heatv2x.interop.onnx.stage import ExportError, random_frame
from heatv2x.structures import AgentFrame, PointCloud, Pose
from tests.scene_factory import CAMERA, GRID, SmallScenes, build_agent, shaken

PUBLISHED_PILLARS = {"pillar_channels": 8, "max_points": 4, "empty_slots": True, "absolute_xy": True}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("lidar_pillar", {"pillar_channels": 8, "max_points": 4}),
    ("lidar_pillar", PUBLISHED_PILLARS),
    ("lidar_slices", {"slices": 4}),
    ("camera_lift", CAMERA.settings),
    ("camera_lss", {"image_size": (32, 64), "depth_bins": 6, "lifted": 8, "blocks": 1, "aligner": 1}),
    ("lidar_camera", {"camera_settings": CAMERA.settings}),
]


def frames_of(agent: Agent, number: int) -> list[AgentFrame]:
    return list(SmallScenes(agents=number).read(0, agent.sensors).agents)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(("part", "settings"), KINDS)
def test_plain_tensors_give_the_agents_feature(part: str, settings: dict[str, Any], number: int) -> None:
    agent = shaken(build_agent(part, settings)).eval()
    encoder = encoder_of(agent, part)
    batch = agent.collate([agent.prepare(frame) for frame in frames_of(agent, number)])
    tensors = encoder.tensors(batch)
    assert [len(port.axes) for port in encoder.inputs] == [tensor.ndim for tensor in tensors]
    for port, tensor in zip(encoder.inputs, tensors, strict=True):
        assert all(isinstance(axis, str) or axis == size for axis, size in zip(port.axes, tensor.shape, strict=True))
    with torch.no_grad():
        torch.testing.assert_close(encoder(*tensors), agent(batch), rtol=1e-5, atol=1e-5)


def test_agents_without_points_keep_their_place() -> None:
    agent = shaken(build_agent("lidar_pillar", PUBLISHED_PILLARS)).eval()
    encoder = encoder_of(agent, "lidar_pillar")
    nothing = AgentFrame(9, "0", Pose.planar(0, 0, 0), {"lidar64": PointCloud(np.zeros((0, 4), np.float32))})
    batch = agent.collate([agent.prepare(frame) for frame in (nothing, *frames_of(agent, 1), nothing)])
    tensors = encoder.tensors(batch)
    assert tensors[2].tolist()[::2] == [0, 0] and len(tensors[0]) == tensors[2].sum()
    with torch.no_grad():
        torch.testing.assert_close(encoder(*tensors), agent(batch), rtol=1e-5, atol=1e-5)


def test_points_may_come_in_any_order() -> None:
    agent = shaken(build_agent("lidar_pillar", KINDS[0][1])).eval()
    encoder = encoder_of(agent, "lidar_pillar")
    points, cells, per_agent = encoder.tensors(agent.collate([agent.prepare(frames_of(agent, 1)[0])]))
    order = torch.randperm(len(points))
    with torch.no_grad():
        assert torch.allclose(encoder(points, cells, per_agent), encoder(points[order], cells[order], per_agent))


def test_sparse_convolution_is_refused_by_name() -> None:
    agent = build_agent("lidar_voxel", {"widths": (4, 4), "blocks": 1, "aligner": 1})
    with pytest.raises(
        ExportError, match=r"agent type 'lidar32' \(lidar_voxel\) cannot be exported.*sparse convolution"
    ):
        encoder_of(agent, "agent type 'lidar32' (lidar_voxel)")


def test_rows_belong_to_agents_in_turn() -> None:
    assert owners(5, torch.tensor([2, 0, 3])).tolist() == [0, 0, 2, 2, 2]


def test_the_largest_value_of_a_row_counts() -> None:
    values, index = torch.tensor([[1.0, 4.0], [3.0, 2.0], [5.0, 0.0]]), torch.tensor([2, 2, 0])
    assert scattered(values, index, 4).tolist() == [[5, 0], [0, 0], [3, 4], [0, 0]]


def test_noise_looks_like_a_frame_of_the_sensors() -> None:
    frame = random_frame(("lidar16", "camera"), GRID.x_max, torch.Generator().manual_seed(0))
    points = frame.lidars["lidar16"].points
    assert len(frame.cameras) == 4 and np.abs(points[:, :2]).max() <= GRID.x_max and points[:, 3].min() >= 0
