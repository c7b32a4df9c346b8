"""Ground truth: who sees what, in whose frame, within which range; and the reference loader's numbers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heatv2x.data.ground_truth import boxes_in_frame, ground_truth, in_range
from heatv2x.formats.carla import from_carla
from heatv2x.formats.image import visible_at
from heatv2x.formats.opv2v_yaml import parse_agent_yaml
from heatv2x.structures import AgentFrame, Frame, Objects, Pose

GOLDEN = Path(__file__).parents[1] / "golden"


def objects(
    rows: list[tuple[int, float, float, float]], hits: list[list[int]], visible: list[list[bool]] | None = None
) -> Objects:
    """Cars of 4 x 2 x 1.5 m at (id, x, y, yaw), their centres 0.75 m above the world's ground."""
    return Objects(
        ids=np.array([row[0] for row in rows], np.int64),
        T_world_object=np.stack([Pose.planar(x, y, yaw, 0.75).matrix for _, x, y, yaw in rows]),
        size=np.tile(np.float32([4, 2, 1.5]), (len(rows), 1)),
        speed=np.zeros(len(rows), np.float32),
        hits=np.array(hits, np.int32),
        camera_visible=np.zeros_like(hits, bool) if visible is None else np.array(visible),
    )


@pytest.fixture
def frame() -> Frame:
    """Ego 7 at the origin facing +y, a vehicle 30 m ahead of it, a roadside unit 60 m ahead."""
    poses = {7: Pose.planar(0, 0, np.pi / 2, 2.0), 8: Pose.planar(0, 30, 0, 2.0), -1: Pose.planar(0, 60, 0, 6.0)}
    agents = tuple(AgentFrame(i, "000000", pose) for i, pose in poses.items())
    rows = [(7, 0.3, 0, np.pi / 2), (8, 0, 30, 0), (20, 5, 10, 0.1), (21, -5, 40, 0), (22, 0, 60, 0), (23, 3, 80, 0)]
    hits = [[0, 9, 0], [5, 0, 4], [30, 2, 0], [0, 3, 1], [0, 0, 6], [0, 0, 0]]
    visible = [[False, True, False], [True, False, False], [False] * 3, [False, True, False], [False] * 3, [True] * 3]
    return Frame("s", "000000", agents, objects(rows, hits, visible))


def test_the_union_without_the_ego_in_the_egos_frame(frame: Frame) -> None:
    truth = ground_truth(frame, ego=0)
    assert truth.ids is not None and truth.hits is not None and truth.scores is None
    assert truth.ids.tolist() == [8, 20, 21, 22] and truth.hits.tolist() == [9, 32, 4, 6]
    np.testing.assert_allclose(truth.boxes[0], [30, 0, -1.25, 4, 2, 1.5, -np.pi / 2], atol=1e-5)
    np.testing.assert_allclose(truth.boxes[1, [0, 1, 6]], [10, -5, 0.1 - np.pi / 2], atol=1e-5)
    assert truth.boxes.dtype == np.float32


def test_participants_and_hits(frame: Frame) -> None:
    def ids(**settings: object) -> list[int]:
        return ground_truth(frame, **{"ego": 0, **settings}).ids.tolist()  # type: ignore[arg-type,union-attr]

    assert ids(participants=[0]) == [8, 20]
    assert ids(participants=[0, 1]) == [8, 20, 21]
    assert ids(participants=[]) == []
    assert ids(min_hits=4) == [8, 20, 22]  # 21 has 3 and 1: each agent counts alone
    assert ids(comm_range_m=30.0) == [8, 20, 21]
    assert ids(comm_range_m=29.9) == [8, 20]
    assert ids(visible_to="camera") == [8, 21, 23]
    assert ids(visible_to="camera", participants=[1]) == [21, 23]
    assert ids(ego=1) == [7, 20, 21, 22]
    with pytest.raises(ValueError, match="'lidar' or 'camera'"):
        ids(visible_to="radar")


def test_the_ego_is_left_out_by_its_id_and_by_its_place(frame: Frame) -> None:
    def unnamed(ids: list[int]) -> Frame:
        return replace(frame, objects=replace(frame.objects, ids=np.array(ids)))

    assert ground_truth(unnamed([99, 8, 20, 21, 22, 23]), 0).ids.tolist() == [8, 20, 21, 22]  # type: ignore[union-attr]
    # A vehicle may stand under a roadside unit: object 22 does.
    assert 22 in ground_truth(frame, ego=2).ids.tolist()  # type: ignore[union-attr]


