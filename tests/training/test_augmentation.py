"""Augmentation leaves a possible world: labels, points, cameras and poses move together."""

from __future__ import annotations

import numpy as np
import pytest

from heatv2x.data.ground_truth import ground_truth
from heatv2x.structures import AgentFrame, Camera, Frame, PointCloud, Pose
from heatv2x.training.augmentation import mirrored_copy, mirrored_frame_copy, rotated_copy, thinned_copy
from tests.scene_factory import SmallScenes, cameras_of, project

SENSORS = ("lidar64", "lidar16", "camera")


@pytest.fixture(scope="module")
def frame() -> Frame:
    """A frame whose second agent stands tilted, as on a slope."""
    frame = SmallScenes(seed=3).read(0, SENSORS)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(0.05), -np.sin(0.05)], [np.sin(0.05), np.cos(0.05)]]
    second = AgentFrame(
        2, "000068", Pose(frame.agents[1].pose.matrix @ tilt), frame.agents[1].lidars, frame.agents[1].cameras
    )
    return frame.with_agents((frame.agents[0], second, frame.agents[2]))


def in_world(agent: AgentFrame, xyz: np.ndarray) -> np.ndarray:
    return np.asarray(xyz, np.float64) @ agent.pose.matrix[:3, :3].T + agent.pose.matrix[:3, 3]


def same_agent(one: AgentFrame, other: AgentFrame) -> None:
    np.testing.assert_allclose(one.pose.matrix, other.pose.matrix, atol=1e-9)
    for name in other.lidars:
        np.testing.assert_allclose(one.lidars[name].points, other.lidars[name].points, atol=1e-5)
    for mine, theirs in zip(one.cameras, other.cameras, strict=True):
        assert np.array_equal(mine.image, theirs.image) and np.array_equal(mine.depth, theirs.depth)  # type: ignore[arg-type]
        np.testing.assert_allclose(mine.K, theirs.K, atol=1e-9)
        np.testing.assert_allclose(mine.T_agent_camera, theirs.T_agent_camera, atol=1e-9)
    assert (one.agent_id, one.timestamp) == (other.agent_id, other.timestamp)


class TestTurned:
    @pytest.mark.parametrize("yaw", [0.3, -2.0, np.pi])
    def test_nothing_moves_in_the_world(self, frame: Frame, yaw: float) -> None:
        for agent in frame.agents:
            after = rotated_copy(agent, yaw)
            for name, cloud in agent.lidars.items():
                before, now = (in_world(a, c.points[:, :3]) for a, c in ((agent, cloud), (after, after.lidars[name])))
                np.testing.assert_allclose(now, before, atol=1e-4)
                assert np.array_equal(after.lidars[name].points[:, 3], cloud.points[:, 3])
            for camera, same in zip(agent.cameras, after.cameras, strict=True):
                world = agent.pose.matrix @ camera.T_agent_camera
                np.testing.assert_allclose(after.pose.matrix @ same.T_agent_camera, world, atol=1e-9)
            assert after.pose.yaw != pytest.approx(agent.pose.yaw)

    def test_the_agent_sees_the_world_turned(self) -> None:
        ahead = AgentFrame(1, "0", Pose.planar(0, 0, 0), {"lidar64": PointCloud(np.float32([[10, 0, 1, 0.5]]))})
        left = rotated_copy(ahead, np.pi / 2).lidars["lidar64"].points[0]
        np.testing.assert_allclose(left, [0, 10, 1, 0.5], atol=1e-5)

    def test_back_again(self, frame: Frame) -> None:
        same_agent(rotated_copy(rotated_copy(frame.agents[1], 0.7), -0.7), frame.agents[1])


