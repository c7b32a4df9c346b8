"""Which detections are right, which frames are shown, and the file that keeps them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from heatv2x.data.ground_truth import boxes_in_frame
from heatv2x.evaluation.detections import FORMAT, FoundFrame, spread, write_detections
from heatv2x.geometry.boxes import in_world
from heatv2x.geometry.matching import judge
from heatv2x.structures import Boxes3D, Objects, Pose


def boxes(*places: tuple[float, float], scores: list[float] | None = None) -> Boxes3D:
    rows = np.array([[x, y, 0.5, 4.0, 2.0, 1.5, 0.0] for x, y in places], np.float32).reshape(-1, 7)
    ids = None if scores is not None else np.arange(100, 100 + len(rows))
    return Boxes3D(rows, None if scores is None else np.array(scores, np.float32), ids)


class TestJudge:
    def test_the_better_of_two_takes_the_label_and_the_other_is_a_false_alarm(self) -> None:
        judged = judge(boxes((0.3, 0), (0.1, 0), (30, 0), scores=[0.5, 0.9, 0.7]), boxes((0, 0), (10, 0)))
        assert judged.detections.scores is not None
        assert judged.detections.scores.tolist() == pytest.approx([0.9, 0.7, 0.5])  # best first
        assert judged.label.tolist() == [0, -1, -1] and judged.missed.tolist() == [False, True]
        assert judged.overlap[0] == pytest.approx(3.9 / 4.1, abs=1e-3) and judged.overlap[1] == 0
        assert judged.overlap[2] > 0.8  # as near as that, yet too late

    def test_half_is_enough_and_less_is_not(self) -> None:
        truth = boxes((0, 0))
        assert judge(boxes((1.3, 0), scores=[0.9]), truth).hit.tolist() == [True]  # 2.7 / 5.3
        assert judge(boxes((1.4, 0), scores=[0.9]), truth).hit.tolist() == [False]  # 2.6 / 5.4

    def test_low_scores_do_not_count(self) -> None:
        judged = judge(boxes((0, 0), scores=[0.2]), boxes((0, 0)), min_score=0.3)
        assert len(judged.detections) == 0 and judged.missed.all()

    @pytest.mark.parametrize(("found", "labelled"), [(0, 0), (0, 2), (2, 0)])
    def test_either_side_may_be_empty(self, found: int, labelled: int) -> None:
        detections = boxes(*[(9.0 * i, 0.0) for i in range(found)], scores=[0.5] * found)
        judged = judge(detections, boxes(*[(9.0 * i, 50.0) for i in range(labelled)]))
        assert judged.hit.sum() == 0 and judged.missed.sum() == labelled and len(judged.detections) == found


class TestSpread:
    NAMES: ClassVar[list[str]] = [
        f"{scenario}/{frame:03d}" for scenario, size in (("a", 10), ("b", 2), ("c", 5)) for frame in range(size)
    ]

    def test_every_scenario_has_its_share_and_frames_lie_apart(self) -> None:
        assert [self.NAMES[k] for k in spread(self.NAMES, 3)] == ["a/005", "b/001", "c/002"]
        assert [self.NAMES[k] for k in spread(self.NAMES, 7)] == [
            "a/002", "a/007", "b/000", "b/001", "c/000", "c/002", "c/004",
        ]  # fmt: skip

    def test_fewer_than_scenarios_are_taken_from_scenarios_apart(self) -> None:
        assert [self.NAMES[k][0] for k in spread(self.NAMES, 1)] == ["b"]
        many = [f"{scenario:02d}/0" for scenario in range(40)]
        assert np.diff(spread(many, 8)).tolist() == [5] * 7

    @pytest.mark.parametrize("count", [0, 1, 2, 5, 11, 16, 17, 99])
    def test_as_many_as_wanted_in_order_and_none_twice(self, count: int) -> None:
        chosen = spread(self.NAMES, count)
        assert len(chosen) == min(count, len(self.NAMES)) and chosen == sorted(set(chosen))

    def test_no_frames_at_all(self) -> None:
        assert spread([], 5) == []


def test_boxes_in_the_world_are_those_of_the_labels() -> None:
    """There and back: an object's box in a level ego's frame lies where its label lies."""
    pose = Pose.planar(20.0, -7.0, 2.5, z=1.9)
    world = Pose.planar(31.0, 4.0, -0.7, z=0.8).matrix
    seen = np.ones((1, 1), np.int32)
    objects = Objects(np.array([7]), world[None], np.array([[4.2, 1.8, 1.6]]), np.zeros(1), seen, seen > 0)
    back = in_world(boxes_in_frame(objects, pose).boxes.astype(np.float64), pose.matrix)
    np.testing.assert_allclose(back, [[31.0, 4.0, 0.8, 4.2, 1.8, 1.6, -0.7]], atol=1e-5)


def test_the_file_says_who_found_what_where(tmp_path: Path) -> None:
    pose = Pose.planar(100.0, 50.0, np.pi / 2)
    found = boxes((3, 0), (10, 1), scores=[0.25, 0.75])
    frame = FoundFrame("town/000070", 4, 205, pose.matrix, ((-1, "lidar16", 812),), found)
    empty = FoundFrame("town/000072", 5, 205, pose.matrix, (), Boxes3D.empty())
    write_detections(tmp_path / "detections.json", [("a", {"name": "heal"}, [frame, empty]), ("b", {}, [])])
    content = json.loads((tmp_path / "detections.json").read_text())
    assert content["format"] == FORMAT and [row["row"] for row in content["rows"]] == ["a", "b"]
    first, second = content["rows"][0]["frames"]
    assert (first["frame"], first["index"], first["ego"]) == ("town/000070", 4, 205)
    assert first["heard"] == [{"agent": -1, "type": "lidar16", "message_bytes": 812}]
    assert first["scores"] == [0.75, 0.25] and first["classes"] == ["vehicle", "vehicle"]
    assert first["boxes_ego"][0] == [10.0, 1.0, 0.5, 4.0, 2.0, 1.5, 0.0]
    assert first["boxes_world"][0] == pytest.approx([99.0, 60.0, 0.5, 4.0, 2.0, 1.5, np.pi / 2], abs=1e-4)
    assert second["boxes_ego"] == second["scores"] == second["heard"] == [] and content["rows"][1]["frames"] == []
    assert {path.name for path in tmp_path.iterdir()} == {"detections.json"}
