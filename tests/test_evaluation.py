"""Evaluation runs the whole line: real bytes, a channel, the same ground truth for every row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from heatv2x.channel import ChannelConfig
from heatv2x.config import build, parse_overrides
from heatv2x.datasets.base import Sensors
from heatv2x.errors import ConfigError, HeatError
from heatv2x.evaluation import EvalConfig, Evaluator, _rosters, run_eval, without_hidden
from heatv2x.ground_truth import ground_truth
from heatv2x.message import Message, pack, unpack
from heatv2x.metrics.protocols import HEAL, HEAL_IN_ORDER, HEATV2X
from heatv2x.model import Collaboration, links_of
from heatv2x.roster import AssignedRoster, Assignment, Roster
from heatv2x.structures import Boxes3D, Frame
from tests.scene_factory import SmallScenes, joined, shaken, small_model

ROSTER = Roster("lidar64", "lidar16")
LIMITS = (-12.8, -12.8, -10.0, 12.8, 12.8, 10.0)


@pytest.fixture(scope="module")
def model() -> Collaboration:
    return joined(small_model(), shake=0.1)


@pytest.fixture
def dataset() -> SmallScenes:
    return SmallScenes(frames=4, agents=3)


def perfect(model: Collaboration, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, score: float = 0.9) -> None:
    """Let the model find exactly what is asked for."""
    truths: Iterator[Boxes3D] = iter(
        ground_truth(
            evaluator.dataset.read(index, []), 0, None, limits=LIMITS, comm_range_m=evaluator.channel.config.range_m
        )
        for index in range(len(evaluator.indices))
    )

    def detect(ego: Message, messages: Any, share_boxes: bool) -> Boxes3D:
        truth = next(truths)
        return Boxes3D(truth.boxes, scores=np.full(len(truth), score, np.float32))

    monkeypatch.setattr(model, "detect", detect)


class TestRun:
    def test_a_scene_is_what_the_vehicles_would_do(self, model: Collaboration, dataset: SmallScenes) -> None:
        scene = Evaluator(dataset).run(model, ROSTER, 1)
        frame = dataset.read(1, ["lidar64", "lidar16"])
        ego = model.encode(frame.agents[0], "lidar64")
        distances = [frame.agents[0].pose.planar_distance(agent.pose) for agent in frame.agents]
        assert scene.heard == sorted([1, 2], key=lambda i: distances[i])
        sent = [model.encode(frame.agents[i], "lidar16", 70 * 50_000) for i in scene.heard]
        assert scene.message_bytes == [len(pack(message)) for message in sent]
        assert [m.captured_us for m in scene.messages] == [3_500_000] * 2
        wanted = model.detect(replace(ego, captured_us=3_500_000), [unpack(pack(message)) for message in sent])
        wanted = wanted[(np.abs(wanted.boxes[:, :2]) <= model.grid.x_max).all(axis=1)]
        assert np.array_equal(scene.detections.boxes, wanted.boxes) and len(wanted) > 0

    def test_boxes_beyond_the_grid_are_no_false_alarms(
        self, model: Collaboration, dataset: SmallScenes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Under late fusion others report what lies outside the ego's range, where there is no ground truth."""
        far = np.array([[model.grid.x_max + 1, 0, 0, 4, 2, 1.5, 0], [1, 2, 0, 4, 2, 1.5, 0]], np.float32)
        found = Boxes3D(far, scores=np.array([0.9, 0.8], np.float32))
        monkeypatch.setattr(model, "detect", lambda ego, messages, share_boxes: found)
        assert Evaluator(dataset).run(model, ROSTER, 1).detections.boxes[:, 0].tolist() == [1.0]

    def test_only_the_sensors_of_the_roster_are_read(self, model: Collaboration, dataset: SmallScenes) -> None:
        Evaluator(dataset).run(model, ROSTER, 0)
        assert [(index, {k: tuple(v) for k, v in sensors.items()}) for index, sensors in dataset.reads] == [
            (0, {1: ("lidar64",), 2: ("lidar16",), 3: ("lidar16",)})
        ]

    def test_any_roster_after_any_other(self, model: Collaboration, dataset: SmallScenes) -> None:
        """What is remembered of one roster must not leak into the next."""
        evaluator = Evaluator(dataset, limit=2)
        rosters = [
            ROSTER,
            Roster("lidar16", "lidar64"),
            Roster("lidar16", "lidar16"),
            Roster("lidar64", "lidar64"),
            ROSTER,
        ]
        for roster in rosters:
            for index in range(2):
                alone = Evaluator(dataset).run(model, roster, index)
                assert np.array_equal(evaluator.run(model, roster, index).detections.boxes, alone.detections.boxes)

    def test_drop_hears_nobody(self, model: Collaboration, dataset: SmallScenes) -> None:
        scene = Evaluator(dataset).run(model, replace(ROSTER, drop=True), 0)
        assert scene.heard == [] and scene.message_bytes == []
        alone = model.detect(model.encode(dataset.read(0, ["lidar64"]).agents[0], "lidar64"))
        assert np.array_equal(scene.detections.boxes, alone.boxes)

    def test_the_truth_is_the_same_for_every_row(self, model: Collaboration, dataset: SmallScenes) -> None:
        truths = [
            Evaluator(dataset, channel).run(model, roster, 2).truth
            for roster in (ROSTER, replace(ROSTER, drop=True), Roster("lidar16", "lidar64"))
            for channel in (None, ChannelConfig(loss=1.0, sigma_m=0.5), ChannelConfig(max_senders=0))
        ]
        wanted = ground_truth(dataset.read(2, []), 0, None, limits=LIMITS, comm_range_m=70.0)
        assert len(wanted) > 3 and all(np.array_equal(truth.boxes, wanted.boxes) for truth in truths)
        near = Evaluator(dataset, ChannelConfig(range_m=1.0)).run(model, ROSTER, 2)
        assert len(near.truth) < len(wanted) and near.heard == []


