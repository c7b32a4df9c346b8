"""Left-handed networks: the same scene goes in and comes out, described the other way round inside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from heatv2x.geometry.grid import BevGrid
from heatv2x.geometry.handedness import agent_on, boxes_on, frame_on, maps_on, transforms_on
from heatv2x.model.collaboration import Collaboration
from heatv2x.structures import Boxes3D, Frame
from heatv2x.training.augmentation import mirrored_frame_copy
from heatv2x.training.pool import load_pool
from tests.scene_factory import CAMERA, PILLARS, SmallScenes, small_model, state_copy

LEFT_HANDED = BevGrid(-12.8, 12.8, -12.8, 12.8, 1.6, y_right=True)
RIGHT_HANDED = replace(LEFT_HANDED, y_right=False)
AGENTS = {"lidar64": PILLARS, "camera": CAMERA}


@pytest.fixture(scope="module")
def frame() -> Frame:
    return SmallScenes(frames=1).read(0, ("lidar64", "camera"))


@pytest.fixture(params=["maximum", "pyramid"])
def models(request: pytest.FixtureRequest) -> tuple[Collaboration, Collaboration]:
    """The same networks on a left-handed and on a right-handed grid."""
    left, right = (small_model(request.param, y_right=y_right) for y_right in (True, False))
    right.load_state_dict(state_copy(left))
    return left, right


def detect(model: Collaboration, frame: Frame) -> Boxes3D:
    ego, *others = (model.encode(agent, "lidar64") for agent in frame.agents)
    return model.detect(ego, others)


def test_a_left_handed_network_sees_what_a_right_handed_one_sees_in_a_mirror(
    models: tuple[Collaboration, Collaboration], frame: Frame
) -> None:
    left, right = models
    found, in_the_mirror = detect(left, frame), detect(right, mirrored_frame_copy(frame))
    assert len(found) > 1
    np.testing.assert_allclose(found.boxes, in_the_mirror.boxes * [1, -1, 1, 1, 1, 1, -1], rtol=1e-4, atol=1e-4)
    assert not np.allclose(detect(right, frame).boxes[:1], found.boxes[:1], atol=1e-2)


def test_the_two_do_not_understand_each_other(models: tuple[Collaboration, Collaboration]) -> None:
    left, right = models
    assert left.feature_space != right.feature_space


def test_training_data_are_described_as_the_network_sees_them(
    models: tuple[Collaboration, Collaboration], frame: Frame
) -> None:
    left, right = models
    dataset = SmallScenes(frames=1)
    ours, mirrored = (load_pool(dataset, {"lidar64": model.agent("lidar64")}) for model in (left, right))
    for index, agent in enumerate(frame.agents):
        points = ours.agent(0, index, "lidar64").lidars["lidar64"].points
        assert np.array_equal(points, agent_on(LEFT_HANDED, agent).lidars["lidar64"].points)
        there = mirrored.agent(0, index, "lidar64").lidars["lidar64"].points
        assert np.array_equal(points, there * np.float32([1, -1, 1, 1]))
    relative = ours.frames[0].agents[1].pose.relative_to(ours.frames[0].agents[0].pose)
    wanted = frame.agents[1].pose.relative_to(frame.agents[0].pose)
    np.testing.assert_allclose(transforms_on(LEFT_HANDED, torch.from_numpy(relative)), wanted, atol=1e-9)


def test_cameras_point_at_the_same_pixels(frame: Frame) -> None:
    """The description changes, the image does not: a point's mirror image falls on the point's pixel."""
    agent = frame.agents[0]
    for camera, described in zip(agent.cameras, agent_on(LEFT_HANDED, agent).cameras, strict=True):
        assert described.image is camera.image and described.K is camera.K
        points = np.array([[6.0, 2.0, -0.5, 1.0], [4.0, -3.0, 0.4, 1.0]])
        in_camera = points @ np.linalg.inv(camera.T_agent_camera).T
        mirrored = (points * [1, -1, 1, 1]) @ np.linalg.inv(described.T_agent_camera).T
        np.testing.assert_allclose(mirrored, in_camera, atol=1e-9)


def test_twice_is_back_and_right_handed_grids_change_nothing(frame: Frame) -> None:
    boxes, T, maps = torch.randn(5, 7), torch.randn(2, 4, 4).double(), torch.randn(3, 4, 6)
    for grid, same in ((LEFT_HANDED, False), (RIGHT_HANDED, True)):
        for change, value in ((boxes_on, boxes), (transforms_on, T), (maps_on, maps)):
            assert torch.equal(change(grid, change(grid, value)), value)
            assert torch.equal(change(grid, value), value) == same
        twice = frame_on(grid, frame_on(grid, frame))
        np.testing.assert_allclose(twice.agents[1].pose.matrix, frame.agents[1].pose.matrix)
        np.testing.assert_allclose(twice.objects.T_world_object, frame.objects.T_world_object)
        assert (frame_on(grid, frame) is frame) == same
