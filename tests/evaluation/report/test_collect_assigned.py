"""The report's scenes of an evaluation in which the ego is not the frame's first agent."""

from __future__ import annotations

import numpy as np

from heatv2x.data.assignment import Assignment
from heatv2x.data.ground_truth import ground_truth
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.report.collect import collect_scenes
from heatv2x.evaluation.roster import AssignedRoster
from tests.scene_factory import SmallScenes, joined, small_model


def test_the_ego_is_who_the_evaluation_says() -> None:
    model, dataset = joined(small_model(), shake=0.1), SmallScenes(frames=2, agents=3)
    assigned = Assignment({"clip0": {1: "m3", 2: "m1", 3: "m3"}})
    roster = AssignedRoster(assigned, {"m1": "lidar64", "m3": "lidar16"}, ("lidar64",))
    evaluation = Evaluator(dataset, keep=[1]).evaluate(model, roster)
    (scene,) = collect_scenes(model, evaluation.scenes, evaluation.scenes).scenes
    ego = scene.agents[0]
    assert (ego.id, ego.type, ego.x, ego.y, ego.is_ego) == (2, "lidar64", 0, 0, True)
    assert sorted(agent.id for agent in scene.agents[1:]) == [1, 3] and not any(a.is_ego for a in scene.agents[1:])
    frame = dataset.read(1, [])
    seen, everything = ground_truth(frame, 1, [1]), evaluation.scenes[1].truth
    assert seen.ids is not None and everything.ids is not None
    assert scene.visible_to_ego == np.isin(everything.ids, seen.ids).tolist()
    assert np.allclose(scene.ground_truth, everything.boxes)