class TestChannel:
    def test_lost_messages_do_not_arrive(self, model: Collaboration, dataset: SmallScenes) -> None:
        heard = [Evaluator(dataset, ChannelConfig(loss=loss)).run(model, ROSTER, 0).heard for loss in (0.0, 1.0)]
        assert len(heard[0]) == 2 and heard[1] == []

    def test_the_nearest_are_heard(self, model: Collaboration, dataset: SmallScenes) -> None:
        one = Evaluator(dataset, ChannelConfig(max_senders=1)).run(model, ROSTER, 0).heard
        assert one == Evaluator(dataset).run(model, ROSTER, 0).heard[:1]

    def test_noise_moves_the_senders_and_not_the_ego(self, model: Collaboration, dataset: SmallScenes) -> None:
        clean, noisy = (
            Evaluator(dataset, ChannelConfig(sigma_m=sigma, sigma_deg=sigma)).run(model, ROSTER, 0)
            for sigma in (0.0, 0.5)
        )
        assert np.array_equal(noisy.ego_message.pose.matrix, clean.ego_message.pose.matrix)
        for before, after in zip(clean.messages, noisy.messages, strict=True):
            assert not np.allclose(after.pose.matrix, before.pose.matrix, atol=1e-3)
            assert after.sigma_m == 0.5 and after.sigma_rad == pytest.approx(np.radians(0.5))
            assert (before.sigma_m, before.sigma_rad) == (0.0, 0.0)
        assert not np.array_equal(noisy.detections.boxes, clean.detections.boxes)

    def test_late_messages_are_those_of_an_earlier_frame(self, model: Collaboration, dataset: SmallScenes) -> None:
        scene = Evaluator(dataset, ChannelConfig(latency_ms=100)).run(model, ROSTER, 3)
        earlier = dataset.read(2, [])
        for message in scene.messages:
            sender = earlier.agents[message.sender - 1]
            np.testing.assert_allclose(message.pose.matrix, sender.pose.matrix, atol=1e-9)
            assert scene.ego_message.captured_us - message.captured_us == 100_000
        np.testing.assert_allclose(scene.ego_message.pose.matrix, dataset.read(3, []).agents[0].pose.matrix)

    def test_a_latency_the_data_cannot_show_is_refused(self, model: Collaboration, dataset: SmallScenes) -> None:
        for latency, index in ((100, 2), (200, 3)):
            with pytest.raises(HeatError, match="Way out"):
                Evaluator(dataset, ChannelConfig(latency_ms=latency)).run(model, ROSTER, index)

    @pytest.mark.parametrize(("missing", "heard"), [(2, [3]), (1, [2, 3])])
    def test_late_messages_are_those_of_the_same_agent(
        self, model: Collaboration, missing: int, heard: list[int]
    ) -> None:
        """An agent that came into the scene in between has sent nothing yet; the others keep their names and roles."""
        scene = Evaluator(LateComer(missing), ChannelConfig(latency_ms=100)).run(model, ROSTER, 1)
        assert [message.sender for message in scene.messages] == [scene.frame.agents[i].agent_id for i in scene.heard]
        assert sorted(message.sender for message in scene.messages) == heard
        assert all(message.agent_type == "lidar16" for message in scene.messages)