def test_our_range_rule_and_heals(frame: Frame) -> None:
    limits = (-40.0, -40.0, -3.0, 40.0, 40.0, 1.0)
    assert ground_truth(frame, 0, limits=limits).ids.tolist() == [8, 20, 21]  # type: ignore[union-attr]
    assert ground_truth(frame, 0, limits=limits, all_corners=True).ids.tolist() == [8, 20]  # type: ignore[union-attr]
    flat = (-40.0, -40.0, -1.0, 40.0, 40.0, 1.0)
    assert ground_truth(frame, 0, limits=flat).ids.tolist() == [8, 20, 21]  # type: ignore[union-attr]
    assert ground_truth(frame, 0, limits=flat, all_corners=True).ids.tolist() == []  # type: ignore[union-attr]


def test_a_tilted_ego_makes_boxes_upright_as_their_eight_corners_say() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        ego = Pose(
            from_carla(
                [*rng.uniform(-20, 20, 3), *rng.uniform(-8, 8, 1), *rng.uniform(-180, 180, 1), *rng.uniform(-8, 8, 1)]
            )
        )
        scene = objects([(1, *rng.uniform(-30, 30, 2), rng.uniform(-np.pi, np.pi))], [[1]])
        box = boxes_in_frame(scene, ego).boxes[0]
        signs = (
            np.array(
                [[1, -1, -1], [1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, 1], [1, 1, 1], [-1, 1, 1], [-1, -1, 1]]
            )
            / 2
        )
        corners = np.c_[signs * scene.size[0], np.ones(8)] @ (ego.inverse() @ scene.T_world_object[0]).T
        forward = corners[[1, 0, 5, 4], :2] - corners[[2, 3, 6, 7], :2]
        across = corners[[1, 2, 5, 6], :2] - corners[[0, 3, 4, 7], :2]
        expected = [
            *corners[:, :3].mean(0),
            np.linalg.norm(forward, axis=1).mean(),
            np.linalg.norm(across, axis=1).mean(),
            corners[4:, 2].mean() - corners[:4, 2].mean(),
            np.arctan2(*forward.sum(0)[::-1]),
        ]
        np.testing.assert_allclose(box, expected, atol=1e-5)


class TestGolden:
    """The reference loader's boxes of one agent's vehicles, y mirrored, with its rule of all corners in range."""

    @pytest.fixture
    def golden(self) -> dict[str, np.ndarray]:
        return dict(np.load(GOLDEN / "l_objects.npz"))

    def frame_at(self, pose: list[float]) -> Frame:
        content = {"lidar_pose": pose, "vehicles": json.loads((GOLDEN / "l_vehicles.json").read_text())}
        record = parse_agent_yaml(json.dumps(content).encode(), GOLDEN / "l_vehicles.json")  # JSON is YAML
        seen = np.ones((len(record.ids), 1), np.int32)
        labels = Objects(record.ids, record.T_world_object, record.size, record.speed, seen, seen > 0)
        return Frame("s", "000000", (AgentFrame(-5, "000000", Pose(record.T_world_agent)),), labels)

    @pytest.mark.parametrize(("mode", "limits"), [("train", "cav_range"), ("eval", "gt_range")])
    def test_boxes_and_ids(self, golden: dict[str, np.ndarray], mode: str, limits: str) -> None:
        frame = self.frame_at(golden["reference_pose"].tolist())
        truth = ground_truth(frame, 0, limits=golden[limits], all_corners=True)
        assert truth.ids is not None and truth.ids.tolist() == golden[f"{mode}_ids"].tolist()
        theirs = golden[f"{mode}_objects"][golden[f"{mode}_mask"] > 0][:, [0, 1, 2, 5, 4, 3, 6]] * [
            1,
            -1,
            1,
            1,
            1,
            1,
            -1,
        ]
        difference = truth.boxes - theirs
        difference[:, 6] = np.sin(difference[:, 6] / 2)
        np.testing.assert_allclose(difference, 0, atol=2e-5)

    def test_visible_to_cameras(self, golden: dict[str, np.ndarray]) -> None:
        frame = self.frame_at(golden["camera_agent_pose"].tolist())
        agent = frame.agents[0].pose
        centres = (agent.inverse() @ frame.objects.T_world_object)[:, :2, 3]
        visible = visible_at(golden["visibility_map"] > 0, centres)[:, None]
        frame = replace(frame, objects=replace(frame.objects, camera_visible=visible))
        truth = ground_truth(frame, 0, visible_to="camera", limits=golden["cav_range"], all_corners=True)
        assert truth.ids is not None and truth.ids.tolist() == golden["visible_ids"].tolist()


def test_in_range_includes_its_bounds() -> None:
    box = np.array([[1.0, -1.0, 0.0, 2.0, 2.0, 2.0, 0.0]])
    assert in_range(box, (1, -1, 5, 1, -1, 6)).all()
    assert in_range(box, (0, -2, -1, 2, 0, 1), all_corners=True).all()
    assert not in_range(box, (0, -2, -1, 2, 0, 0.9), all_corners=True).any()
