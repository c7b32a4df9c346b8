"""An agent's file becomes our conventions: handedness, full sizes, metres per second, OpenCV cameras."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatv2x.errors import DataError
from heatv2x.formats.opv2v_yaml import assignment, parse_hits, read_agent_yaml
from tests.formats.opv2v_tree import LIDAR_POSES, MOUNTS, K, agent_yaml, carla, write_yaml

MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])
GOLDEN = Path(__file__).parents[1] / "golden"


def written(tmp_path: Path, content: dict[str, Any]) -> Path:
    write_yaml(tmp_path / "000068.yaml", content)
    return tmp_path / "000068.yaml"


def test_pose_objects_and_speed_are_in_our_conventions(tmp_path: Path) -> None:
    content = agent_yaml(641)
    record = read_agent_yaml(written(tmp_path, content))
    np.testing.assert_allclose(record.T_world_agent, MIRROR @ carla(LIDAR_POSES[641]) @ MIRROR, atol=1e-12)
    assert record.ids.tolist() == [300, 301, 1045] and record.without_center == 0
    np.testing.assert_allclose(record.size, [[4.4, 1.8, 1.6]] * 3, rtol=1e-6)
    np.testing.assert_allclose(record.speed, 10.0)
    np.testing.assert_allclose(record.T_world_object[0, :3, 3], [30.0, -10.0, 0.9])
    np.testing.assert_allclose(np.arctan2(*record.T_world_object[:, 1::-1, 0].T), np.radians([-15, 90, 120]))


def test_pose_matrices_agree_with_the_golden_vectors() -> None:
    golden = np.load(GOLDEN / "a_pose.npz")
    for pose, matrix in zip(golden["pose"], golden["x_to_world"], strict=True):
        np.testing.assert_allclose(carla(pose.tolist()), matrix, atol=1e-9)


def test_the_offset_to_the_centre_is_not_turned_with_the_object(tmp_path: Path) -> None:
    content = agent_yaml(641)
    content["vehicles"][300].update(center=[1.0, 2.0, 0.5], angle=[10.0, 90.0, 20.0])
    record = read_agent_yaml(written(tmp_path, content))
    np.testing.assert_allclose(record.T_world_object[0, :3, 3], [31.0, -12.0, 0.6])


def test_what_may_be_missing(tmp_path: Path) -> None:
    content = agent_yaml(641, cameras=False)
    del content["vehicles"][300]["center"], content["vehicles"][300]["speed"]
    del content["ego_speed"], content["true_ego_pos"], content["plan_trajectory"]
    record = read_agent_yaml(written(tmp_path, content))
    assert record.cameras == () and record.without_center == 1 and np.isnan(record.speed[0])
    assert record.T_world_object[0, 2, 3] == pytest.approx(0.1)
    empty = read_agent_yaml(written(tmp_path, content | {"vehicles": {}}))
    assert empty.T_world_object.shape == (0, 4, 4) and empty.size.shape == (0, 3) and len(empty.ids) == 0


def test_a_point_projects_to_the_same_pixel_as_in_carla_axes(tmp_path: Path) -> None:
    """The chain in CARLA's own axes: lidar <- world <- camera <- OpenCV axes, all left-handed but the last."""
    content = agent_yaml(641)
    record = read_agent_yaml(written(tmp_path, content))
    swap = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    points = np.random.default_rng(0).uniform(-30, 30, (50, 3))
    for number, camera in enumerate(record.cameras):
        cords = content[f"camera{number}"]["cords"]
        T_lidar_camera = np.linalg.inv(carla(LIDAR_POSES[641])) @ carla(cords) @ swap
        theirs = (np.linalg.inv(T_lidar_camera) @ np.c_[points, np.ones(50)].T)[:3]
        ours = (np.linalg.inv(camera.T_agent_camera) @ np.c_[points * [1, -1, 1], np.ones(50)].T)[:3]
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        np.testing.assert_allclose(camera.K @ ours, np.array(K) @ theirs, atol=1e-3)
        np.testing.assert_allclose(camera.T_agent_camera[:3, 3], np.array(MOUNTS[number][:3]) * [1, -1, 1], atol=1e-6)
        assert np.linalg.det(camera.T_agent_camera[:3, :3]) == pytest.approx(1)


def test_the_cameras_look_where_opv2v_says(tmp_path: Path) -> None:
    cameras = read_agent_yaml(written(tmp_path, agent_yaml(641))).cameras
    assert [camera.name for camera in cameras] == ["camera0", "camera1", "camera2", "camera3"]
    for camera, place in zip(cameras, ([20, 0, 0], [-3, -20, 0], [-3, 20, 0], [-20, 0, 0]), strict=True):
        u, v, depth = camera.K @ (np.linalg.inv(camera.T_agent_camera) @ [*place, 1.0])[:3]
        assert depth > 10 and 0 < u / depth < 800 and 0 < v / depth < 600
    left_of_axis = cameras[0].K @ (np.linalg.inv(cameras[0].T_agent_camera) @ [20.0, 5.0, 0.0, 1.0])[:3]
    assert left_of_axis[0] / left_of_axis[2] < 400


