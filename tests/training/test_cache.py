"""The frozen prefix, computed once: it must be what computing it at every step would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from heatv2x.ground_truth import boxes_in_frame
from heatv2x.model import Collaboration
from heatv2x.structures import AgentFrame
from heatv2x.training.cache import fill_cache
from heatv2x.training.scenes import SceneConfig
from tests.scene_factory import SmallScenes, joined, pool_of, same_state, small_model, state_copy
from tests.training.stages import SCENES, cache_of

STILL = SceneConfig(mirror=False, turn_rad=0.0, thin=0.0, noise=False, alone=0.0)
BOTH = ("lidar64", "lidar16")


@pytest.fixture(scope="module")
def model() -> Collaboration:
    return joined(small_model(), shake=0.1)


@pytest.fixture(scope="module")
def dataset() -> SmallScenes:
    return SmallScenes(frames=4, agents=3)


def test_rows_are_what_the_agents_would_encode(model: Collaboration, dataset: SmallScenes) -> None:
    cache = cache_of(model, STILL, dataset)
    assert cache.first_row == [0, 3, 6, 9, 12]
    for index in range(4):
        frame = dataset.read(index, BOTH)
        for member, agent in enumerate(frame.agents):
            row = cache.first_row[index] + member
            sent = model.encode(agent, "lidar64").feature
            assert sent is not None and cache.features["lidar64"].dtype == torch.float16
            torch.testing.assert_close(cache.features["lidar64"][row].float(), sent, rtol=2e-3, atol=1e-3)
            encoder = model.agent("lidar16")
            with torch.no_grad():
                encoded = encoder(encoder.collate([encoder.prepare(agent)]))[0]
                shared = model.share("lidar16", cache.features["lidar16"][row : row + 1].float())[0]
            torch.testing.assert_close(cache.features["lidar16"][row].float(), encoded, rtol=2e-3, atol=1e-3)
            wanted = model.encode(agent, "lidar16").feature
            assert wanted is not None
            torch.testing.assert_close(shared, wanted, rtol=1e-2, atol=1e-2)


def test_filling_changes_nothing_and_the_seed_decides(model: Collaboration, dataset: SmallScenes) -> None:
    before, pool = state_copy(model), pool_of(model, BOTH, dataset)
    model.train()
    told: list[tuple[int, int]] = []
    one, other, third = (
        fill_cache(model, pool, ["lidar64"], ["lidar16"], SCENES, seed, lambda a, b: told.append((a, b)))
        for seed in (1, 1, 2)
    )
    assert same_state(model.state_dict(), before) and not model.training
    assert told[:4] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(torch.equal(one.features[name], other.features[name]) for name in BOTH)
    assert not any(torch.equal(one.features[name], third.features[name]) for name in BOTH)
    assert not any(value.requires_grad for value in one.features.values())


def test_poses_and_labels_belong_to_the_augmented_data(
    model: Collaboration, dataset: SmallScenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watch what is encoded: its points must lie on the cached frame's boxes when placed with the cached pose."""
    seen: dict[str, list[AgentFrame]] = {name: [] for name in BOTH}
    for name in BOTH:
        prepare = type(model.agent(name)).prepare

        def watch(frame: AgentFrame, name: str = name, prepare: Any = prepare) -> Any:
            seen[name].append(frame)
            return prepare(model.agent(name), frame)

        monkeypatch.setattr(model.agent(name), "prepare", watch)
    cache = cache_of(model, SceneConfig(turn_rad=0.5), SmallScenes(frames=8, agents=3))
    flips = set()
    for name in BOTH:
        for index, frame in enumerate(cache.frames):
            flips.add(bool(np.sign(frame.objects.T_world_object[1, 1, 3]) != 1))
            for member in range(3):
                encoded = seen[name][cache.first_row[index] + member]
                pose = cache.poses[name][index][member]
                assert encoded.pose == pose == cache.frame_as(index, {member: name}).agents[member].pose
                boxes = boxes_in_frame(frame.objects, pose).boxes
                points = encoded.lidars[name].points[:, :3]
                raised = points[points[:, 2] > -1.6]
                near = np.zeros(len(raised), bool)
                for x, y, z, length, width, height, yaw in boxes:
                    c, s = np.cos(yaw), np.sin(yaw)
                    d = raised - [x, y, z]
                    local = np.column_stack([d[:, 0] * c + d[:, 1] * s, d[:, 1] * c - d[:, 0] * s, d[:, 2]])
                    near |= (np.abs(local) <= np.array([length, width, height]) / 2 + 0.02).all(axis=1)
                assert near.mean() > 0.95
    assert flips == {True, False}
    one, other = (cache.poses[name][0][1].yaw for name in BOTH)
    assert one != other, "each type is augmented on its own"


def test_scenes_take_the_poses_and_rows_of_their_types(model: Collaboration, dataset: SmallScenes) -> None:
    cache = cache_of(model, SCENES, dataset)
    types = {"lidar64": 0.5, "lidar16": 0.5}
    required = []
    for seed in range(20):
        scene = cache.draw_scene(SCENES, types, np.random.default_rng(seed), "lidar16")
        again = cache.draw_scene(SCENES, types, np.random.default_rng(seed), "lidar16")
        assert (scene.where, scene.members, scene.types) == (again.where, again.members, again.types)
        assert not scene.agents and "lidar16" in scene.types
        assert cache.rows(scene) == [3 * scene.where + member for member in scene.members]
        for member, name in zip(scene.members, scene.types, strict=True):
            assert scene.frame.agents[member].pose == cache.poses[name][scene.where][member]
        assert scene.reported[0] == (scene.frame.agents[scene.members[0]].pose, 0.0, 0.0)
        required.append(scene.types.index("lidar16"))
    assert len(set(required)) > 1


def test_frames_hold_no_sensor_data(model: Collaboration, dataset: SmallScenes) -> None:
    cache = cache_of(model, SCENES, dataset)
    assert all(not agent.lidars and not agent.cameras for frame in cache.frames for agent in frame.agents)
