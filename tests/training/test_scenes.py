"""How training scenes are drawn and put into batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from heatv2x.data.ground_truth import ground_truth
from heatv2x.errors import HeatError
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.exchange import _pooled_frame, only_lidar
from heatv2x.structures import Frame
from heatv2x.training.end_to_end import CollaborativeTraining
from heatv2x.training.pool import Pool, load_pool
from heatv2x.training.scenes import (
    Scene,
    SceneConfig,
    collate_scenes,
    draw_members,
    draw_scene,
    draw_types,
    report_poses,
    targets,
    with_pooled_points,
)
from tests.scene_factory import GRID, SmallScenes, joined, pool_of, small_model

TYPES = {"lidar64": 1.0, "lidar16": 1.0}
LIVELY = SceneConfig()
STILL = SceneConfig(mirror=False, turn_rad=0.0, thin=0.0, noise=False, alone=0.0)


@pytest.fixture(scope="module")
def model() -> Collaboration:
    return joined(small_model())


@pytest.fixture(scope="module")
def dataset() -> SmallScenes:
    return SmallScenes(frames=4, agents=4)


@pytest.fixture(scope="module")
def pool(model: Collaboration, dataset: SmallScenes) -> Pool:
    return pool_of(model, TYPES, dataset)


def draw(pool: Pool, config: SceneConfig = LIVELY, seed: int = 0, required: str | None = None) -> Scene:
    return draw_scene(pool, config, TYPES, np.random.default_rng(seed), required)


class PartlyLabelled(SmallScenes):
    """Small scenes of which some are labelled."""

    known: tuple[int, ...] = (1, 4, 5)

    def labelled(self, index: int) -> bool:
        return index in self.known


class TestPool:
    def test_is_read_once_with_the_sensors_asked_for(self, model: Collaboration) -> None:
        dataset = SmallScenes(frames=3)
        told: list[tuple[int, int]] = []
        pool = load_pool(
            dataset, {"lidar16": model.agent("lidar16")}, 2, lambda done, total: told.append((done, total))
        )
        assert dataset.reads == [(0, ["lidar16"]), (2, ["lidar16"])] and told == [(1, 2), (2, 2)]
        assert len(pool.frames) == 2 and set(pool.agent(1, 2, "lidar16").lidars) == {"lidar16"}

    @pytest.mark.parametrize("hold", [True, False])
    def test_only_labelled_frames_are_trained_on(
        self, hold: bool, model: Collaboration, caplog: pytest.LogCaptureFixture
    ) -> None:
        dataset, agents = PartlyLabelled(frames=6), {"lidar16": model.agent("lidar16")}
        pool = load_pool(dataset, agents, hold=hold)
        assert [frame.name for frame in pool.frames] == [dataset.name(index) for index in (1, 4, 5)]
        assert "3 of 6 frames have no labels" in caplog.text
        assert [frame.name for frame in load_pool(dataset, agents, 1, hold=hold).frames] == [dataset.name(4)]
        agent = draw_scene(pool, LIVELY, {"lidar16": 1.0}, np.random.default_rng(0)).agents[0]
        assert len(agent.lidars["lidar16"]) > 0
        dataset.known = ()
        with pytest.raises(HeatError, match="none of the 6 frames"):
            load_pool(dataset, agents, hold=hold)

    def test_each_type_gets_what_it_needs(self, pool: Pool, dataset: SmallScenes) -> None:
        frame = dataset.read(2, ["lidar64", "lidar16"])
        for name in TYPES:
            agent = pool.agent(2, 1, name)
            assert set(agent.lidars) == {name} and not agent.cameras
            assert np.array_equal(agent.lidars[name].points, frame.agents[1].lidars[name].points)
        assert all(not agent.lidars and not agent.cameras for frame in pool.frames for agent in frame.agents)

    def test_on_the_disk_it_gives_the_same_and_holds_nothing(self, model: Collaboration, pool: Pool) -> None:
        dataset = SmallScenes(frames=4, agents=4)
        agents = {name: model.agent(name) for name in TYPES}
        on_disk = load_pool(dataset, agents, hold=False)
        assert not on_disk.sensed and {str(sensors) for _, sensors in dataset.reads} == {"[]"}
        one, other = draw(pool, seed=3), draw(on_disk, seed=3)
        assert dataset.reads[-1] == (one.where, {one.members[-1] + 1: model.agent(one.types[-1]).sensors})
        for mine, theirs in zip(one.agents, other.agents, strict=True):
            for name, cloud in mine.lidars.items():
                assert np.array_equal(cloud.points, theirs.lidars[name].points)
            assert np.array_equal(mine.pose.matrix, theirs.pose.matrix)


class TestDrawing:
    def test_the_generator_decides(self, pool: Pool) -> None:
        one, other, third = draw(pool, seed=1), draw(pool, seed=1), draw(pool, seed=2)
        assert (one.where, one.members, one.types) == (other.where, other.members, other.types)
        for mine, theirs in zip(one.agents, other.agents, strict=True):
            assert np.array_equal(mine.pose.matrix, theirs.pose.matrix)
            for name in mine.lidars:
                assert np.array_equal(mine.lidars[name].points, theirs.lidars[name].points)
        assert [pose.matrix.tolist() for pose, *_ in one.reported] == [p.matrix.tolist() for p, *_ in other.reported]
        assert (one.where, one.members, one.types) != (third.where, third.members, third.types)

    def test_the_required_type_is_there(self, pool: Pool) -> None:
        rare = {"lidar64": 1.0, "lidar16": 1e-9}
        for seed in range(30):
            scene = draw_scene(pool, SceneConfig(), rare, np.random.default_rng(seed), "lidar16")
            assert "lidar16" in scene.types
            assert all(set(agent.lidars) == {name} for agent, name in zip(scene.agents, scene.types, strict=True))

    def test_the_required_type_takes_any_seat(self) -> None:
        rng = np.random.default_rng(0)
        seats = Counter(draw_types(3, {"a": 1.0}, rng, "b").index("b") for _ in range(600))
        assert set(seats) == {0, 1, 2} and min(seats.values()) > 150

    def test_types_are_drawn_by_weight(self) -> None:
        rng = np.random.default_rng(0)
        drawn = Counter(draw_types(3000, {"a": 3.0, "b": 1.0, "c": 0.0}, rng, None))
        assert drawn["a"] == pytest.approx(2250, abs=120) and "c" not in drawn

    def test_members_are_an_ego_and_some_in_range(self, pool: Pool) -> None:
        rng = np.random.default_rng(0)
        counts, egos = Counter(), Counter()
        frame = pool.frames[0]
        for _ in range(800):
            members = draw_members(frame, SceneConfig(senders=2, alone=0.25), rng)
            assert len(set(members)) == len(members) <= 3
            counts[len(members)] += 1
            egos[members[0]] += 1
        assert set(egos) == {0, 1, 2, 3} and set(counts) == {1, 3}
        assert counts[1] / 800 == pytest.approx(0.25, abs=0.06)

    def test_only_those_that_may_are_the_ego(self, pool: Pool) -> None:
        last = len(pool.frames[0].agents) - 1
        for may, egos in ((None, {*range(last + 1)}), (tuple(range(last)), {*range(last)})):
            frame = replace(pool.frames[0], egos=may)
            config = SceneConfig(senders=last, alone=0.0)
            drawn = [draw_members(frame, config, np.random.default_rng(seed)) for seed in range(30)]
            assert {members[0] for members in drawn} == egos
            assert any(last in members[1:] for members in drawn)  # it is heard either way

    def test_agents_out_of_range_are_not_heard(self, pool: Pool) -> None:
        frame, rng = pool.frames[0], np.random.default_rng(0)
        poses = [agent.pose for agent in frame.agents]
        for _ in range(60):
            ego, *others = draw_members(frame, SceneConfig(senders=3, alone=0.0, range_m=8.5), rng)
            assert all(poses[ego].planar_distance(poses[other]) <= 8.5 for other in others)
            near = [p for i, p in enumerate(poses) if i != ego and poses[ego].planar_distance(p) <= 8.5]
            assert len(others) == len(near)

    def test_one_agent_alone(self, model: Collaboration) -> None:
        pool = pool_of(model, TYPES, SmallScenes(frames=1, agents=1))
        assert draw(pool).members == [0]

    def test_nothing_is_added_to_a_still_scene(self, pool: Pool, dataset: SmallScenes) -> None:
        scene = draw(pool, STILL)
        frame = dataset.read(scene.where, ["lidar64", "lidar16"])
        for member, agent, name in zip(scene.members, scene.agents, scene.types, strict=True):
            assert np.array_equal(agent.lidars[name].points, frame.agents[member].lidars[name].points)
            np.testing.assert_allclose(agent.pose.matrix, frame.agents[member].pose.matrix, atol=1e-12)
        assert [sigma for _, *sigma in scene.reported] == [[0.0, 0.0]] * len(scene.members)

    def test_augmentation_happens(self, pool: Pool, dataset: SmallScenes) -> None:
        turned = [draw(pool, SceneConfig(mirror=False, thin=0.0), seed).agents[0] for seed in range(40)]
        scenes = [draw(pool, SceneConfig(), seed) for seed in range(40)]
        yaws = []
        for seed, agent in enumerate(turned):
            scene = draw(pool, SceneConfig(mirror=False, thin=0.0), seed)
            yaws.append(agent.pose.yaw - dataset.read(scene.where, []).agents[scene.members[0]].pose.yaw)
        assert np.std(np.arctan2(np.sin(yaws), np.cos(yaws))) == pytest.approx(0.12, abs=0.04)
        flipped = [
            np.sign(scene.frame.objects.T_world_object[0, 1, 0])
            != np.sign(dataset.read(scene.where, []).objects.T_world_object[0, 1, 0])
            for scene in scenes
        ]
        assert 8 < sum(flipped) < 32
        full = {name: len(dataset.read(0, [name]).agents[0].lidars[name]) for name in TYPES}
        shares = [len(s.agents[0].lidars[s.types[0]]) / full[s.types[0]] for s in scenes]
        assert min(shares) < 0.95 and max(shares) <= 1.25

    def test_labels_fit_the_sensor_data_after_augmentation(self, pool: Pool) -> None:
        """Every member's points lie on the boxes of the augmented frame as that member sees them."""
        for seed in range(10):
            scene = draw(pool, SceneConfig(noise=False, alone=0.0), seed)
            for member, agent, name in zip(scene.members, scene.agents, scene.types, strict=True):
                boxes = ground_truth(scene.frame, member, [member]).boxes
                points = agent.lidars[name].points[:, :3]
                raised = points[points[:, 2] > -1.5]
                near = np.zeros(len(raised), bool)
                for x, y, z, length, width, height, yaw in boxes:
                    c, s = np.cos(yaw), np.sin(yaw)
                    d = raised - [x, y, z]
                    local = np.column_stack([d[:, 0] * c + d[:, 1] * s, d[:, 1] * c - d[:, 0] * s, d[:, 2]])
                    near |= (np.abs(local) <= np.array([length, width, height]) / 2 + 0.02).all(axis=1)
                assert len(raised) > 5 and near.mean() > 0.95


