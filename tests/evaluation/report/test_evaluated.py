"""An evaluation leaves detections, scenes and a report behind, of the right frames and seen by the right ego."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatv2x.core.config import build, parse_overrides
from heatv2x.data.assignment import Assignment
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.job import EvalConfig
from heatv2x.evaluation.report import build_report
from heatv2x.evaluation.report.collect import scene_view
from heatv2x.evaluation.report.evaluated import evaluate
from heatv2x.evaluation.roster import AssignedRoster, Roster
from heatv2x.model.collaboration import Collaboration
from tests.scene_factory import SmallScenes, joined, small_model


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch) -> SmallScenes:
    scenes = SmallScenes(frames=6, agents=3)
    monkeypatch.setattr(Collaboration, "from_packs", lambda *_: joined(small_model(), shake=0.1))
    monkeypatch.setattr("heatv2x.evaluation.job.open_part", lambda *_: scenes)
    return scenes


def run(out: Path, *words: str) -> tuple[list[dict[str, Any]], Path | None]:
    return evaluate(
        build(EvalConfig, parse_overrides(["data=d", "dataset=opv2v", "packs=[]", f"out={out}", *words])),
        None,
        "heatv2x x",
    )


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_scenes_report_and_detections_lie_in_the_run_folder(dataset: SmallScenes, tmp_path: Path) -> None:
    rows, page = run(tmp_path, "senders=lidar16", "scenes=3")
    assert page == tmp_path / "report.html" and "64-beam LiDAR hears 16-beam LiDAR" in page.read_text()
    scenes = read(tmp_path / "scenes.json")["scenes"]
    assert len({scene["name"].split("/")[0] for scene in scenes}) == 3  # one of each clip
    (row,) = read(tmp_path / "detections.json")["rows"]
    assert row["row"] == rows[0]["name"] and row["protocol"] == rows[0]["protocol"]
    assert [frame["frame"] for frame in row["frames"]] == [dataset.name(i) for i in range(6)]
    by_name = {frame["frame"]: frame for frame in row["frames"]}
    for scene in scenes:
        found = by_name[scene["name"]]
        together, alone = scene["detections"]["collaborative"], scene["detections"]["ego_alone"]
        assert sorted(together["scores"], reverse=True) == pytest.approx(found["scores"], abs=1e-4)
        assert together != alone and len(found["heard"]) == 2
        assert [agent["type"] for agent in scene["agents"]] == ["lidar64", "lidar16", "lidar16"]
        assert [agent["message_bytes"] for agent in scene["agents"][1:]] == [h["message_bytes"] for h in found["heard"]]
    assert read(tmp_path / "metrics.json")["command"] == "heatv2x x"


def test_who_hears_nobody_is_seen_alone(dataset: SmallScenes, tmp_path: Path) -> None:
    run(tmp_path, "drop=true", "scenes=1")
    (scene,) = read(tmp_path / "scenes.json")["scenes"]
    assert set(scene["detections"]) == {"ego_alone"} and len(scene["agents"]) == 1


def test_of_several_rows_the_one_that_hears_most_is_shown(
    dataset: SmallScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {dataset.name(i).rpartition("/")[0] for i in range(6)}
    assigned = Assignment({name: dict.fromkeys((1, 2, 3), "m1") for name in names})
    monkeypatch.setattr(Assignment, "read", lambda *_: assigned)
    run(tmp_path, "assignment=a", "plays.m1=lidar64", "agents=[1,3,2]", "scenes=1")
    (scene,) = read(tmp_path / "scenes.json")["scenes"]
    assert len(scene["agents"]) == 3
    assert [row["row"] for row in read(tmp_path / "detections.json")["rows"]] == [f"assigned/{n}" for n in (1, 3, 2)]


def test_without_scenes_the_report_is_made_all_the_same(dataset: SmallScenes, tmp_path: Path) -> None:
    run(tmp_path, "scenes=1")
    _, page = run(tmp_path, "detections=false")  # pictures of the first run would not belong to these numbers
    assert page is None and {path.name for path in tmp_path.iterdir()} == {"metrics.json"}
    assert "scenes=8" in build_report(tmp_path).read_text()


def test_the_ego_of_an_assignment_is_the_ego_of_the_picture(dataset: SmallScenes) -> None:
    """The ego need not be the first agent."""
    scenario = dataset.name(0).rpartition("/")[0]
    cast = AssignedRoster(
        Assignment({scenario: {1: "m3", 2: "m1", 3: "m3"}}), {"m1": "lidar64", "m3": "lidar16"}, ("lidar64",)
    )
    model = joined(small_model(), shake=0.1)
    scene = Evaluator(dataset).run(model, cast, 0)
    view = scene_view(model, scene, scene)
    ego = next(agent for agent in view.agents if agent.is_ego)
    assert ego.id == 2 and (ego.x, ego.y, ego.yaw) == pytest.approx((0, 0, 0)) and ego.type == "lidar64"
    assert ego.message_bytes is None and {agent.id for agent in view.agents} == {1, 2, 3}
    frame = scene.frame
    other = next(agent for agent in view.agents if agent.id == 1)
    place = frame.agents[0].pose.relative_to(frame.agents[1].pose)[:2, 3]
    np.testing.assert_allclose([other.x, other.y], place, atol=1e-9)


def test_marks_that_are_no_counts_are_not_shown_as_counts(dataset: SmallScenes) -> None:
    model = joined(small_model(), shake=0.1)
    scene = Evaluator(dataset).run(model, Roster("lidar64", "lidar16"), 0)
    assert scene_view(model, scene).hits_by_agent
    object.__setattr__(scene.frame.objects, "counted", False)
    assert scene_view(model, scene).hits_by_agent == []
