"""CARLA's poses and ours, against the reference vectors: transforms, their inverse, moved points, cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from heatv2x.formats.carla import carla_matrix, carla_pose, from_carla, mirror, to_carla
from heatv2x.formats.opv2v_yaml import _T_BODY_CAMERA
from heatv2x.structures import Pose

MIRROR = np.array([1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def vectors(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "a_pose.npz") as file:
        return {name: file[name] for name in file.files}


def ours(poses: np.ndarray) -> list[Pose]:
    return [Pose(from_carla(pose)) for pose in poses]


def test_matrices(vectors: dict[str, np.ndarray]) -> None:
    for pose, matrix in zip(vectors["pose"], vectors["x_to_world"], strict=True):
        np.testing.assert_allclose(carla_matrix(pose), matrix, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(from_carla(pose), mirror(matrix), rtol=1e-9, atol=1e-9)


def test_back_to_six_numbers(vectors: dict[str, np.ndarray]) -> None:
    for matrix, pose in zip(vectors["x_to_world"], vectors["tfm_to_pose"], strict=True):
        for found in (carla_pose(matrix), to_carla(mirror(matrix))):
            np.testing.assert_allclose(found[:3], pose[:3], rtol=1e-9, atol=1e-9)
            turns = (np.array(found[3:]) - pose[3:] + 180) % 360 - 180  # half a turn either way is the same
            np.testing.assert_allclose(turns, 0, atol=1e-7)


def test_one_frame_into_another(vectors: dict[str, np.ndarray]) -> None:
    poses = ours(vectors["pose"])
    for i, theirs in enumerate(vectors["x1_to_x2_of_i_and_iplus5mod16"]):
        relative = poses[i].relative_to(poses[(i + 5) % 16])
        np.testing.assert_allclose(relative, mirror(theirs), rtol=1e-9, atol=1e-9)
    for theirs, pose in zip(vectors["relative_to_first"], poses[5:9], strict=True):
        np.testing.assert_allclose(pose.relative_to(poses[5]), mirror(theirs), rtol=1e-9, atol=1e-9)


def test_pairs_of_agents(vectors: dict[str, np.ndarray]) -> None:
    """Entry [i, j] maps frame i to frame j."""
    poses, theirs = ours(vectors["pairwise_in"]), vectors["pairwise_maxcav5"]
    for i, one in enumerate(poses):
        for j, other in enumerate(poses):
            np.testing.assert_allclose(one.relative_to(other), mirror(theirs[i, j]), rtol=1e-9, atol=1e-9)


def test_moved_points(vectors: dict[str, np.ndarray]) -> None:
    matrix = ours(vectors["pose"])[5].matrix
    moved = (vectors["points"] * MIRROR) @ matrix[:3, :3].T + matrix[:3, 3]
    theirs = vectors["points_by_T5_numpy"] * MIRROR
    np.testing.assert_allclose(moved, theirs, atol=2e-6 * np.abs(theirs).max())


def test_a_cameras_place_in_the_lidar_frame(golden: Path) -> None:
    """Camera axes are OpenCV's on both sides, so only the LiDAR's side is mirrored."""
    with np.load(golden / "k_lss.npz") as file:
        theirs, cords, lidar_pose = (file[name] for name in ("camera_to_lidar", "cam_cords", "lidar_pose"))
    T_agent_camera = Pose(from_carla(lidar_pose)).inverse() @ from_carla(cords) @ _T_BODY_CAMERA
    np.testing.assert_allclose(T_agent_camera, np.diag([1, -1, 1, 1]) @ theirs, atol=2e-6 * np.abs(theirs).max())