class TestReportedPoses:
    def test_the_ego_is_exact_and_senders_say_how_much(self, pool: Pool) -> None:
        poses = [agent.pose for agent in pool.frames[0].agents]
        sigmas, errors = [], []
        for seed in range(400):
            reported = report_poses(poses, SceneConfig(), np.random.default_rng(seed))
            assert reported[0] == (poses[0], 0.0, 0.0)
            for (pose, sigma_m, sigma_rad), true in zip(reported[1:], poses[1:], strict=True):
                assert sigma_rad == pytest.approx(np.radians(sigma_m))
                off = pose.xyz - true.xyz
                assert (sigma_m > 0) == bool(off.any()) and off[2] == 0
                sigmas.append(sigma_m)
                errors.append(off[:2] / sigma_m if sigma_m else [np.nan, np.nan])
        assert np.nanstd(errors) == pytest.approx(1.0, abs=0.05)
        shares = Counter("none" if s == 0 else "one" if s == 1 else "up to a half" for s in sigmas)
        total = len(sigmas)
        assert shares["none"] / total == pytest.approx(0.30, abs=0.05)
        assert shares["up to a half"] / total == pytest.approx(0.45, abs=0.05)
        assert shares["one"] / total == pytest.approx(0.25, abs=0.05)
        assert max(s for s in sigmas if s < 1) <= 0.5

    def test_without_noise(self, pool: Pool) -> None:
        poses = [agent.pose for agent in pool.frames[0].agents]
        reported = report_poses(poses, SceneConfig(noise=False), np.random.default_rng(0))
        assert reported == [(pose, 0.0, 0.0) for pose in poses]