class TestMirrored:
    def test_twice_is_the_identity(self, frame: Frame) -> None:
        for agent in frame.agents:
            same_agent(mirrored_copy(mirrored_copy(agent)), agent)
        twice = mirrored_frame_copy(mirrored_frame_copy(frame))
        np.testing.assert_allclose(twice.objects.T_world_object, frame.objects.T_world_object, atol=1e-9)

    def test_left_becomes_right(self, frame: Frame) -> None:
        agent = frame.agents[1]
        flipped = mirrored_copy(agent)
        wanted = in_world(agent, agent.lidars["lidar64"].points[:, :3]) * [1, -1, 1]
        np.testing.assert_allclose(in_world(flipped, flipped.lidars["lidar64"].points[:, :3]), wanted, atol=1e-4)
        assert np.linalg.det(flipped.pose.matrix[:3, :3]) == pytest.approx(1.0)
        assert flipped.pose.yaw == pytest.approx(-agent.pose.yaw, abs=1e-6)

    @pytest.mark.parametrize("point", [[6.0, 1.5, -0.5], [3.0, 5.0, 0.4], [-7.0, 2.0, 0.1], [1.0, -4.0, 0.0]])
    def test_a_point_projects_to_the_mirrored_pixel(self, point: list[float]) -> None:
        cameras = cameras_of(np.array([point]))
        agent = AgentFrame(1, "0", Pose.planar(2, 1, 0.3), cameras=cameras)
        flipped = mirrored_copy(agent)
        seen = 0
        for before, after in zip(cameras, flipped.cameras, strict=True):
            column, row, depth = project(before, np.array([point]))[0]
            mirrored_point = np.array([point]) * [1, -1, 1]
            new_column, new_row, new_depth = project(after, mirrored_point)[0]
            assert (new_row, new_depth) == (pytest.approx(row), pytest.approx(depth))
            assert new_column == pytest.approx(before.image.shape[1] - 1 - column)
            if depth > 0.5 and 2 < column < 61 and 2 < row < 45:
                seen += 1
                assert after.image[round(new_row), round(new_column)].tolist() == [255, 255, 255]
                assert after.depth is not None
                assert after.depth[round(new_row), round(new_column)] == pytest.approx(depth, rel=1e-5)
        assert seen >= 1

    def test_an_image_without_symmetry_is_flipped(self) -> None:
        image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
        camera = Camera("camera0", image, np.array([[5.0, 0, 2.0], [0, 5.0, 1.5], [0, 0, 1]]), np.eye(4))
        flipped = mirrored_copy(AgentFrame(1, "0", Pose.planar(0, 0, 0), cameras=(camera,))).cameras[0]
        assert np.array_equal(flipped.image, image[:, ::-1]) and flipped.K[0, 2] == 3.0 and flipped.depth is None
        assert flipped.image.flags["C_CONTIGUOUS"]

    def test_labels_are_mirrored_alike(self, frame: Frame) -> None:
        """Ground truth in the mirrored world is the mirror image of ground truth: y and yaw change their sign."""
        flipped = mirrored_frame_copy(frame)
        for ego in range(3):
            before, after = ground_truth(frame, ego), ground_truth(flipped, ego)
            assert before.ids is not None and after.ids is not None and before.ids.tolist() == after.ids.tolist()
            assert len(before) > 3
            np.testing.assert_allclose(after.boxes[:, [0, 2, 3, 4, 5]], before.boxes[:, [0, 2, 3, 4, 5]], atol=1e-4)
            np.testing.assert_allclose(after.boxes[:, 1], -before.boxes[:, 1], atol=1e-4)
            np.testing.assert_allclose(np.sin(after.boxes[:, 6] + before.boxes[:, 6]), 0, atol=1e-4)

    def test_points_stay_on_their_boxes(self, frame: Frame) -> None:
        def inside(scene: Frame) -> int:
            count = 0
            for agent in scene.agents:
                points = in_world(agent, agent.lidars["lidar64"].points[:, :3])
                for T, size in zip(scene.objects.T_world_object, scene.objects.size, strict=True):
                    local = (points - T[:3, 3]) @ T[:3, :3]
                    count += int((np.abs(local) <= size / 2 + 0.01).all(axis=1).sum())
            return count

        upright = SmallScenes(seed=3).read(0, SENSORS)
        turned_world = mirrored_frame_copy(upright)
        turned_world = turned_world.with_agents(tuple(rotated_copy(agent, 0.5) for agent in turned_world.agents))
        assert inside(upright) == inside(turned_world) > 300


class TestThinned:
    def test_a_share_goes(self, frame: Frame) -> None:
        rng = np.random.default_rng(0)
        cloud = PointCloud(np.random.default_rng(1).random((5000, 4)).astype(np.float32))
        thin = thinned_copy(AgentFrame(1, "0", frame.agents[0].pose, {"lidar64": cloud}), 0.2, rng).lidars["lidar64"]
        assert len(thin) == pytest.approx(4000, abs=150)
        rows = {tuple(row) for row in cloud.points.tolist()}
        assert all(tuple(row) in rows for row in thin.points.tolist())

    def test_none_goes(self, frame: Frame) -> None:
        thin = thinned_copy(frame.agents[0], 0.0, np.random.default_rng(0))
        assert np.array_equal(thin.lidars["lidar64"].points, frame.agents[0].lidars["lidar64"].points)
