"""The reader: boxes that ride on messages correct what the head says, and nothing else changes anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from heatv2x.link.message import Message, pack, unpack
from heatv2x.model.assembly import adapter_pack, agent_pack, assemble, base_pack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.deploy import optimised
from heatv2x.model.heads.base import Detections
from heatv2x.model.links import Links, links_of
from heatv2x.model.packs import read_pack, write_pack
from heatv2x.model.reader import ReaderConfig, hear
from heatv2x.model.variants import reading, without_reader
from heatv2x.structures import AgentFrame, Boxes3D, Frame, Pose
from tests.scene_factory import GRID, SmallScenes, joined, same_state, shaken, small_model

CAR = [4.3, 5.1, -1.0, 4.2, 1.8, 1.6, 0.4]
READER = ReaderConfig(hidden=16, min_score=0.0)


@pytest.fixture(scope="module")
def frame() -> Frame:
    return SmallScenes(frames=1).read(0, ("lidar64", "lidar16"))


def with_reader(model: Collaboration, shake: float = 0.1) -> Collaboration:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = reading(model, READER)
    assert model.reader is not None
    shaken(model.reader, shake, seed=3)
    return model


def detections(*rows: list[float], score: float = 0.8) -> Detections:
    return Detections(torch.tensor(rows), torch.full((len(rows),), score))


def links(count: int = 2, sigma_m: float = 0.0, sigma_rad: float = 0.0, T: torch.Tensor | None = None) -> Links:
    """One ego that hears the others, from where it stands itself or from T_sender_ego."""
    where = torch.eye(4, dtype=torch.float64).repeat(1, count - 1, 1, 1) if T is None else T[None]
    deviations = [torch.full((1, count - 1), value) for value in (sigma_m, sigma_rad, 0.0)]
    return Links(torch.zeros(1, dtype=torch.long), torch.arange(1, count)[None], where, *deviations)


class TestNothingReceived:
    def test_the_ego_alone_is_the_base(self, frame: Frame) -> None:
        base = small_model()
        model, ego = with_reader(base), frame.agents[0]
        alone, before = model.detect(model.encode(ego, "lidar64")), base.detect(base.encode(ego, "lidar64"))
        assert np.array_equal(alone.boxes, before.boxes) and np.array_equal(alone.scores, before.scores)

    def test_messages_without_boxes_are_fused_as_before(self, frame: Frame) -> None:
        base = small_model()
        model = with_reader(base)
        ego, *others = (base.encode(agent, "lidar64") for agent in frame.agents)
        assert ego.boxes is None
        found, before = model.detect(ego, others), base.detect(ego, others)
        assert np.array_equal(found.boxes, before.boxes) and np.array_equal(found.scores, before.scores)

    def test_messages_whose_boxes_lie_elsewhere_change_nothing(self) -> None:
        model = with_reader(small_model())
        far = [500.0, *CAR[1:]]
        fused = torch.randn(1, 16, *GRID.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            plain = model.predict(fused)
            read = model.predict(fused, [None, detections(far)], ["lidar64"] * 2, links())
        assert same_state(plain, read)


class TestReading:
    def test_a_trusted_box_is_copied(self) -> None:
        model = with_reader(small_model(), shake=0.0)
        reader = model.reader
        assert reader is not None
        with torch.no_grad():
            reader.verdict.bias.copy_(torch.tensor([50.0, 50.0, 0.0]))
            fused = torch.randn(1, 16, *GRID.shape, generator=torch.Generator().manual_seed(0))
            maps = model.predict(fused, [None, detections(CAR)], ["lidar64"] * 2, links())
            best = model.head.decode(maps, model.grid)[0].boxes[0]
        assert best[:6].numpy() == pytest.approx(CAR[:6], abs=1e-3)
        assert float(torch.sin(best[6] - CAR[6])) == pytest.approx(0, abs=1e-3)

    def test_it_is_moved_exactly(self) -> None:
        yaw = 0.7
        sender = np.eye(4)
        sender[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
        sender[:2, 3] = 3.0, -2.0
        there = Pose(sender)
        seen = there.inverse() @ np.array([*CAR[:3], 1.0])
        row = [*seen[:3].tolist(), *CAR[3:6], CAR[6] - yaw]
        T = torch.from_numpy(there.inverse())[None]
        heard = hear([None, detections(row)], ["lidar64"] * 2, links(T=T), [GRID])
        assert heard is not None
        corner = np.array([GRID.x_min, GRID.y_min])
        assert heard.boxes[0, :2].numpy() + corner == pytest.approx(CAR[:2], abs=1e-4)
        assert float(heard.boxes[0, 6]) == pytest.approx(CAR[6], abs=1e-4)

    def test_the_order_of_senders_and_boxes_does_not_matter(self) -> None:
        model = with_reader(small_model())
        fused = torch.randn(1, 16, *GRID.shape, generator=torch.Generator().manual_seed(0))
        near = [CAR[0] + 0.3, CAR[1] - 0.2, *CAR[2:]]
        one, other = detections(CAR, [-6.0, -3.0, *CAR[2:]]), detections(near, score=0.6)
        swapped = Detections(one.boxes.flip(0), one.scores.flip(0))
        with torch.no_grad():
            first = model.predict(fused, [other, one, other], ["lidar64"] * 3, links(3))
            second = model.predict(fused, [other, other, swapped], ["lidar64"] * 3, links(3))
        assert not same_state(first, model.predict(fused))
        for name, values in first.items():
            torch.testing.assert_close(second[name], values, rtol=1e-5, atol=1e-5)

    def test_only_the_slots_around_a_box_change(self) -> None:
        model = with_reader(small_model())
        fused = torch.randn(1, 16, *GRID.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            plain, read = model.predict(fused), model.predict(fused, [None, detections(CAR)], ["lidar64"] * 2, links())
        moved = (plain["heatmap"] != read["heatmap"])[0, 0]
        assert 0 < int(moved.sum()) <= 9
        assert not ((plain["box"] != read["box"])[0].any(dim=0) & ~moved).any()

    @pytest.mark.parametrize("part", ["anchor", "center"])
    def test_both_heads_train_through_it(self, part: str) -> None:
        head = {"part": part, "settings": {"hidden": 16}}
        model = with_reader(small_model(head=head))
        fused = torch.randn(1, 16, *GRID.shape, generator=torch.Generator().manual_seed(0))
        maps = model.predict(fused, [detections(CAR, score=0.5), detections(CAR)], ["lidar64"] * 2, links())
        torch.stack(list(model.head.loss(maps, [torch.tensor([CAR])], [GRID]).values())).sum().backward()
        assert model.reader is not None
        for name, parameter in model.reader.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.reader.parameters())

    def test_on_a_window_it_reads_what_it_reads_on_the_map(self) -> None:
        window = GRID.window(2, 4, (10, 8))
        model = with_reader(small_model())
        T, boxes = links(), [None, detections(CAR, [-40.0, 0, *CAR[2:]])]
        whole, part = (hear(boxes, ["lidar64"] * 2, T, [grid]) for grid in (GRID, window))
        assert whole is not None and part is not None and model.reader is not None
        shift = torch.tensor([window.x_min - GRID.x_min, window.y_min - GRID.y_min])
        torch.testing.assert_close(part.boxes[:, :2] + shift, whole.boxes[:, :2])
        assert torch.equal(part.facts, whole.facts)


class TestFacts:
    """What a hypothesis is judged by."""

    @staticmethod
    def facts(boxes: list[Detections | None], where: Links) -> torch.Tensor:
        heard = hear(boxes, ["lidar64"] * len(boxes), where, [GRID])
        assert heard is not None
        return heard.facts

    def test_a_wrong_heading_moves_what_is_far_away(self) -> None:
        near, far = ([x, 0.0, *CAR[2:]] for x in (4.0, 11.0))
        exact = self.facts([None, detections(near, far)], links())[:, 2]
        turned = self.facts([None, detections(near, far)], links(sigma_rad=0.05))[:, 2]
        shifted = self.facts([None, detections(near, far)], links(sigma_m=0.3))[:, 2]
        assert not exact.any() and turned[1] > turned[0] > 0
        assert shifted[0] == shifted[1] > 0

    def test_a_box_that_another_source_has_too_is_known_as_such(self) -> None:
        beside = [CAR[0] + 0.2, *CAR[1:]]
        alone = self.facts([detections([-9.0, 3, *CAR[2:]]), detections(CAR)], links())
        agreed = self.facts([detections(beside), detections(CAR)], links())
        assert float(agreed[1, 6]) > 0.5 > float(alone[1, 6])

    def test_a_sender_whose_boxes_all_lie_beside_the_egos_is_known_as_such(self) -> None:
        own = [[x, y, *CAR[2:]] for x, y in ((4.0, 5.0), (-6.0, -3.0), (9.0, 1.0))]
        shifted = [[row[0] + 0.8, *row[1:]] for row in own]
        right, wrong = (self.facts([detections(*own), detections(*rows)], links()) for rows in (own, shifted))
        assert float(right[-1, 11]) == pytest.approx(0, abs=1e-5)
        assert float(wrong[-1, 11]) == pytest.approx(np.log1p(0.8 / 0.1), abs=1e-3)
        assert float(wrong[-1, 10]) == pytest.approx(3 / 8)
        assert not wrong[:3, 10:12].any(), "the ego's own boxes are where it sees them"

    def test_the_ego_is_no_object(self) -> None:
        heard = hear([None, detections([0.5, 0.2, *CAR[2:]], CAR)], ["lidar64"] * 2, links(), [GRID])
        assert heard is not None and len(heard.boxes) == 1

    def test_an_ego_that_hears_of_nobody_but_itself_keeps_what_its_head_says(self, frame: Frame) -> None:
        """Also where everything that it hears lies off its grid: its own boxes tell it nothing new."""
        model = with_reader(small_model())
        ego, other = (model.encode(agent, "lidar64") for agent in frame.agents[:2])
        for place in ([0.5, 0.2], [GRID.x_max + 5, 0.0]):
            car = Boxes3D(np.float32([[*place, *CAR[2:]]]), scores=np.float32([0.9]))
            said = replace(other, pose=ego.pose, boxes=car)
            read, plain = (each.detect(ego, [said], guard=False) for each in (model, without_reader(model)))
            assert np.array_equal(read.boxes, plain.boxes) and np.array_equal(read.scores, plain.scores)

    def test_nothing_is_heard_of_boxes_that_are_the_egos_alone(self) -> None:
        assert hear([detections(CAR), None], ["lidar64"] * 2, links(), [GRID]) is None
        nothing = Detections(torch.zeros(0, 7), torch.zeros(0))
        assert hear([detections(CAR), nothing], ["lidar64"] * 2, links(), [GRID]) is None


class TestMessages:
    def test_boxes_ride_along_by_default(self, frame: Frame) -> None:
        model = with_reader(small_model())
        message = model.encode(frame.agents[0], "lidar64")
        assert message.boxes is not None and 0 < len(message.boxes) <= 64
        alone = without_reader(model).encode(frame.agents[0], "lidar64")
        assert alone.boxes is None and torch.equal(alone.feature, message.feature)  # type: ignore[arg-type]

    def test_they_change_what_is_found(self, frame: Frame) -> None:
        model = with_reader(small_model())
        ego, *others = (model.encode(agent, "lidar64") for agent in frame.agents)
        found = model.detect(ego, [unpack(pack(other)) for other in others], guard=False)
        plain = without_reader(model).detect(ego, others, guard=False)
        assert not np.array_equal(found.scores, plain.scores)

    def test_an_ego_that_was_packed_without_boxes_finds_its_own(self, frame: Frame) -> None:
        model = with_reader(small_model())
        ego, *others = (model.encode(agent, "lidar64") for agent in frame.agents)
        bare = replace(ego, boxes=None)
        found, again = (model.detect(message, others, guard=False) for message in (ego, bare))
        np.testing.assert_allclose(found.boxes, again.boxes, atol=1e-5)

    def test_boxes_that_would_blind_the_ego_are_left_out(self, frame: Frame) -> None:
        """A reader that believes everything, and a sender that moves every box the ego is sure of."""
        model = with_reader(small_model(), shake=0.0)
        assert model.reader is not None
        with torch.no_grad():
            model.reader.verdict.bias.copy_(torch.tensor([50.0, -50.0, -50.0]))
        ego, other = (model.encode(agent, "lidar64") for agent in frame.agents[:2])
        assert ego.boxes is not None and ego.boxes.scores is not None
        rows = ego.boxes.boxes + np.float32([1.0, 1.0, 0, 0, 0, 0, 0.7])
        lie = replace(other, pose=ego.pose, boxes=Boxes3D(rows, scores=ego.boxes.scores), feature=ego.feature)
        sure = replace(ego, boxes=Boxes3D(ego.boxes.boxes, scores=np.full(len(ego.boxes), 0.9, np.float32)))
        blinded = model.detect(sure, [lie], guard=False)
        guarded = model.detect(sure, [lie])
        alone = model.detect(sure)
        assert len(blinded) == 0 or float(blinded.scores.max()) < float(alone.scores.max())  # type: ignore[union-attr]
        assert np.array_equal(guarded.boxes, alone.boxes)

    def test_a_deployed_model_reads_the_same(self, frame: Frame) -> None:
        model = with_reader(small_model())
        fast = optimised(model, "float32")
        ego, *others = (model.encode(agent, "lidar64") for agent in frame.agents)
        slow, quick = model.detect(ego, others, guard=False), fast.detect(ego, others, guard=False)
        assert len(slow) == len(quick)
        np.testing.assert_allclose(np.sort(quick.scores), np.sort(slow.scores), atol=2e-4)


class TestNewcomers:
    def test_a_newcomer_starts_as_trusted_as_the_type_it_starts_from(self) -> None:
        model = joined(with_reader(small_model()))
        assert model.reader is not None
        mine, theirs = (model.reader.types[name].state_dict() for name in ("lidar16", "lidar64"))
        assert same_state(mine, theirs) and sum(v.numel() for v in mine.values()) == 11

    @pytest.mark.parametrize(("what", "as_ego"), [("heard", False), ("own", True), ("ego", True)])
    def test_its_numbers_count_where_they_belong(self, frame: Frame, what: str, as_ego: bool) -> None:
        """What it sends is believed by one set, what it sees as the ego by another."""
        model = joined(with_reader(small_model()))
        first, second = frame.agents[0], frame.agents[1]
        deployed, newcomer = model.encode(first, "lidar64"), model.encode(second, "lidar16")
        mixed = {False: (deployed, newcomer), True: (newcomer, deployed)}
        assert model.reader is not None
        before = {ego: model.detect(a, [b], guard=False) for ego, (a, b) in mixed.items()}
        with torch.no_grad():
            getattr(model.reader.types["lidar16"], what).add_(
                torch.tensor([0.3, -0.2, 0.4, 0.5][: 3 if what == "ego" else 4])
            )
        after = {ego: model.detect(a, [b], guard=False) for ego, (a, b) in mixed.items()}
        same = {ego: np.array_equal(before[ego].scores, after[ego].scores) for ego in mixed}
        assert same == {as_ego: False, not as_ego: True}

    def test_scenes_without_it_do_not_notice_its_trust(self, frame: Frame) -> None:
        model = joined(with_reader(small_model()))
        ego, other, newcomer = (
            model.encode(agent, name)
            for agent, name in zip(frame.agents, ("lidar64", "lidar64", "lidar16"), strict=True)
        )
        before, mixed = model.detect(ego, [other], guard=False), model.detect(ego, [other, newcomer], guard=False)
        assert model.reader is not None
        shaken(model.reader.types["lidar16"], 0.5)
        after, changed = model.detect(ego, [other], guard=False), model.detect(ego, [other, newcomer], guard=False)
        assert np.array_equal(before.boxes, after.boxes) and np.array_equal(before.scores, after.scores)
        assert not np.array_equal(mixed.scores, changed.scores)

    def test_the_base_keeps_its_name_and_its_adapters(self, tmp_path: Path, frame: Frame) -> None:
        """Adapters from before the reader fit the base with it, and those from after it the base without."""
        old = joined(small_model(), shake=0.1)
        new = with_reader(old)
        assert new.reader is not None and new.feature_space == old.feature_space
        shaken(new.reader.types["lidar16"], 0.3)
        packs = {}
        for name, model in (("old", old), ("new", new)):
            packs[f"{name} base"] = base_pack(model, {})
            packs[f"{name} adapter"] = adapter_pack(model, "lidar16", {})
        encoders = [agent_pack(old, name, {}) for name in ("lidar64", "lidar16")]
        assert "reader.verdict.bias" in packs["new base"].tensors
        assert not any(key.startswith("reader.types.lidar16") for key in packs["new base"].tensors)
        packs = {name: read_pack(write_pack(each, tmp_path / f"{name}.safetensors")) for name, each in packs.items()}
        whole = assemble(Collaboration, packs["new base"], encoders, [packs["new adapter"]])
        assert same_state(whole.state_dict(), new.state_dict())
        former = assemble(Collaboration, packs["new base"], encoders, [packs["old adapter"]])
        assert former.reader is not None
        assert same_state(former.reader.types["lidar16"].state_dict(), former.reader.types["lidar64"].state_dict())
        plain = assemble(Collaboration, packs["old base"], encoders, [packs["new adapter"]])
        assert plain.reader is None and same_state(plain.senders.state_dict(), new.senders.state_dict())


def test_left_handed_grids_read_the_same_boxes(frame: Frame) -> None:
    """Boxes travel right-handed, whatever axes the networks have."""
    model = with_reader(small_model(y_right=True), shake=0.0)
    assert model.reader is not None
    with torch.no_grad():
        model.reader.verdict.bias.copy_(torch.tensor([50.0, 50.0, 0.0]))
    ego, other = (model.encode(agent, "lidar64") for agent in frame.agents[:2])
    car = Boxes3D(np.float32([CAR]), scores=np.float32([0.9]))
    said = replace(other, pose=ego.pose, boxes=car)
    found = model.detect(replace(ego, boxes=car), [said], guard=False)
    near = np.abs(found.boxes[:, :2] - np.float32(CAR[:2])).max(axis=1)
    best = found.boxes[int(np.argmin(near))]
    assert best[:6] == pytest.approx(CAR[:6], abs=1e-2) and np.sin(best[6] - CAR[6]) == pytest.approx(0, abs=1e-2)


def test_links_say_where_a_message_was_sent_from(frame: Frame) -> None:
    model = with_reader(small_model())
    messages: list[Message] = [model.encode(agent, "lidar64") for agent in frame.agents[:2]]
    agents: list[AgentFrame] = list(frame.agents[:2])
    T = links_of(messages[0], messages[1:], model.grid).T_sender_ego[0, 0].numpy()
    np.testing.assert_allclose(T, agents[0].pose.relative_to(agents[1].pose), atol=1e-9)
