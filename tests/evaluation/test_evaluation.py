"""Evaluation runs the whole line: real bytes, a channel, the same ground truth for every row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from heatv2x.core.config import build, parse_overrides
from heatv2x.data.assignment import Assignment
from heatv2x.data.datasets.base import Sensors
from heatv2x.data.ground_truth import ground_truth
from heatv2x.errors import ConfigError, HeatError, PackError
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.job import EvalConfig, _rosters, notes_of, run_eval
from heatv2x.evaluation.protocols import HEAL, HEAL_IN_ORDER, HEATV2X
from heatv2x.evaluation.results import without_hidden
from heatv2x.evaluation.roster import AssignedRoster, Roster
from heatv2x.link.channel import ChannelConfig
from heatv2x.link.message import Message, pack, unpack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.links import links_of
from heatv2x.model.reader import ReaderConfig
from heatv2x.model.variants import exchanging, fusing_by, reaching, reading
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

    def detect(ego: Message, messages: Any, share_boxes: bool, guard: bool) -> Boxes3D:
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
        monkeypatch.setattr(model, "detect", lambda ego, messages, share_boxes, guard: found)
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

    def test_the_first_frame_of_a_clip_takes_its_own_messages_or_is_left_out(
        self, model: Collaboration, dataset: SmallScenes
    ) -> None:
        late = ChannelConfig(latency_ms=100)
        clamped = Evaluator(dataset, late).run(model, ROSTER, 2)
        assert clamped.ages_ms == [0, 0] and len(clamped.messages) == 2
        with pytest.raises(HeatError, match="no frame 100 ms before it"):
            Evaluator(dataset, late, before_first="leave_out").run(model, ROSTER, 2)

    def test_frames_without_an_earlier_one_are_counted(self, model: Collaboration, dataset: SmallScenes) -> None:
        late = ChannelConfig(latency_ms=100)
        rows = {
            rule: Evaluator(dataset, late, before_first=rule).evaluate(model, ROSTER).to_row("int8")
            for rule in ("clamp", "leave_out")
        }
        assert (rows["clamp"]["frames_clamped"], rows["clamp"]["frames_left_out"], rows["clamp"]["n_frames"]) == (
            2,
            0,
            4,
        )
        left = rows["leave_out"]
        assert (left["frames_clamped"], left["frames_left_out"], left["n_frames"]) == (0, 2, 2)
        assert rows["clamp"]["message_age_ms"] == 50 and left["message_age_ms"] == 100
        alone = Evaluator(dataset, late).evaluate(model, replace(ROSTER, drop=True)).to_row("int8")
        assert alone["frames_clamped"] == 0 and alone["n_frames"] == 4 and alone["message_age_ms"] is None

    def test_a_latency_that_the_data_cannot_show_at_all(self, model: Collaboration, dataset: SmallScenes) -> None:
        late = ChannelConfig(latency_ms=200)
        evaluator = Evaluator(dataset, late, before_first="leave_out")
        with pytest.raises(HeatError, match="has 2 frames, 100 ms apart") as caught:
            evaluator.evaluate(model, ROSTER)
        assert "Way out: use a latency of no more than 100 ms" in str(caught.value)
        evaluation = Evaluator(dataset, late).evaluate(model, ROSTER)
        row = {**evaluation.to_row("int8"), "ap_by_scenario": evaluation.by_scenario}
        assert row["frames_clamped"] == row["n_frames"] == 4
        assert any("no frame used messages as old as 200 ms" in note for note in notes_of([row], 200))

    @pytest.mark.parametrize(
        ("times", "latency", "sent"),
        [
            ([0, 100, 200, 300], 100, [None, 0, 1, 2]),
            ([0, 50, 100, 150, 200], 100, [None, None, 0, 1, 2]),  # 20 Hz
            ([0, 200, 400, 600], 100, [None, 0, 1, 2]),  # 5 Hz: the newest that has arrived is 200 ms old
            ([0, 200, 400, 600], 250, [None, None, 0, 1]),
            ([0, 112, 195, 301], 100, [None, 0, 1, 2]),  # jitter
            ([0, 100, 5000, 5100], 100, [None, 0, None, 2]),  # a gap
            ([0, 100, 300, 400], 100, [None, 0, 1, 2]),  # a single frame was dropped
            ([0, 10, 20, 30, 40], 20, [None, None, 0, 1, 2]),  # 100 Hz
        ],
    )
    def test_late_messages_at_any_frame_rate(self, times: list[int], latency: int, sent: list[int | None]) -> None:
        film = Film(times)
        assert [film.earlier(index, latency) for index in range(len(times))] == sent
        for index, earlier in enumerate(sent):
            oldest = film.oldest_within(index, latency)
            assert oldest <= index and times[index] - times[oldest] <= latency + 20
            if earlier is None and index:
                assert oldest == (0 if index < 2 or times[index] < 1000 else 2)

    def test_clocks_of_the_agents_need_not_agree(self) -> None:
        film = Film([0, 100, 200], offsets={1: 0, 2: 370, 3: -5000})
        film.missing = {(0, 1)}  # the first agent is not there at first
        assert [film.earlier(index, 100) for index in range(3)] == [None, 0, 1]

    @pytest.mark.parametrize(("missing", "heard"), [(2, [3]), (1, [2, 3])])
    def test_late_messages_are_those_of_the_same_agent(
        self, model: Collaboration, missing: int, heard: list[int]
    ) -> None:
        """An agent that came into the scene in between has sent nothing yet; the others keep their names and roles."""
        scene = Evaluator(LateComer(missing), ChannelConfig(latency_ms=100)).run(model, ROSTER, 1)
        assert [message.sender for message in scene.messages] == [scene.frame.agents[i].agent_id for i in scene.heard]
        assert sorted(message.sender for message in scene.messages) == heard
        assert all(message.agent_type == "lidar16" for message in scene.messages)


class Film(SmallScenes):
    """One clip with the given capture times, milliseconds; every agent's clock is off by so many more."""

    def __init__(self, times: list[int], offsets: dict[int, int] | None = None) -> None:
        super().__init__(frames=len(times), agents=3)
        self.times, self.offsets, self.missing = times, offsets or {}, set[tuple[int, int]]()

    def name(self, index: int) -> str:
        return f"film/{index:06d}"

    def agent_ids(self, index: int) -> tuple[int, ...]:
        return tuple(agent for agent in super().agent_ids(index) if (index, agent) not in self.missing)

    def capture_us(self, index: int, agent_id: int) -> int:
        return 1000 * (10_000 + self.times[index] + self.offsets.get(agent_id, 0))


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
        monkeypatch.setattr(
            model, "detect", lambda ego, heard, share, guard: used.extend(heard) or detect(ego, heard, share, guard)
        )
        scene = Evaluator(dataset, self.NOISY, refine_poses=True).run(model, ROSTER, 1)
        assert all(message.boxes is not None and message.sigma_m == 0.5 for message in scene.messages)
        assert [message.sigma_m for message in used] == [0.125, 0.125]
        Evaluator(dataset, self.NOISY).run(model, ROSTER, 1)
        assert [message.sigma_m for message in used[2:]] == [0.5, 0.5]

    def test_the_boxes_on_the_way_are_counted(self, model: Collaboration, dataset: SmallScenes) -> None:
        plain, refined = (Evaluator(dataset, self.NOISY, refine_poses=on).run(model, ROSTER, 1) for on in (False, True))
        assert all(message.boxes is None for message in plain.messages)
        for before, after in zip(plain.messages, refined.messages, strict=True):
            assert after.boxes is not None and after.size_bytes == before.size_bytes + 16 * len(after.boxes)

    def test_shared_boxes_ride_on_the_messages_and_are_detected(
        self, model: Collaboration, dataset: SmallScenes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[bool] = []
        detect = model.detect

        def watch(ego: Any, messages: Any, share_boxes: bool, guard: bool) -> Boxes3D:
            asked.append(share_boxes)
            return detect(ego, messages, share_boxes, guard)

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

    def test_training_in_place_is_noticed(self, dataset: SmallScenes) -> None:
        """Whatever changes between two evaluations, the second one is that of a new evaluator."""
        model = joined(small_model(), shake=0.1)
        evaluator = Evaluator(dataset, limit=1)
        seen = [detected(evaluator.run(model, ROSTER, 0))]
        for part in (
            model.senders["lidar16"],
            model.agent("lidar16"),
            model.agent("lidar64"),
            model.backbone,
            model.head,
            model.fusion,
        ):
            shaken(part, 0.05, seed=len(seen))
            seen.append(detected(evaluator.run(model, ROSTER, 0)))
            assert seen[-1] == detected(Evaluator(dataset).run(model, ROSTER, 0))
        assert len(set(seen)) == len(seen)

    def test_a_second_model_gets_none_of_the_firsts_messages(self, dataset: SmallScenes) -> None:
        evaluator = Evaluator(dataset, limit=2)
        for seed in (0, 1, 0):
            model = joined(small_model(seed=seed), shake=0.1)
            together, alone = (each.evaluate(model, ROSTER) for each in (evaluator, Evaluator(dataset, limit=2)))
            assert (together.found, together.arrived) == (alone.found, alone.arrived)

    @pytest.mark.parametrize("boxes", [{}, {"share_boxes": True}, {"refine_poses": True}])
    def test_remembered_or_not_the_result_is_the_same_bit_for_bit(
        self, boxes: dict[str, bool], dataset: SmallScenes
    ) -> None:
        """Across codecs, shares, grids, fusion levels and channels."""
        noisy = ChannelConfig(sigma_m=0.4, sigma_deg=0.4, loss=0.2, latency_ms=100)
        remembers = Evaluator(dataset, noisy, **boxes)  # type: ignore[arg-type]
        forgets = Evaluator(dataset, noisy, cache_bytes=0, **boxes)  # type: ignore[arg-type]
        model = joined(small_model(), shake=0.1)
        variants = [model, reaching(model, 25.6, 12.8), exchanging(model, "boxes"), exchanging(model, "points")]
        variants.append(fusing_by(model, "maximum"))
        digests = []
        for _ in range(2):
            for variant in variants:
                digests.append(same_twice(remembers, forgets, variant))
            for codec in ("half", "sparse", "int8"):
                model.use_codec(codec)
                digests.append(same_twice(remembers, forgets, model))
            for share in (0.1, 1.0):
                model.fusion.sends_at_most(share)
                digests.append(same_twice(remembers, forgets, model))
        assert len(set(digests)) >= 6
        assert len(forgets._sent) == len(forgets._own) == 0 < len(remembers._sent)

    def test_rows_of_a_table_share_their_messages(self, dataset: SmallScenes, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two networks that differ in a newcomer's adapters only say the same as the deployed type."""
        one, other = joined(small_model(), shake=0.1), joined(small_model(), shake=0.3)
        evaluator, calls = Evaluator(dataset), list[str]()
        for model in (one, other):
            encode = model.encode
            monkeypatch.setattr(model, "encode", lambda frame, t, at, e=encode: calls.append(t) or e(frame, t, at))
            evaluator.evaluate(model, ROSTER)
        assert calls.count("lidar64") == 4 and calls.count("lidar16") == 16

    def test_memory_is_bounded_and_off_the_device(self, dataset: SmallScenes) -> None:
        model = joined(small_model(), shake=0.1)
        whole = Evaluator(dataset)
        whole.evaluate(model, ROSTER)
        assert whole._own.held_bytes == 4 * (4 * 16 * 16 * 16), "four egos' features as float32"
        frames = [dataset.read(index, ["lidar16"]) for index in range(4)]
        sent = [pack(model.encode(agent, "lidar16")) for frame in frames for agent in frame.agents[1:]]
        assert whole._sent.held_bytes == sum(map(len, sent))
        small = Evaluator(dataset, cache_bytes=40_000)
        found = small.evaluate(model, ROSTER)
        assert 0 < small._own.held_bytes <= 20_000 and 0 < small._sent.held_bytes <= 20_000
        assert found.arrived == whole.evaluate(model, ROSTER).arrived
        small.forget("lidar64")
        assert len(small._own) == 0 < len(small._sent)
        small.forget()
        assert small._sent.held_bytes == 0


def detected(scene: Any) -> bytes:
    """A scene's detections as bytes."""
    return bytes(scene.detections.boxes.tobytes() + scene.detections.scores.tobytes())


def same_twice(remembers: Evaluator, forgets: Evaluator, model: Collaboration) -> str:
    """Both evaluators find and hear the same, twice; gives the digest."""
    roster = Roster("lidar64", "lidar64") if model.exchange.name == "points" else ROSTER
    rows = [each.evaluate(model, roster) for each in (remembers, forgets, remembers)]
    assert len({(row.found, row.arrived) for row in rows}) == 1
    assert rows[0].to_row("") == rows[1].to_row("")
    return rows[0].found


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
        with pytest.raises(ConfigError, match="cannot choose which cells"):
            small_model(fusion).fusion.sends_at_most(0.1)
        with pytest.raises(ConfigError, match="above 0 and at most 1"):
            small_model().fusion.sends_at_most(0.0)

    def test_the_command_gives_a_row_for_each(
        self, dataset: SmallScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = joined(small_model(), shake=0.1)
        monkeypatch.setattr(Collaboration, "from_packs", lambda *_: model)
        monkeypatch.setattr("heatv2x.evaluation.job.open_part", lambda *_: dataset)
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

    def test_a_budget_in_bytes_gives_a_row_for_each_and_null_lifts_it(
        self, dataset: SmallScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = reading(small_model(), ReaderConfig(hidden=8, min_score=0.0), None, 1200)
        monkeypatch.setattr(Collaboration, "from_packs", lambda *_: model)
        monkeypatch.setattr("heatv2x.evaluation.job.open_part", lambda *_: dataset)
        fixed = ["data=d", "dataset=opv2v", "packs=[]"]

        def rows(name: str, *more: str) -> list[dict[str, Any]]:
            return run_eval(build(EvalConfig, parse_overrides([*fixed, *more, f"out={tmp_path / name}"])))

        (own,), two = rows("own"), rows("two", "budget_bytes=[1100,1400]")
        assert own["message_bytes"] <= 1200 and [row["name"][-5:] for row in two] == ["1.1kB", "1.4kB"]
        assert two[0]["message_bytes"] <= 1100 < two[1]["message_bytes"] <= 1400
        (whole,), (plain,) = rows("whole", "budget_bytes=null"), rows("plain", "budget_bytes=null", "read_boxes=false")
        assert whole["message_bytes"] > plain["message_bytes"] and whole["name"] == plain["name"]
        with pytest.raises(ConfigError, match="at least 1000"):
            rows("few", "budget_bytes=10")


@pytest.mark.parametrize("fusion", ["hetero_graph", "pyramid"])
def test_the_command_exchanges_boxes_on_a_longer_grid(
    fusion: str, dataset: SmallScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Collaboration, "from_packs", lambda *_: joined(small_model(fusion), shake=0.1))
    monkeypatch.setattr("heatv2x.evaluation.job.open_part", lambda *_: dataset)
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

        def only_in_the_first_clip(ego: Message, messages: Any, share_boxes: bool, guard: bool) -> Boxes3D:
            boxes = found(ego, messages, share_boxes, guard)
            return boxes if next(calls) < 2 else boxes[:0]

        monkeypatch.setattr(model, "detect", only_in_the_first_clip)
        evaluation = evaluator.evaluate(model, ROSTER)
        assert evaluation.by_scenario["clip0"]["0.5"] == 1.0 and evaluation.by_scenario["clip1"]["0.5"] == 0.0
        assert 0 < evaluation.result.ap["0.5"] < 1

    def test_settings_of_the_command(self, tmp_path: Path) -> None:
        common: dict[str, Any] = {"data": tmp_path, "packs": ()}
        with pytest.raises(ConfigError, match="plays= and agents= need an assignment"):
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


class TestCoverage:
    """What an evaluation stands on is found before its first frame."""

    def test_unlabelled_frames_are_not_scored_but_may_be_heard_late(self, model: Collaboration) -> None:
        dataset = Keyframes(frames=4, agents=3)
        row = Evaluator(dataset).evaluate(model, ROSTER).to_row("int8")
        labelled = Evaluator(SmallScenes(frames=4, agents=3), only=[1, 3]).evaluate(model, ROSTER).to_row("int8")
        assert row == {**labelled, "frames_unlabelled": 2} and row["n_frames"] == 2
        late = Evaluator(dataset, ChannelConfig(latency_ms=100)).evaluate(model, ROSTER)
        assert late.message_age_ms == 100 and late.coverage.frames_clamped == 0
        assert Evaluator(dataset, limit=1).indices == [1]
        dataset.known = ()
        with pytest.raises(HeatError, match="none of the 4 frames"):
            Evaluator(dataset).evaluate(model, ROSTER)
        with pytest.raises(HeatError, match="none of the 2 chosen frames is labelled"):
            Evaluator(Keyframes(frames=4, agents=3), only=[0, 2]).evaluate(model, ROSTER)

    @pytest.mark.parametrize("limit", [0, -1])
    def test_no_frames_are_no_evaluation(self, limit: int, dataset: SmallScenes) -> None:
        with pytest.raises(ConfigError, match=f"frames={limit}"):
            Evaluator(dataset, limit=limit)

    def test_without_ground_truth_there_is_no_number(self, model: Collaboration, dataset: SmallScenes) -> None:
        nowhere = replace(HEATV2X, x_range_m=(500.0, 510.0))
        with pytest.raises(HeatError, match="none of the 4 frames has a labelled object in the evaluation range"):
            Evaluator(dataset, protocol=nowhere).evaluate(model, ROSTER)

    def test_a_scenario_without_ground_truth_has_no_number_of_its_own(self, model: Collaboration) -> None:
        evaluation = Evaluator(EmptyAtFirst(frames=4, agents=3)).evaluate(model, ROSTER)
        assert set(evaluation.by_scenario["clip0"].values()) == {None}
        assert None not in evaluation.by_scenario["clip1"].values()
        row = {**evaluation.to_row("int8"), "ap_by_scenario": evaluation.by_scenario}
        assert "no labelled object in range in 1 of 2 scenarios" in notes_of([row], 0)

    def test_intervals_are_over_scenarios(self, model: Collaboration) -> None:
        row = Evaluator(SmallScenes(frames=8, agents=3)).evaluate(model, ROSTER).to_row("int8")
        assert row["ap_interval_over"] == "scenarios" and row["n_scenarios"] == 4
        assert all(len(ends) == 2 for ends in row["ap_interval"].values())
        alone = Evaluator(SmallScenes(frames=2, agents=3)).evaluate(model, ROSTER).to_row("int8")
        assert alone["n_scenarios"] == 1 and alone["ap_interval"] == {"0.3": None, "0.5": None, "0.7": None}
        assert any("one scenario only" in note for note in notes_of([{**alone, "ap_by_scenario": {}}], 0))

    def test_scenarios_without_an_ego_are_told_before_the_first_frame(self, model: Collaboration) -> None:
        dataset = SmallScenes(frames=8, agents=3)
        types = {1: "m1", 2: "m3", 3: "m3"}
        without = dict.fromkeys((1, 2, 3), "m3")
        assigned = Assignment({"clip0": types, "clip1": without, "clip2": types, "clip3": without})
        roster = AssignedRoster(assigned, {"m1": "lidar64", "m3": "lidar16"}, ("lidar64",))
        with pytest.raises(ConfigError, match=r"2 of 4 scenarios .*: clip1, clip3") as caught:
            Evaluator(dataset).evaluate(model, roster)
        assert "skip_scenarios_without_ego=true" in str(caught.value) and not dataset.reads
        evaluation = Evaluator(dataset, skip_scenarios_without_ego=True).evaluate(model, roster)
        row = evaluation.to_row("int8")
        assert (
            row["scenarios_without_ego"] == 2
            and row["n_frames"] == 4
            and set(evaluation.by_scenario)
            == {
                "clip0",
                "clip2",
            }
        )
        nobody = AssignedRoster(Assignment(dict.fromkeys(assigned.types, without)), roster.plays, ("lidar64",))
        with pytest.raises(HeatError, match="none of the 8 frames is left"):
            Evaluator(dataset, skip_scenarios_without_ego=True).evaluate(model, nobody)

    def test_agents_keep_their_types_when_others_leave(self, model: Collaboration) -> None:
        film = Film([0, 100, 200, 300])
        film.missing = {(1, 2), (2, 1), (3, 1), (3, 3)}
        roster = Roster("lidar64", ("lidar16", "lidar64"))  # 1 is the ego, 2 a lidar16, 3 a lidar64
        scenes = [Evaluator(Leaving(film)).run(model, roster, index) for index in range(3)]
        spoken = [{m.sender: m.agent_type for m in (scene.ego_message, *scene.messages)} for scene in scenes]
        assert spoken == [
            {1: "lidar64", 2: "lidar16", 3: "lidar64"},
            {1: "lidar64", 3: "lidar64"},
            {3: "lidar64", 2: "lidar16"},
        ]
        with pytest.raises(HeatError, match="none of its agents has the ego's type"):
            Evaluator(Leaving(film)).run(model, roster, 3)
        assert Evaluator(Leaving(film)).evaluate(model, roster).coverage.frames_without_ego == 1

    def test_missing_weights_are_told_before_the_first_frame(self, dataset: SmallScenes) -> None:
        model = joined(small_model())
        model.lacking = {"lidar16": {"encoder"}}
        with pytest.raises(PackError, match="'lidar16' has no encoder weights"):
            Evaluator(dataset).evaluate(model, ROSTER)
        assert not dataset.reads
        Evaluator(dataset, limit=1).evaluate(model, replace(ROSTER, drop=True))
        own = exchanging(joined(small_model(seed=1)), "boxes")
        late = exchanging(model, "boxes")
        with pytest.raises(PackError, match="'lidar16'"):
            Evaluator(dataset, limit=1).evaluate(late, ROSTER)
        Evaluator(dataset, limit=1).evaluate(late, ROSTER, speakers={"lidar16": own})
        own.lacking = {"lidar16": {"encoder"}}
        with pytest.raises(PackError, match="'lidar16'"):
            Evaluator(dataset, limit=1).evaluate(late, ROSTER, speakers={"lidar16": own})


class Keyframes(SmallScenes):
    """Clips of two frames of which the second one is labelled."""

    known: tuple[int, ...] = (1, 3)

    def labelled(self, index: int) -> bool:
        return index in self.known


class EmptyAtFirst(SmallScenes):
    """Two clips; nobody sees anything in the first one."""

    def read(self, index: int, sensors: Sensors) -> Frame:
        frame = super().read(index, sensors)
        hits = frame.objects.hits * (index > 1)
        return replace(frame, objects=replace(frame.objects, hits=hits, camera_visible=hits > 0))


class Leaving(SmallScenes):
    """A film from which agents go missing."""

    def __init__(self, film: Film) -> None:
        super().__init__(frames=len(film.times), agents=3)
        self.film = film
        self.agent_ids, self.name, self.capture_us = film.agent_ids, film.name, film.capture_us  # type: ignore[method-assign]

    def read(self, index: int, sensors: Sensors) -> Frame:
        whole = SmallScenes(frames=self.frames, agents=3).read(index, sensors)
        there = [number for number, agent in enumerate(whole.agents) if agent.agent_id in self.agent_ids(index)]
        hits = whole.objects.hits[:, there]
        objects = replace(whole.objects, hits=hits, camera_visible=hits > 0)
        return replace(whole, agents=tuple(whole.agents[number] for number in there), objects=objects)


class TestCommand:
    """What `heatv2x eval` writes, and what it does not write over."""

    @pytest.fixture
    def words(self, dataset: SmallScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        monkeypatch.setattr(Collaboration, "from_packs", lambda *_: joined(small_model(), shake=0.1))
        monkeypatch.setattr("heatv2x.evaluation.job.open_part", lambda *_: dataset)
        return ["data=d", "dataset=opv2v", "packs=[]", "senders=lidar16", f"out={tmp_path / 'e'}"]

    def test_counts_and_notes_are_written(self, words: list[str], tmp_path: Path) -> None:
        (row,) = run_eval(build(EvalConfig, parse_overrides([*words, "channel.latency_ms=100"])))
        written = json.loads((tmp_path / "e" / "metrics.json").read_text())
        assert written["frames_clamped"] == row["frames_clamped"] == 2 and written["frames_left_out"] == 0
        assert any("2 frames used newer messages" in note for note in written["notes"])

    def test_other_results_are_not_overwritten(self, words: list[str], tmp_path: Path) -> None:
        def run(*more: str) -> bytes:
            run_eval(build(EvalConfig, parse_overrides([*words, *more])))
            return (tmp_path / "e" / "metrics.json").read_bytes()

        before = run()
        assert run() == before, "the same evaluation may be done again"
        for other in ("frames=2", "channel.loss=0.5", "drop=true"):
            with pytest.raises(ConfigError, match=r"different (frames|channel|drop)\.\n  Way out: set another out="):
                run(other)
        assert (tmp_path / "e" / "metrics.json").read_bytes() == before
        assert run("frames=2", "overwrite=true") != before
        for foreign in ("[]", '{"rows": []}', "no json"):
            (tmp_path / "e" / "metrics.json").write_text(foreign)
            with pytest.raises(ConfigError, match="overwrite=true"):
                run()
            assert (tmp_path / "e" / "metrics.json").read_text() == foreign

    @pytest.mark.parametrize("frames", ["0", "-3"])
    def test_no_frames_are_refused(self, frames: str, words: list[str]) -> None:
        with pytest.raises(ConfigError, match="frames"):
            build(EvalConfig, parse_overrides([*words, f"frames={frames}"]))

    def test_more_frames_than_there_are(self, words: list[str]) -> None:
        (row,) = run_eval(build(EvalConfig, parse_overrides([*words, "frames=1000000000000000000000"])))
        assert row["n_frames"] == 4