class TestBatch:
    CONFIG = SceneConfig(senders=3)

    def scenes(self, pool: Pool, config: SceneConfig = CONFIG) -> list[Scene]:
        return [draw(pool, config, seed) for seed in range(6)]

    def test_links_join_the_flat_list(self, model: Collaboration, pool: Pool) -> None:
        scenes = self.scenes(pool)
        batch = collate_scenes(scenes, {name: model.agent(name) for name in TYPES}, GRID, self.CONFIG)
        assert batch.types == [name for scene in scenes for name in scene.types]
        assert batch.links.senders.shape == (6, 3) and batch.links.T_sender_ego.dtype == torch.float64
        first = 0
        for row, scene in enumerate(scenes):
            assert int(batch.links.ego[row]) == first
            count = len(scene.members) - 1
            assert batch.links.senders[row].tolist() == [*range(first + 1, first + 1 + count), *[-1] * (3 - count)]
            for slot in range(3):
                pose, sigma_m, sigma_rad = scene.reported[1 + slot] if slot < count else scene.reported[0]
                wanted = scene.reported[0][0].relative_to(pose)
                np.testing.assert_allclose(batch.links.T_sender_ego[row, slot].numpy(), wanted, atol=1e-9)
                assert float(batch.links.sigma_m[row, slot]) == pytest.approx(sigma_m)
                assert float(batch.links.sigma_rad[row, slot]) == pytest.approx(sigma_rad)
            first += len(scene.members)
        assert not batch.links.age_s.any()

    def test_the_ego_is_linked_with_the_noise_it_would_meet(self, pool: Pool) -> None:
        scene = next(s for s in self.scenes(pool) if len(s.reported) > 1 and s.reported[1][1] > 0.05)
        batch = collate_scenes([scene], None, GRID, self.CONFIG)
        exact = scene.agents[0].pose.relative_to(scene.agents[1].pose)
        assert not np.allclose(batch.links.T_sender_ego[0, 0].numpy(), exact, atol=1e-3)

    def test_inputs_are_those_of_each_type(self, model: Collaboration, pool: Pool) -> None:
        scenes = self.scenes(pool)
        batch = collate_scenes(scenes, {name: model.agent(name) for name in TYPES}, GRID, self.CONFIG)
        assert set(batch.inputs) == set(batch.types) and not batch.features
        with torch.no_grad():
            features = model.encode_batch(batch.inputs, batch.types)
        everyone = [agent for scene in scenes for agent in scene.agents]
        for row in (0, 3, len(everyone) - 1):
            alone = model.encode(everyone[row], batch.types[row]).feature
            assert alone is not None
            torch.testing.assert_close(features[row], alone, rtol=1e-4, atol=1e-5)

    def test_targets_are_what_the_participants_see(self, pool: Pool) -> None:
        scenes = self.scenes(pool)
        batch = collate_scenes(scenes, None, GRID, self.CONFIG)
        assert not batch.inputs
        first = 0
        for scene, boxes in zip(scenes, batch.boxes, strict=True):
            seen, own = targets(scene, GRID, self.CONFIG.min_hits)
            assert torch.equal(boxes, seen) and boxes.dtype == torch.float32
            assert (boxes[:, :2].abs() <= 12.8).all()
            truth = ground_truth(scene.frame, scene.members[0], scene.members)
            inside = (np.abs(truth.boxes[:, :2]) <= 12.8).all(axis=1)
            assert len(boxes) == inside.sum() > 0
            last = first + len(scene.members)
            assert all(torch.equal(a, b) for a, b in zip(own, batch.own_boxes[first:last], strict=True))
            assert len(own[0]) <= len(seen)
            first = last
        assert first == len(batch.own_boxes) == len(batch.types)

    def test_objects_with_few_hits_are_no_targets(self, pool: Pool) -> None:
        scene = draw(pool, STILL)
        assert len(targets(scene, GRID, 2)[0]) > 0 == len(targets(scene, GRID, 41)[0])

    def test_ego_only_training_has_no_slots(self, pool: Pool) -> None:
        config = SceneConfig(senders=0)
        batch = collate_scenes(self.scenes(pool, config), None, GRID, config)
        assert batch.links.senders.shape == (6, 0) and batch.links.T_sender_ego.shape == (6, 0, 4, 4)


