"""What `python -m tests.formats` writes, seen through the reader: clouds, labels, images and visibility agree."""

from pathlib import Path

import numpy as np
import pytest

from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.structures import Frame
from tests.formats.__main__ import WRITERS, main
from tests.formats.opv2v_writer import OPV2V, V2XSET, write_opv2v_h, write_v2xset


@pytest.fixture(scope="module")
def opv2v_h(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("opv2v_h")
    write_opv2v_h(out, OPV2V[:1])
    return out


def inside(points: np.ndarray, T_box: np.ndarray, size: np.ndarray, margin: float = 0.03) -> np.ndarray:
    """(P,) which points lie in a box or on its surface."""
    local = (points - T_box[:3, 3]) @ T_box[:3, :3]
    return (np.abs(local) <= size / 2 + margin).all(axis=1)


def counted(frame: Frame, agent: int, sensor: str) -> np.ndarray:
    """(N,) points of one agent's cloud on each object."""
    points = frame.agents[agent].lidars[sensor].points[:, :3].astype(np.float64)
    T = frame.agents[agent].pose.inverse() @ frame.objects.T_world_object
    return np.array([inside(points, each, size).sum() for each, size in zip(T, frame.objects.size, strict=True)])


@pytest.mark.parametrize("index", [0, 2])
def test_points_lie_on_the_listed_objects_and_on_the_ground(opv2v_h: Path, index: int) -> None:
    frame = Opv2v(opv2v_h, "train").read(index, ["lidar64", "lidar32", "lidar16"])
    for agent in range(2):
        dense, sparse = counted(frame, agent, "lidar64"), counted(frame, agent, "lidar16")
        own = frame.objects.ids == frame.agents[agent].agent_id  # its own returns are dropped, and it lists not itself
        assert ((dense > 0) == (frame.objects.hits[:, agent] > 0))[~own].all() and not dense[own].any()
        assert 0 < sparse.sum() < 0.5 * dense.sum()
        points = frame.agents[agent].lidars["lidar64"].points[:, :3]
        world = points @ frame.agents[agent].pose.matrix[:3, :3].T + frame.agents[agent].pose.xyz
        boxes = zip(frame.objects.T_world_object, frame.objects.size, strict=True)
        on_objects = np.any([inside(world, T, size) for T, size in boxes], axis=0)
        assert (on_objects | (np.abs(world[:, 2]) < 0.01)).all() and world[:, 2].min() > -0.01
    assert (frame.objects.hits > 0).all(axis=1).sum() >= 3  # several objects are seen by both


def test_depth_and_visibility_agree_with_the_labels(opv2v_h: Path) -> None:
    frame = Opv2v(opv2v_h, "train").read(1, ["camera"])
    checked = 0
    for number, agent in enumerate(frame.agents):
        centres = (agent.pose.inverse() @ frame.objects.T_world_object)[:, :3, 3]
        shown = np.zeros(len(centres), bool)
        for camera in agent.cameras:
            assert camera.depth is not None
            local = (centres - camera.T_agent_camera[:3, 3]) @ camera.T_agent_camera[:3, :3]
            pixels = local @ camera.K.T
            u, v = (pixels[:, :2] / pixels[:, 2:]).T
            for n in np.flatnonzero((local[:, 2] > 1) & (u > 0) & (u < 799) & (v > 0) & (v < 599)):
                depth = camera.depth[int(v[n]), int(u[n])]
                at_the_object = abs(depth - local[n, 2]) < 3.0
                shown[n] |= at_the_object
                checked += at_the_object and frame.objects.camera_visible[n, number]
        own = frame.objects.ids == agent.agent_id
        assert not (shown & ~frame.objects.camera_visible[:, number] & ~own).any()
    assert checked > 5


def test_roadside_units_and_old_yaml(tmp_path: Path, opv2v_h: Path) -> None:
    write_v2xset(tmp_path, V2XSET[:1], images=False)
    dataset = Opv2v(tmp_path, "train")
    assert dataset.agent_ids(0) == (5274, 5292, -1)
    frame = dataset.read(0, ["lidar64"])
    assert (counted(frame, 2, "lidar64") > 0).sum() >= 5 and frame.agents[2].pose.xyz[2] == 6.0
    assert "!!python/tuple" in next((opv2v_h / "OPV2V/train/2021_08_16_22_26_54").rglob("*9.yaml")).read_text()


def test_the_command_knows_its_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["v2xset", str(tmp_path)]) == 0 and len(list(tmp_path.rglob("*.pcd"))) == 20
    assert main(["kitti", str(tmp_path)]) == 2
    usage = capsys.readouterr().err
    assert all(name in usage for name in WRITERS)