def broken(*path: Any, value: Any = None) -> dict[str, Any]:
    """A good file with one key replaced, or removed where value is None."""
    content = agent_yaml(641)
    node = content
    for part in path[:-1]:
        node = node[part]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return content


BAD = {
    "lidar_pose": (broken("lidar_pose"), "missing"),
    "lidar_pose ": (broken("lidar_pose", value=[1, 2, 3]), "6 finite numbers"),
    "lidar_pose  ": (broken("lidar_pose", value=[1, 2, 3, 4, 5, float("nan")]), "6 finite numbers"),
    "lidar_pose   ": (broken("lidar_pose", value=[1, 2, 3, 4, 5, 10**400]), "6 finite numbers"),
    "lidar_pose    ": (broken("lidar_pose", value=[1, 2, 3, 4, 5, "6"]), "6 finite numbers"),
    "lidar_pose     ": (broken("lidar_pose", value=[1, 2, 3, 4, 5, True]), "6 finite numbers"),
    "vehicles": (broken("vehicles"), "missing"),
    "vehicles ": (broken("vehicles", value=[1]), "is list, expected a mapping"),
    "vehicles  ": (broken("vehicles", "car", value={}), "'car' is not an integer id"),
    "vehicles   ": (broken("vehicles", "300", value=agent_yaml(641)["vehicles"][300]), "listed twice"),
    "vehicles.300": (broken("vehicles", 300, value="car"), "is str, expected a mapping"),
    "vehicles.300.extent": (broken("vehicles", 300, "extent"), "missing"),
    "vehicles.301.location": (broken("vehicles", 301, "location"), "missing"),
    "vehicles.301.angle": (broken("vehicles", 301, "angle"), "missing"),
    "vehicles.301.angle ": (broken("vehicles", 301, "angle", value=3.0), "3 finite numbers"),
    "vehicles.300.extent ": (broken("vehicles", 300, "extent", value=[2.0, 0.0, 1.0]), "above 0"),
    "vehicles.300.center": (broken("vehicles", 300, "center", value="low"), "3 finite numbers"),
    "vehicles.300.speed": (broken("vehicles", 300, "speed", value=[1, 2]), "a finite number"),
    "camera1.cords": (broken("camera1", "cords"), "missing"),
    "camera1.intrinsic": (broken("camera1", "intrinsic"), "missing"),
    "camera1.intrinsic ": (broken("camera1", "intrinsic", value=[[1, 2, 3]]), "3x3"),
    "camera1.intrinsic  ": (broken("camera1", "intrinsic", value=[[0, 0, 0]] * 3), "not an intrinsic matrix"),
    "camera1.intrinsic.1": (broken("camera1", "intrinsic", value=[[1, 0, 0], [1, 0], [0, 0, 1]]), "3 finite numbers"),
    "camera2": (broken("camera2", value=5), "expected a mapping"),
}


@pytest.mark.parametrize("key", BAD)
def test_a_bad_key_is_named(key: str, tmp_path: Path) -> None:
    content, problem = BAD[key]
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=problem) as caught:
        read_agent_yaml(path)
    assert caught.value.key == key.strip() and caught.value.path == path and caught.value.way_out


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"000068\.yaml: is missing"):
        read_agent_yaml(tmp_path / "000068.yaml")


def test_hits_sidecar() -> None:
    seen = parse_hits(
        b'{"300": {"hits": 12, "camera_visible": true}, "7": {"hits": 0, "camera_visible": false}}', Path("h")
    )
    assert (seen[300].hits, seen[300].camera_visible, seen[7].hits) == (12, True, 0)
    for bad in (
        b"[]",
        b"{",
        b'{"x": {}}',
        b'{"3": {"hits": -1, "camera_visible": true}}',
        b'{"3": {"hits": 2.5, "camera_visible": true}}',
        b'{"3": 4}',
        b"[" * 100_000,
    ):
        with pytest.raises(DataError):
            parse_hits(bad, Path("h"))


def test_assignment(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    path.write_text(json.dumps({"s1": {"641": "m1", "-1": "m3"}}))
    assert assignment(path) == {"s1": {641: "m1", -1: "m3"}}
    for bad, key in (
        ([], None),
        ({"s1": []}, "s1"),
        ({"s1": {"ego": "m1"}}, "s1"),
        ({"s1": {"641": 1}}, "s1.641"),
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(DataError) as caught:
            assignment(path)
        assert caught.value.key == key
    with pytest.raises(DataError, match="cannot be read"):
        assignment(tmp_path / "none.json")