class LateComer(SmallScenes):
    """Two frames; one agent is not there in the first one."""

    def __init__(self, missing: int) -> None:
        super().__init__(frames=2, agents=3)
        self.missing = missing

    def agent_ids(self, index: int) -> tuple[int, ...]:
        return tuple(i for i in super().agent_ids(index) if index or i != self.missing)

    def read(self, index: int, sensors: Sensors) -> Frame:
        whole = SmallScenes(frames=2, agents=3).read(index, sensors)
        if index:
            return whole
        there = [number for number, agent in enumerate(whole.agents) if agent.agent_id != self.missing]
        hits = whole.objects.hits[:, there]
        objects = replace(whole.objects, hits=hits, camera_visible=hits > 0)
        return replace(whole, agents=tuple(whole.agents[number] for number in there), objects=objects)


class TestRefinedPoses:
    NOISY = ChannelConfig(sigma_m=0.5, sigma_deg=0.5)

    @pytest.mark.parametrize("fusion", ["hetero_graph", "maximum", "late", "early"])
    def test_poses_are_corrected_before_they_are_used(
        self, fusion: str, dataset: SmallScenes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = joined(small_model(fusion), shake=0.1)
        used: list[Message] = []
        detect = model.detect
        monkeypatch.setattr(model, "refined", lambda ego, heard: [replace(m, sigma_m=0.125) for m in heard])
        monkeypatch.setattr(model, "detect", lambda ego, heard, share: used.extend(heard) or detect(ego, heard, share))
        scene = Evaluator(dataset, self.NOISY, refine_poses=True).run(model, ROSTER, 1)
        assert all(message.boxes is not None and message.sigma_m == 0.5 for message in scene.messages)
        assert [message.sigma_m for message in used] == [0.125, 0.125]
        Evaluator(dataset, self.NOISY).run(model, ROSTER, 1)
        assert [message.sigma_m for message in used[2:]] == [0.5, 0.5]

    def test_the_boxes_on_the_way_are_counted(self, model: Collaboration, dataset: SmallScenes) -> None:
        plain, refined = (Evaluator(dataset, self.NOISY, refine_poses=on).run(model, ROSTER, 1) for on in (False, True))
        assert all(message.boxes is None for message in plain.messages)
        for before, after in zip(plain.messages, refined.messages, strict=True):
            assert after.boxes is not None and after.size_bytes == before.size_bytes + 32 * len(after.boxes)

    def test_shared_boxes_ride_on_the_messages_and_are_detected(
        self, model: Collaboration, dataset: SmallScenes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[bool] = []
        detect = model.detect

        def watch(ego: Any, messages: Any, share_boxes: bool) -> Boxes3D:
            asked.append(share_boxes)
            return detect(ego, messages, share_boxes)

        monkeypatch.setattr(model, "detect", watch)
        scene = Evaluator(dataset, share_boxes=True).run(model, ROSTER, 1)
        assert asked == [True] and all(message.boxes is not None for message in scene.messages)
        plain = Evaluator(dataset).run(model, ROSTER, 1)
        assert asked == [True, False] and not np.array_equal(plain.detections.boxes, scene.detections.boxes)

    def test_without_noise_nothing_is_different(self, model: Collaboration, dataset: SmallScenes) -> None:
        plain, refined = (Evaluator(dataset, refine_poses=on).run(model, ROSTER, 1) for on in (False, True))
        assert np.array_equal(plain.detections.boxes, refined.detections.boxes) and len(plain.detections) > 0


class TestScores:
    def test_perfect_detections_score_one(
        self, model: Collaboration, dataset: SmallScenes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluator = Evaluator(dataset)
        perfect(model, evaluator, monkeypatch)
        evaluation = evaluator.evaluate(model, ROSTER)
        assert evaluation.result.ap == {"0.3": 1.0, "0.5": 1.0, "0.7": 1.0}
        assert evaluation.ego_visible.ap == evaluation.result.ap, "finding what only others see is no false alarm"
        assert evaluation.ego_visible.n_ground_truth < evaluation.result.n_ground_truth
        row = evaluation.to_row("int8")
        assert row["ap"]["0.5"] == 1.0 and row["n_frames"] == 4 and row["codec"] == "int8"
        assert row["n_ground_truth"] == sum(
            len(ground_truth(dataset.read(i, []), 0, None, limits=LIMITS)) for i in range(4)
        )
        assert row["protocol"]["x_range_m"] == [-12.8, 12.8] and row["protocol"]["name"] == "heatv2x"

    def test_only_detections_of_hidden_objects_are_left_out(self) -> None:
        boxes = np.float32([[5.0 * i, 0, -1, 4, 2, 1.5, 0.3] for i in range(5)])
        truth = Boxes3D(boxes[:4], ids=np.arange(4))
        seen = truth[np.array([True, False, True, False])]
        found = Boxes3D(
            boxes + np.float32([0.2, 0.1, 0, 0, 0, 0, 0]), scores=np.linspace(0.9, 0.1, 5, dtype=np.float32)
        )
        kept = without_hidden(found, seen, truth)
        np.testing.assert_array_equal(kept.boxes, found.boxes[[0, 2, 4]])
        assert kept.scores is not None and len(kept.scores) == 3, "the last one is of nothing: a false alarm"
        assert len(without_hidden(found, seen[:0], truth)) == 1 and len(without_hidden(found, truth, truth)) == 5
        assert len(without_hidden(found[:0], seen, truth)) == 0

    def test_bytes_are_the_mean_of_packed_messages(self, model: Collaboration, dataset: SmallScenes) -> None:
        evaluator = Evaluator(dataset)
        sizes = [size for index in range(4) for size in evaluator.run(model, ROSTER, index).message_bytes]
        evaluation = evaluator.evaluate(model, ROSTER)
        assert evaluation.traffic.message_bytes == pytest.approx(np.mean(sizes)) and evaluation.traffic.n_messages == 8
        assert Evaluator(dataset).evaluate(model, replace(ROSTER, drop=True)).traffic.message_bytes == 0

    def test_twice_gives_the_same_and_progress_is_told(self, model: Collaboration, dataset: SmallScenes) -> None:
        told: list[tuple[int, int]] = []
        noisy = ChannelConfig(sigma_m=0.4, sigma_deg=0.4, loss=0.3)
        one = Evaluator(dataset, noisy, limit=3).evaluate(model, ROSTER, lambda a, b: told.append((a, b)))
        other = Evaluator(dataset, noisy, limit=3).evaluate(model, ROSTER)
        assert one.to_row("int8") == other.to_row("int8") and told == [(1, 3), (2, 3), (3, 3)]

    def test_the_protocol_is_a_choice(self, model: Collaboration, dataset: SmallScenes) -> None:
        row = Evaluator(dataset, protocol=HEAL, limit=1).evaluate(model, ROSTER).to_row("int8")
        assert row["protocol"]["name"] == "heal" and row["protocol"]["max_extent_m"] == 6.0

    def test_scenes_are_kept_if_asked_for(self, model: Collaboration, dataset: SmallScenes) -> None:
        evaluation = Evaluator(dataset, keep=[1, 3]).evaluate(model, ROSTER)
        assert sorted(evaluation.scenes) == [1, 3] and evaluation.scenes[3].frame.name == dataset.name(3)


class TestMemory:
    def test_messages_are_encoded_once(
        self, model: Collaboration, dataset: SmallScenes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        encode = model.encode

        def counted(frame: Any, agent_type: str, captured_us: int = 0) -> Message:
            calls.append(agent_type)
            return encode(frame, agent_type, captured_us)

        monkeypatch.setattr(model, "encode", counted)
        evaluator = Evaluator(dataset)
        evaluator.evaluate(model, ROSTER)
        evaluator.evaluate(model, replace(ROSTER, drop=True))
        assert len(calls) == 12
        evaluator.evaluate(model, Roster("lidar64", "lidar64"))
        assert len(calls) == 20

    def test_forgotten_messages_are_encoded_again(self, dataset: SmallScenes) -> None:
        model = joined(small_model(), shake=0.1)
        evaluator = Evaluator(dataset, limit=1)
        before = evaluator.run(model, ROSTER, 0)
        shaken(model.senders["lidar16"], 0.5)
        stale = evaluator.run(model, ROSTER, 0)
        evaluator.forget("lidar64")
        assert np.array_equal(stale.detections.boxes, before.detections.boxes)
        assert np.array_equal(evaluator.run(model, ROSTER, 0).detections.boxes, before.detections.boxes)
        evaluator.forget("lidar16")
        fresh = evaluator.run(model, ROSTER, 0)
        assert np.array_equal(fresh.detections.boxes, Evaluator(dataset).run(model, ROSTER, 0).detections.boxes)
        assert not np.array_equal(fresh.detections.boxes, before.detections.boxes)


@pytest.mark.parametrize("fusion", ["late", "none", "maximum", "early", "where2comm"])
def test_every_level_of_fusion_is_evaluated_alike(fusion: str, dataset: SmallScenes) -> None:
    model = joined(small_model(fusion))
    evaluation = Evaluator(dataset, limit=2).evaluate(model, ROSTER)
    assert evaluation.traffic.n_messages == 4 and set(evaluation.result.ap) == {"0.3", "0.5", "0.7"}


def test_an_unknown_type_is_refused(model: Collaboration, dataset: SmallScenes) -> None:
    with pytest.raises(ConfigError, match="did you mean 'lidar16'"):
        Evaluator(dataset).evaluate(model, Roster("lidar64", "lidar17"))


def test_what_was_found_has_a_digest(model: Collaboration, dataset: SmallScenes) -> None:
    def digest(network: Collaboration, **roster: Any) -> tuple[str, str]:
        evaluation = Evaluator(dataset, limit=2).evaluate(network, Roster("lidar64", "lidar16", **roster))
        return evaluation.found, evaluation.arrived

    first, alone, other = digest(model), digest(model, drop=True), digest(joined(small_model(seed=1), shake=0.1))
    assert first == digest(model)
    assert len({first[0], alone[0], other[0]}) == 3


class TestShare:
    """Senders that send only the cells they are most confident about."""

    def test_fewer_cells_arrive_and_take_fewer_bytes(self, dataset: SmallScenes) -> None:
        model = joined(small_model(), shake=0.1)
        model.use_codec("sparse")
        every = Evaluator(dataset).run(model, ROSTER, 0)
        model.fusion.sends_at_most(0.25)
        some = Evaluator(dataset).run(model, ROSTER, 0)
        cells = [int((message.feature != 0).any(dim=0).sum()) for message in some.messages]  # type: ignore[union-attr]
        assert cells and max(cells) <= 0.25 * 16 * 16 and sum(some.message_bytes) < 0.5 * sum(every.message_bytes)
        assert some.ego_message.codec == "sparse" and len(every.messages) == len(some.messages)

    def test_what_was_not_sent_is_not_seen(self, dataset: SmallScenes) -> None:
        """Zeros that stand for nothing must not look like empty ground to the graph."""
        model = joined(small_model(), shake=0.1)
        agents = dataset.read(0, ["lidar64"]).agents
        model.fusion.sends_at_most(0.1)
        ego, sent = (model.encode(agent, "lidar64") for agent in agents[:2])
        assert sent.cells is not None and sent.cells.sum() == 25
        features = torch.stack([ego.feature, sent.feature * sent.cells])  # type: ignore[list-item, operator]
        links = links_of(ego, [sent], model.grid)
        own, received = model.receive(features, features, ["lidar64"] * 2, links)
        assert 0 < received.visible.sum() < 100
        unseen = ~received.visible[0, 0]
        assert torch.equal(model.fusion(own, received)[0][:, unseen], own[0][:, unseen])

    @pytest.mark.parametrize("fusion", ["maximum", "pyramid"])
    def test_a_fusion_without_a_choice_says_so(self, fusion: str) -> None:
        with pytest.raises(ConfigError, match="cannot choose the cells"):
            small_model(fusion).fusion.sends_at_most(0.1)
        with pytest.raises(ConfigError, match="above 0 and up to 1"):
            small_model().fusion.sends_at_most(0.0)

    def test_the_command_gives_a_row_for_each(
        self, dataset: SmallScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = joined(small_model(), shake=0.1)
        monkeypatch.setattr(Collaboration, "from_packs", lambda *_: model)
        monkeypatch.setattr("heatv2x.evaluation.open_part", lambda *_: dataset)
        words = [
            "data=d",
            "dataset=opv2v",
            "packs=[]",
            "share=[1,0.1]",
            "codec=sparse",
            f"out={tmp_path}",
            "senders=lidar16",
        ]
        rows = run_eval(build(EvalConfig, parse_overrides(words)))
        assert [row["name"] for row in rows] == ["lidar64<-lidar16/100%", "lidar64<-lidar16/10%"]
        assert rows[1]["message_bytes"] < rows[0]["message_bytes"] and rows[0]["codec"] == "sparse"


@pytest.mark.parametrize("fusion", ["hetero_graph", "pyramid"])
def test_the_command_exchanges_boxes_on_a_longer_grid(
    fusion: str, dataset: SmallScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Collaboration, "from_packs", lambda *_: joined(small_model(fusion), shake=0.1))
    monkeypatch.setattr("heatv2x.evaluation.open_part", lambda *_: dataset)
    words = [
        "data=d",
        "dataset=opv2v",
        "packs=[]",
        "fusion=late",
        "half_extent_m=25.6",
        "senders=lidar16",
        f"out={tmp_path}",
    ]
    (row,) = run_eval(build(EvalConfig, parse_overrides(words)))
    assert row["codec"] == "boxes" and row["message_bytes"] > 0
    assert row["protocol"]["x_range_m"] == [-25.6, 25.6] and row["protocol"]["y_range_m"] == [-12.8, 12.8]


class TestAssigned:
    """In-order evaluation: one clip's ego and types from an assignment, one to three agents fused."""

    ASSIGNMENT = Assignment({"clip0": {1: "m1", 2: "m3", 3: "m2"}, "clip1": {1: "m2", 2: "m1", 3: "m1"}})
    PLAYS: ClassVar[dict[str, str]] = {"m1": "lidar64", "m3": "lidar16"}

    def cast(self, count: int | None = None, **settings: Any) -> AssignedRoster:
        return AssignedRoster(self.ASSIGNMENT, self.PLAYS, ("lidar64",), count, **settings)

    def test_the_ego_is_whoever_plays_its_type(self, model: Collaboration, dataset: SmallScenes) -> None:
        scene = Evaluator(dataset).run(model, self.cast(), 2)
        assert scene.ego == 1 and scene.heard == [2]  # agent 2 is the ego, agent 3 is heard, agent 1 plays nothing
        frame = dataset.read(2, ["lidar64"])
        truth = ground_truth(frame, 1, None, limits=LIMITS, comm_range_m=70.0)
        assert np.array_equal(scene.truth.boxes, truth.boxes)  # whoever plays nothing still labels
        alone = Evaluator(dataset).run(model, self.cast(drop=True), 2)
        ego = model.encode(frame.agents[1], "lidar64")
        assert alone.heard == [] and np.array_equal(alone.detections.boxes, model.detect(ego).boxes)

    def test_counts_fuse_more_and_more_and_the_truth_stays(self, model: Collaboration, dataset: SmallScenes) -> None:
        evaluator = Evaluator(dataset)
        scenes = {count: evaluator.run(model, self.cast(count), 0) for count in (1, 2, 3)}
        assert {count: scene.heard for count, scene in scenes.items()} == {1: [], 2: [1], 3: [1]}
        assert all(np.array_equal(scene.truth.boxes, scenes[1].truth.boxes) for scene in scenes.values())

    def test_average_precision_by_scenario(
        self, model: Collaboration, dataset: SmallScenes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluator = Evaluator(dataset)
        perfect(model, evaluator, monkeypatch)
        found = model.detect
        calls = iter(range(4))

        def only_in_the_first_clip(ego: Message, messages: Any, share_boxes: bool) -> Boxes3D:
            boxes = found(ego, messages, share_boxes)
            return boxes if next(calls) < 2 else boxes[:0]

        monkeypatch.setattr(model, "detect", only_in_the_first_clip)
        evaluation = evaluator.evaluate(model, ROSTER)
        assert evaluation.by_scenario["clip0"]["0.5"] == 1.0 and evaluation.by_scenario["clip1"]["0.5"] == 0.0
        assert 0 < evaluation.result.ap["0.5"] < 1

    def test_settings_of_the_command(self, tmp_path: Path) -> None:
        common: dict[str, Any] = {"data": tmp_path, "packs": ()}
        with pytest.raises(ConfigError, match="plays and agents need an assignment"):
            _rosters(EvalConfig(**common, agents=(1, 2)))
        (tmp_path / "a.json").write_text('{"clip0": {"1": "m1"}}')
        plays = {"m1": "lidar64", "m2": None}
        config = EvalConfig(**common, assignment=tmp_path / "a.json", plays=plays, agents=(1, 2))
        casts = _rosters(config)
        assert list(casts) == ["assigned/1", "assigned/2"] and casts["assigned/2"].types == ("lidar64",)


class TestProtocols:
    def test_a_protocols_range_and_agents_are_obeyed(self, model: Collaboration, dataset: SmallScenes) -> None:
        narrow = replace(HEATV2X, x_range_m=(-5.0, 5.0), y_range_m=(-12.8, 12.8))
        scene = Evaluator(dataset, protocol=narrow).run(model, ROSTER, 0)
        whole = Evaluator(dataset).run(model, ROSTER, 0)
        for part in ("detections", "truth"):
            boxes, every = getattr(scene, part).boxes, getattr(whole, part).boxes
            assert np.array_equal(boxes, every[np.abs(every[:, 0]) <= 5]) and len(boxes) < len(every)
        few = Evaluator(dataset, protocol=replace(HEATV2X, max_agents=2)).run(model, ROSTER, 0)
        assert few.heard == [1]
        frame = dataset.read(0, [])
        truth = ground_truth(frame, 0, [0, 1], limits=LIMITS, comm_range_m=70.0)
        assert np.array_equal(few.truth.boxes, truth.boxes)
        alone = Evaluator(dataset, protocol=replace(HEATV2X, comm_range_m=1.0)).run(model, ROSTER, 0)
        assert alone.heard == [] and len(alone.truth) == len(ground_truth(frame, 0, [0], limits=LIMITS))

    def test_all_corners_and_own_body(self, model: Collaboration, dataset: SmallScenes) -> None:
        rule = replace(HEATV2X, range_rule="all_corners", z_range_m=(-3.0, 1.0), own_body=True)
        truth = Evaluator(dataset, protocol=rule).run(model, ROSTER, 0).truth
        wanted = ground_truth(
            dataset.read(0, []), 0, limits=(-12.8, -12.8, -3.0, 12.8, 12.8, 1.0), all_corners=True, own_body=True
        )
        assert np.array_equal(truth.boxes, wanted.boxes) and 1 in wanted.ids  # type: ignore[operator]

    def test_what_is_stored_says_what_differs(self, model: Collaboration, dataset: SmallScenes) -> None:
        stored = Evaluator(dataset, protocol=HEAL_IN_ORDER, limit=1).evaluate(model, ROSTER).to_row("int8")["protocol"]
        assert stored["x_range_m"] == [-204.8, 204.8] and stored["comm_range_m"] == 180.0 and stored["max_agents"] == 5
        plain = Evaluator(dataset, limit=1).evaluate(model, ROSTER).to_row("int8")["protocol"]
        assert plain["x_range_m"] == [-12.8, 12.8] and "comm_range_m" not in plain