def test_the_augmented_ego_is_where_its_frame_says(pool: Pool) -> None:
    """The pose in the frame, the pose of the sensor data and the reported pose of the ego are one and the same."""
    scene = draw(pool, SceneConfig(), 3)
    ego = scene.members[0]
    frame: Frame = scene.frame
    assert frame.agents[ego].pose == scene.agents[0].pose == scene.reported[0][0]


class TestPooledPoints:
    SCENES = SceneConfig(senders=2, alone=0.0, turn_rad=0.1, thin=0.0, noise=False, min_hits=1)

    def scene(self, model: Collaboration) -> Scene:
        pool = pool_of(model, ["lidar64"])
        scenes = (draw_scene(pool, self.SCENES, {"lidar64": 1.0}, np.random.default_rng(seed)) for seed in range(20))
        return next(scene for scene in scenes if len(scene.members) == 3)

    def test_they_are_those_that_a_vehicle_pools(self) -> None:
        """By way of messages, which round to centimetres."""
        model = small_model("early")
        scene = self.scene(model)
        ego, *senders = (
            replace(model.encode(agent, "lidar64"), pose=pose)
            for agent, (pose, _, _) in zip(scene.agents, scene.reported, strict=True)
        )
        expected = _pooled_frame(ego, senders, "lidar64").lidars["lidar64"].points
        found = with_pooled_points(scene, partial(only_lidar, model))
        assert found.members == scene.members[:1] and found.types == ["lidar64"] and len(found.reported) == 1
        points = found.agents[0].lidars["lidar64"].points
        assert len(points) == sum(len(agent.lidars["lidar64"].points) for agent in scene.agents)
        np.testing.assert_allclose(points[:, :3], expected[:, :3], atol=0.02)

    def test_a_base_learns_from_them_what_all_see(self) -> None:
        torch.manual_seed(0)
        model = small_model("early", shake=0.05)
        stage = CollaborativeTraining(model, pool_of(model, ["lidar64"]), {"lidar64": 1.0}, self.SCENES, 2)
        drawn = stage.draw(np.random.default_rng(3))
        batch = stage.collate(drawn, drawn)
        assert batch.types == ["lidar64"] * 2 and not (batch.links.senders >= 0).any()
        for boxes, scene in zip(batch.boxes, drawn, strict=True):
            assert torch.equal(boxes, targets(scene, model.grid, 1)[0])
        losses = stage.losses(batch)
        torch.stack(list(losses.values())).sum().backward()
        gradient = next(model.agents.parameters()).grad
        assert gradient is not None and gradient.any()
