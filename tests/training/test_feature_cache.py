"""The frozen prefix, computed once: it must be what computing it at every step would give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heatv2x.data.ground_truth import boxes_in_frame
from heatv2x.errors import ConfigError, DataError
from heatv2x.model.collaboration import Collaboration
from heatv2x.structures import AgentFrame
from heatv2x.training.feature_cache import FeatureCache, fill_cache, load_cache, save_cache
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
                shared = model.to_shared_space("lidar16", cache.features["lidar16"][row : row + 1].float())[0]
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


ABOUT = {"data": "here", "seed": 1}


def kept_and_whole(model: Collaboration, dataset: SmallScenes, path: Path) -> tuple[FeatureCache, FeatureCache]:
    """A cache that went on from what a local stage kept, and one that was filled at once."""
    pool, teacher = pool_of(model, BOTH, dataset), ("lidar64", "own")
    local = fill_cache(model, pool, [], ["lidar16"], SCENES, 1, teacher=teacher)
    save_cache(local, path, ABOUT)
    deployed = pool_of(model, ["lidar64"], dataset)
    kept = load_cache(path, deployed, SCENES, 1, ABOUT)
    went_on = fill_cache(model, deployed, ["lidar64"], ["lidar16"], SCENES, 1, teacher=teacher, kept=kept)
    return went_on, fill_cache(model, pool, ["lidar64"], ["lidar16"], SCENES, 1, teacher=teacher)


def test_going_on_from_a_kept_cache_equals_filling_it_at_once(
    model: Collaboration, dataset: SmallScenes, tmp_path: Path
) -> None:
    went_on, whole = kept_and_whole(model, dataset, tmp_path / "cache.safetensors")
    assert went_on.first_row == whole.first_row
    for name in BOTH:
        one, other = ([pose.matrix for frame in cache.poses[name] for pose in frame] for cache in (went_on, whole))
        assert np.array_equal(one, other)
    assert all(torch.equal(went_on.features[name], whole.features[name]) for name in BOTH)
    assert went_on.teacher is not None and whole.teacher is not None
    assert torch.equal(went_on.teacher.shared, whole.teacher.shared)
    for one, other in zip(went_on.frames, whole.frames, strict=True):
        assert np.array_equal(one.objects.T_world_object, other.objects.T_world_object)


def test_a_cache_of_something_else_is_refused(model: Collaboration, dataset: SmallScenes, tmp_path: Path) -> None:
    path, pool = tmp_path / "cache.safetensors", pool_of(model, BOTH, dataset)
    save_cache(cache_of(model, SCENES, dataset), path, ABOUT)
    with pytest.raises(ConfigError, match="made with different seed"):
        load_cache(path, pool, SCENES, 0, {**ABOUT, "seed": 2})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="is not a feature cache"):
        load_cache(path, pool, SCENES, 0, ABOUT)


def test_bfloat16_features_are_close(model: Collaboration, dataset: SmallScenes) -> None:
    pool = pool_of(model, BOTH, dataset)
    exact, coarse = (
        fill_cache(model, pool, ["lidar64"], [], SCENES, 1, precision=precision).features["lidar64"].float()
        for precision in ("float32", "bfloat16")
    )
    assert not torch.equal(exact, coarse)
    assert (exact - coarse).abs().mean() < 0.02 * exact.abs().mean()
