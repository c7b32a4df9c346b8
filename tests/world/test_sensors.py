"""What is written agrees with itself: points with boxes, agents with each other, cameras with the LiDAR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.world.scene import CAMERA_AXES, Agent, box_pose, frames, inside, matrix


@pytest.fixture(scope="module")
def scenes(world: Path) -> list[list[Agent]]:
    return frames(world)


def test_points_in_boxes_are_the_hits(scenes: list[list[Agent]]) -> None:
    checked = 0
    for agents in scenes:
        for agent in agents:
            points = agent.world_points()
            assert {int(key) for key, seen in agent.hits.items() if seen["hits"]} == set(agent.data["vehicles"])
            for key, vehicle in agent.data["vehicles"].items():
                hits = agent.hits[str(key)]["hits"]
                within = inside(points, vehicle, 0.12)
                assert within.sum() >= 0.85 * hits - 3
                assert (within & (points[:, 2] > 0.1)).sum() <= hits + 2  # below are returns of the road under it
                checked += 1
    assert checked > 50


def test_two_agents_agree_on_an_object(scenes: list[list[Agent]]) -> None:
    shared = 0
    for agents in scenes:
        for first in agents:
            for second in agents:
                for key in set(first.data["vehicles"]) & set(second.data["vehicles"]):
                    mine, theirs = (agent.data["vehicles"][key] for agent in (first, second))
                    assert mine == theirs
                    shared += first is not second
                    # the other agent's points fall into the box that this agent wrote
                    hits = second.hits[str(key)]["hits"]
                    assert inside(second.world_points(), mine, 0.12).sum() >= 0.85 * hits - 3
    assert shared > 10


def test_the_ground_is_flat_for_all(scenes: list[list[Agent]]) -> None:
    for agents in scenes:
        for agent in agents:
            z = agent.world_points()[:, 2]
            low = z[z < 0.1]
            assert len(low) > 300 and np.abs(np.median(low)) < 0.02 and low.min() > -0.5


def test_the_own_car_is_not_in_the_cloud(scenes: list[list[Agent]]) -> None:
    for agents in scenes:
        for agent in agents:
            if int(agent.folder.name) > 0:
                x, y, z = agent.points()[:, :3].T
                assert not ((x > -1.0) & (x < 2.0) & (np.abs(y) < 0.7) & (z > -1.7)).any()


def test_lidar_is_mounted_on_the_body(scenes: list[list[Agent]]) -> None:
    for agents in scenes:
        for agent in agents:
            mount = np.linalg.inv(matrix(agent.data["true_ego_pos"])) @ agent.pose
            height = (1.85, 2.15) if int(agent.folder.name) > 0 else (3.9, 5.1)
            assert height[0] < mount[2, 3] < height[1]
            assert np.allclose(mount[:3, :3], np.eye(3), atol=1e-5)


def test_extrinsic_is_lidar_to_camera(scenes: list[list[Agent]]) -> None:
    agent = scenes[0][0]
    for k in range(4):
        camera = agent.data[f"camera{k}"]
        expected = np.linalg.inv(np.linalg.inv(agent.pose) @ matrix(camera["cords"]))
        assert np.allclose(camera["extrinsic"], expected, atol=1e-4)


def test_depth_agrees_with_the_lidar(scenes: list[list[Agent]]) -> None:
    errors: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for agents in scenes[::2]:
        for agent in agents:
            for k in range(4):
                camera = agent.data[f"camera{k}"]
                T_camera_lidar = np.linalg.inv(np.linalg.inv(agent.pose) @ matrix(camera["cords"]) @ CAMERA_AXES)
                points = agent.points()[:, :3] @ T_camera_lidar[:3, :3].T + T_camera_lidar[:3, 3]
                points = points[(points[:, 2] > 2) & (points[:, 2] < 60)]
                pixel = points @ np.array(camera["intrinsic"]).T
                u, v = (pixel[:, :2] / pixel[:, 2:]).round().astype(int).T
                seen = (u >= 0) & (u < 800) & (v >= 0) & (v < 600)
                depth = np.asarray(Image.open(agent.hetero / f"{agent.time}_depth{k}.png"))[v[seen], u[seen]]
                error = np.abs(depth - points[seen, 2])
                errors[int(agent.folder.name) > 0].append(error - 0.1 * points[seen, 2])
    # a pole's cameras sit beside its LiDAR; a car's sit lower and see less behind hedges and other cars
    pole, car = np.concatenate(errors[False]), np.concatenate(errors[True])
    assert (pole < 1.0).mean() > 0.93 and (car < 1.0).mean() > 0.8


def test_visibility_rule(scenes: list[list[Agent]]) -> None:
    visible = 0
    for agents in scenes:
        poses = {key: box_pose(v) for agent in agents for key, v in agent.data["vehicles"].items()}
        for agent in agents:
            raster = np.asarray(Image.open(agent.folder / f"{agent.time}_bev_visibility.png"))
            for key, pose in poses.items():
                if str(key) == agent.folder.name:
                    continue
                x, y = (np.linalg.inv(agent.pose) @ pose[:, 3])[:2]
                row, column = 127 - int(x / 0.39), 127 + int(y / 0.39)
                on = 0 <= row < 256 and 0 <= column < 256 and raster[row, column] > 0
                said = agent.hits.get(str(key), {"camera_visible": False})["camera_visible"]
                assert bool(on) == said
                visible += on
    assert visible > 20
