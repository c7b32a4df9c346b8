"""The method: one line from sensors to boxes, the same for a batch in training and for one vehicle on a road."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heatv2x.core import plugins
from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError, HeatError, MessageError
from heatv2x.fusion.base import Received
from heatv2x.geometry.boxes import transform_boxes
from heatv2x.link.channel import disturbed
from heatv2x.link.message import MAX_BOXES, Message, pack, unpack
from heatv2x.link.pose_refinement import RefinementConfig
from heatv2x.model.codebook import CodebookConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import AdapterConfig, ModelConfig
from heatv2x.model.links import Links, in_order, links_of
from heatv2x.structures import AgentFrame, Boxes3D, Frame, PointCloud, Pose
from tests.scene_factory import (
    CAMERA,
    CHANNELS,
    GRID,
    NEWCOMER,
    PILLARS,
    SLICES,
    SmallScenes,
    agent_frame,
    changed,
    joined,
    model_config,
    same_state,
    shaken,
    small_model,
    state_copy,
)

FUSIONS = plugins.available("fusion")
SENSORS = ("lidar64", "lidar16", "camera")


@pytest.fixture(scope="module")
def frame() -> Frame:
    return SmallScenes().read(0, SENSORS)


@pytest.fixture(scope="module")
def model() -> Collaboration:
    """A base, two newcomers that have learned something."""
    return joined(joined(small_model(), shake=0.1), "camera", AdapterConfig(agent=CAMERA), shake=0.1)


def same_boxes(one: Boxes3D, other: Boxes3D) -> bool:
    return np.array_equal(one.boxes, other.boxes) and np.array_equal(np.array(one.scores), np.array(other.scores))


def close_boxes(one: Boxes3D, other: Boxes3D) -> None:
    assert len(one) == len(other)
    np.testing.assert_allclose(np.array(one.scores), np.array(other.scores), atol=1e-4)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)


def batch_of(model: Collaboration, agents: Sequence[AgentFrame], types: Sequence[str]) -> dict[str, object]:
    inputs = {}
    for name in sorted(set(types)):
        agent = model.agent(name)
        inputs[name] = agent.collate([agent.prepare(a) for a, t in zip(agents, types, strict=True) if t == name])
    return inputs


def links_between(poses: Sequence[Pose], egos: Sequence[int], senders: Sequence[Sequence[int]]) -> Links:
    """Who hears whom among agents of a flat list, exact poses, -1 for an empty slot."""
    slots = len(senders[0])
    T = torch.eye(4, dtype=torch.float64).repeat(len(egos), slots, 1, 1)
    for (b, ego), k in itertools.product(enumerate(egos), range(slots)):
        if senders[b][k] >= 0:
            T[b, k] = torch.from_numpy(poses[ego].relative_to(poses[senders[b][k]]))
    nothing = torch.zeros(len(egos), slots)
    ids = torch.tensor(senders, dtype=torch.long).view(len(egos), slots)
    return Links(torch.tensor(egos), ids, T, nothing, nothing.clone(), nothing.clone())


# --- one vehicle on a road ------------------------------------------------------------------------------------------


class TestEncode:
    @pytest.mark.parametrize("agent_type", SENSORS)
    def test_a_message_holds_the_feature_and_who_sends_it(
        self, model: Collaboration, frame: Frame, agent_type: str
    ) -> None:
        message = model.encode(frame.agents[1], agent_type, captured_us=123)
        assert message.feature is not None and message.feature.shape == (CHANNELS, *GRID.shape)
        assert not message.feature.requires_grad and message.feature.isfinite().all() and message.feature.std() > 0
        assert (message.sender, message.agent_type, message.captured_us) == (2, agent_type, 123)
        assert message.pose == frame.agents[1].pose and message.feature_space == model.feature_space
        assert (message.sigma_m, message.sigma_rad, message.size_bytes) == (0.0, 0.0, 0)

    def test_depends_on_the_sensors_and_not_on_the_pose(self, model: Collaboration, frame: Frame) -> None:
        agent = frame.agents[1]
        moved = replace(agent, pose=Pose.planar(100, 50, 2.0), agent_id=9, timestamp="000999")
        here, there = model.encode(agent, "lidar64").feature, model.encode(moved, "lidar64").feature
        other = model.encode(frame.agents[2], "lidar64").feature
        assert here is not None and there is not None and other is not None
        assert torch.equal(here, there) and not torch.equal(here, other)

    def test_the_type_is_found_by_its_sensors(self, model: Collaboration, frame: Frame) -> None:
        agent = frame.agents[0]
        for name in SENSORS:
            reduced = model.agent(name).reduce(agent)
            assert model.encode(reduced).agent_type == name
        with pytest.raises(ConfigError, match="agent_type"):
            model.encode(agent)
        with pytest.raises(ConfigError, match="none"):
            model.encode(replace(agent, lidars={}, cameras=()))

    def test_an_unknown_type_is_refused(self, model: Collaboration, frame: Frame) -> None:
        with pytest.raises(ConfigError, match="did you mean 'lidar16'"):
            model.encode(frame.agents[0], "lidar17")

    def test_a_missing_sensor_is_named(self, model: Collaboration, frame: Frame) -> None:
        with pytest.raises(HeatError, match="lidar16"):
            model.encode(replace(frame.agents[0], lidars={}), "lidar16")


@pytest.mark.parametrize("fusion", FUSIONS)
class TestDetect:
    def models(self, fusion: str) -> Collaboration:
        return joined(small_model(fusion), shake=0.1)

    def sent(self, model: Collaboration, frame: Frame) -> list[Message]:
        types = ["lidar64", "lidar16", "lidar64"]
        return [model.encode(agent, name, 3_400_000) for agent, name in zip(frame.agents, types, strict=True)]

    def test_from_sensors_to_boxes_over_a_link_of_bytes(self, fusion: str, frame: Frame) -> None:
        model = self.models(fusion)
        ego, *others = self.sent(model, frame)
        received = [unpack(pack(message), model.feature_space) for message in others]
        assert all(message.size_bytes > 0 for message in received)
        # untrained networks agree on nothing, so the guard would leave the others out
        found = model.detect(ego, received, guard=False)
        assert len(found) > 0 and found.boxes.dtype == np.float32 and found.scores is not None
        assert np.isfinite(found.boxes).all() and (np.diff(found.scores) <= 0).all()
        alone = model.detect(ego)
        assert same_boxes(found, alone) == (fusion == "none")

    def test_without_messages_it_is_a_single_agent(self, fusion: str, frame: Frame) -> None:
        model = self.models(fusion)
        for agent_type in ("lidar64", "lidar16"):
            agent = model.agent(agent_type)
            with torch.no_grad():
                # contiguous: another memory layout takes another convolution kernel, which rounds otherwise
                feature = model.to_shared_space(
                    agent_type, agent(agent.collate([agent.prepare(frame.agents[0])]))
                ).contiguous()
                single = model.head.decode(model.predict_alone(feature, [agent_type]), model.grid)[0]
            found = model.detect(model.encode(frame.agents[0], agent_type))
            assert len(found) > 1 and np.array_equal(found.boxes, single.boxes.numpy())
            assert np.array_equal(np.array(found.scores), single.scores.numpy())

    def test_the_frame_itself_may_be_given(self, fusion: str, frame: Frame) -> None:
        model = self.models(fusion)
        _, *others = self.sent(model, frame)
        sensed = model.agent("lidar64").reduce(frame.agents[0])
        assert same_boxes(model.detect(sensed, others), model.detect(model.encode(sensed, "lidar64", 0), others))

    def test_the_order_of_messages_does_not_matter(self, fusion: str, frame: Frame) -> None:
        model = self.models(fusion)
        ego, *others = self.sent(model, frame)
        close_boxes(model.detect(ego, others), model.detect(ego, others[::-1]))

    def test_any_type_can_be_the_ego(self, fusion: str, frame: Frame) -> None:
        model = self.models(fusion)
        found = []
        for ego_type, sender_type in itertools.product(("lidar64", "lidar16"), repeat=2):
            ego = model.encode(frame.agents[0], ego_type)
            found.append(model.detect(ego, [model.encode(agent, sender_type) for agent in frame.agents[1:]]))
        assert all(len(boxes) > 0 for boxes in found)
        assert not same_boxes(found[0], found[3])

    def test_detecting_changes_nothing(self, fusion: str, frame: Frame) -> None:
        model = self.models(fusion)
        before, messages = state_copy(model), self.sent(model, frame)
        first = model.detect(messages[0], messages[1:])
        assert same_boxes(model.detect(messages[0], messages[1:]), first)
        assert same_state(model.state_dict(), before)

    def test_the_world_may_be_anywhere(self, fusion: str, frame: Frame) -> None:
        """Detections are in the ego's frame: moving everybody together changes nothing."""
        model = self.models(fusion)
        messages = self.sent(model, frame)
        T = Pose.planar(-30_000.0, 12_000.0, 1.1, 250.0).matrix
        moved = [replace(message, pose=Pose(T @ message.pose.matrix)) for message in messages]
        close_boxes(model.detect(moved[0], moved[1:]), model.detect(messages[0], messages[1:]))

    def test_where_a_sender_is_matters(self, fusion: str, frame: Frame) -> None:
        model = self.models(fusion)
        ego, *others = self.sent(model, frame)
        off = [replace(message, pose=disturbed(message.pose, 4.0, -3.0, 0.8)) for message in others]
        assert same_boxes(model.detect(ego, off), model.detect(ego, others)) == (fusion == "none")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_sender_far_away_changes_nothing(fusion: str, frame: Frame) -> None:
    model = small_model(fusion)
    ego, other = (model.encode(agent, "lidar64") for agent in frame.agents[:2])
    far = replace(other, pose=Pose.planar(200.0, 0.0, 0.3))
    assert same_boxes(model.detect(ego, [far]), model.detect(ego))


class TestEarly:
    """Points of everybody, one look."""

    def test_is_the_egos_network_on_everybodys_points(self, frame: Frame) -> None:
        model = joined(small_model("early"), shake=0.1)
        ego, *others = [model.encode(agent, "lidar64") for agent in frame.agents]
        parts = [frame.agents[0].lidars["lidar64"].points]
        for agent in frame.agents[1:]:
            place = agent.lidars["lidar64"].points[:, :3] @ agent.pose.matrix[:3, :3].T + agent.pose.xyz
            local = place @ frame.agents[0].pose.inverse()[:3, :3].T + frame.agents[0].pose.inverse()[:3, 3]
            parts.append(np.column_stack([local, agent.lidars["lidar64"].points[:, 3]]).astype(np.float32))
        together = replace(frame.agents[0], lidars={"lidar64": PointCloud(np.concatenate(parts))})
        close_boxes(model.detect(ego, others), model.detect(model.encode(together, "lidar64")))

    def test_a_message_holds_points_and_needs_no_common_base(self, frame: Frame) -> None:
        model, stranger = small_model("early"), small_model("early", seed=5)
        sent = stranger.encode(frame.agents[1], "lidar64")
        assert sent.feature is None and sent.boxes is None and sent.points is frame.agents[1].lidars["lidar64"]
        arrived = unpack(pack(sent))
        assert arrived.points is not None and arrived.size_bytes < 8 * len(arrived.points) + 200
        ego = model.encode(frame.agents[0], "lidar64")
        assert not same_boxes(model.detect(ego, [arrived]), model.detect(ego))
        with pytest.raises(MessageError, match="needs points, but agent 2 sent none"):
            model.detect(ego, [replace(sent, points=None)])

    def test_boxes_are_what_the_sender_finds_alone(self, frame: Frame) -> None:
        model = small_model("early")
        plain = model.encode(frame.agents[1], "lidar64")
        message = model.with_boxes(plain, RefinementConfig(min_score=0.0))
        assert message.boxes is not None and message.points is plain.points
        assert same_boxes(message.boxes, model.detect(plain)[:MAX_BOXES])

    def test_who_has_no_lidar_cannot_take_part(self, frame: Frame) -> None:
        model = joined(small_model("early"), "camera", AdapterConfig(agent=CAMERA))
        with pytest.raises(ConfigError, match="'camera' has camera"):
            model.encode(frame.agents[0], "camera")

    def test_nothing_is_trained_between_features(self) -> None:
        model, features = small_model("early"), torch.rand(2, CHANNELS, *GRID.shape)
        poses = [Pose.planar(0, 0, 0), Pose.planar(2, 1, 0.3)]
        with pytest.raises(ConfigError, match="end to end"):
            model.collaborate(features, ["lidar64"] * 2, links_between(poses, [0], [[1]]))
        alone = model.collaborate(features, ["lidar64"] * 2, links_between(poses, [0], [[]]))
        assert torch.equal(alone["heatmap"], model.predict(features[:1])["heatmap"])


def test_what_a_sender_does_not_cover_is_zero() -> None:
    """Also at the border, where interpolation still reaches a cell whose centre lies outside."""
    model, features = small_model(), torch.rand(2, CHANNELS, *GRID.shape) + 1
    links = links_between([Pose.planar(0, 0, 0), Pose.planar(5.3, 2.1, 0.3)], [0], [[1]])
    _, received = model.receive(features, features, ["lidar64"] * 2, links)
    covered = received.visible[0, 0]
    assert covered.any() and not covered.all()
    assert not received.features[0, 0][:, ~covered].any() and received.features[0, 0][:, covered].all()


class TestSelection:
    """A fusion whose senders send few cells: what training sees is what arrives, and the ego keeps all it has."""

    def model(self, share: float = 0.2, codec: str = "sparse") -> Collaboration:
        fusion = PartConfig(part="where2comm", settings={"share": share})
        return small_model(fusion, codec=codec)

    def test_training_and_link_give_the_same(self, frame: Frame) -> None:
        model = self.model()
        sent = [model.encode(agent, "lidar64") for agent in frame.agents]
        features = torch.stack([message.feature for message in sent if message.feature is not None])
        arrived = [unpack(pack(message), model.feature_space) for message in sent]
        seen: list[Received] = []
        hook = model.fusion.register_forward_hook(lambda _, inputs, __: seen.append(inputs[1]))
        with torch.no_grad():
            links = links_between([agent.pose for agent in frame.agents], [0], [[1, 2]])
            trained = model.collaborate(features, ["lidar64"] * 3, links)
            found = model.detect(sent[0], arrived[1:])
        hook.remove()
        assert torch.equal(seen[0].features, seen[1].features) and torch.equal(seen[0].visible, seen[1].visible)
        assert same_boxes(found, _boxes(model, trained))

    def test_the_egos_own_feature_is_whole_and_a_message_is_not(self, frame: Frame) -> None:
        model = self.model()
        message = model.encode(frame.agents[1], "lidar64")
        assert message.feature is not None and message.cells is not None
        arrived = unpack(pack(message)).feature
        assert arrived is not None
        cells = GRID.shape[0] * GRID.shape[1]
        assert (message.feature != 0).any(dim=0).sum() > 0.9 * cells
        assert torch.equal((arrived != 0).any(dim=0), message.cells) and message.cells.sum() == int(0.2 * cells)

    def test_unpacked_or_not_is_the_same_choice(self, frame: Frame) -> None:
        model = self.model(codec="raw")
        ego, *others = [model.encode(agent, "lidar64") for agent in frame.agents]
        assert same_boxes(model.detect(ego, others), model.detect(ego, [unpack(pack(m)) for m in others]))

    @pytest.mark.parametrize("codec", ["sparse", "int8"])
    def test_bytes_shrink_with_the_budget(self, frame: Frame, codec: str) -> None:
        sizes = [
            len(pack(self.model(share, codec).encode(frame.agents[1], "lidar64"))) for share in (1.0, 0.5, 0.1, 0.02)
        ]
        assert all(less < 0.8 * more for more, less in itertools.pairwise(sizes)), sizes

    def test_what_was_not_sent_is_not_seen_even_through_an_adapter(self, frame: Frame) -> None:
        model = joined(self.model(), shake=0.3)
        ego, other = model.encode(frame.agents[0], "lidar64"), model.encode(frame.agents[1], "lidar16")
        seen: list[Received] = []
        hook = model.fusion.register_forward_hook(lambda _, inputs, __: seen.append(inputs[1]))
        assert ego.feature is not None and other.feature is not None and other.cells is not None
        with torch.no_grad():  # `detect` does not listen to a newcomer whose adapters are anything
            features = torch.stack([ego.feature, other.feature * other.cells])
            model.detect_fused(features, ["lidar64", "lidar16"], links_of(ego, [other], model.grid))
        hook.remove()
        assert 0 < seen[0].visible.float().mean() < 0.5
        assert not seen[0].features.masked_fill(seen[0].visible[:, :, None], 0.0).any()


def _boxes(model: Collaboration, maps: dict[str, Tensor]) -> Boxes3D:
    found = model.head.decode(maps, model.grid)[0]
    return Boxes3D(found.boxes.numpy(), scores=found.scores.numpy())


class TestRefined:
    """The ego corrects reported poses; a small untrained model's boxes are put in by hand."""

    def messages(self, model: Collaboration, frame: Frame) -> list[Message]:
        """What the agents sent, with boxes of the same eight cars in everybody's frame."""
        rng = np.random.default_rng(0)
        spots = np.column_stack([rng.uniform(-11, 11, (8, 2)), np.zeros(8), np.tile([4.2, 1.8, 1.6], (8, 1))])
        cars = torch.from_numpy(np.column_stack([spots, rng.uniform(-3, 3, 8)]))
        sent = []
        for agent in frame.agents:
            local = transform_boxes(cars, torch.from_numpy(agent.pose.inverse())).float().numpy()
            boxes = Boxes3D(local, scores=np.full(8, 0.9, np.float32))
            sent.append(replace(model.encode(agent, "lidar64"), boxes=boxes))
        return sent

    def test_a_wrong_pose_is_put_right_and_a_certain_one_is_believed(self, frame: Frame) -> None:
        model = small_model()
        ego, one, other = self.messages(model, frame)
        off = disturbed(one.pose, 0.7, -0.4, 0.01)
        uncertain = replace(one, pose=off, sigma_m=0.6, sigma_rad=0.01)
        found = model.refined(ego, [uncertain, replace(other, pose=off)])
        assert np.hypot(*(found[0].pose.xyz - one.pose.xyz)[:2]) < 0.1 and found[0].pose.xyz[2] == off.xyz[2]
        assert 0 < found[0].sigma_m < 0.4 and found[0].sigma_rad <= 0.01 and found[0].feature is one.feature
        assert found[1].pose is off and found[1].sigma_m == 0
        (alone,) = model.refined(ego, [uncertain])
        assert np.array_equal(alone.pose.matrix, found[0].pose.matrix), "company does not matter"

    @pytest.mark.parametrize("fusion", FUSIONS)
    def test_the_refined_pose_is_the_one_that_is_fused_with(self, fusion: str, frame: Frame) -> None:
        model = small_model(fusion)
        ego, one, _ = self.messages(model, frame)
        off = replace(one, pose=disturbed(one.pose, 0.9, -0.8, 0.05), sigma_m=0.9, sigma_rad=0.05)
        (found,) = model.refined(ego, [off])
        assert np.hypot(*(found.pose.xyz - one.pose.xyz)[:2]) < 0.15
        changed_by = same_boxes(model.detect(ego, [found]), model.detect(ego, [off]))
        assert changed_by == (fusion == "none")

    def test_a_message_without_boxes_stays_as_it_is(self, frame: Frame) -> None:
        model = small_model()
        ego, one, _ = self.messages(model, frame)
        bare = replace(one, boxes=None, sigma_m=0.5)
        assert model.refined(ego, [bare])[0] is bare and model.refined(ego, []) == []

    def test_boxes_are_what_the_sender_finds_alone(self, model: Collaboration, frame: Frame) -> None:
        for agent_type in SENSORS:
            plain = model.encode(frame.agents[1], agent_type)
            message = model.with_boxes(plain, RefinementConfig(min_score=0.0))
            alone = model.detect(plain)
            assert message.boxes is not None and same_boxes(message.boxes, alone[:MAX_BOXES]) and len(alone) > 0
            assert message.feature is plain.feature and model.with_boxes(message) is message
            best = float(np.array(alone.scores)[0])
            few = model.with_boxes(plain, RefinementConfig(min_score=best)).boxes
            assert few is not None and 0 < len(few) < len(alone)

    def test_only_the_best_boxes_are_sent(self, frame: Frame, monkeypatch: pytest.MonkeyPatch) -> None:
        model = small_model()
        plain = model.encode(frame.agents[1], "lidar64")
        monkeypatch.setattr("heatv2x.model.exchange.MAX_BOXES", 3)
        sent = model.with_boxes(plain, RefinementConfig(min_score=0.0)).boxes
        assert sent is not None and same_boxes(sent, model.detect(plain)[:3]) and len(sent) == 3

    def test_late_fusion_has_its_boxes_already(self, frame: Frame) -> None:
        late = small_model("late")
        message = late.encode(frame.agents[0], "lidar64")
        assert late.with_boxes(message) is message


class TestSharedBoxes:
    """Boxes that ride on messages are added to what the fused features show."""

    @staticmethod
    def heard(model: Collaboration, frame: Frame, boxes: Boxes3D, sigma_m: float = 0.0) -> tuple[Message, Message]:
        ego, other = (model.encode(agent, "lidar64") for agent in frame.agents[:2])
        return ego, replace(other, boxes=boxes, sigma_m=sigma_m)

    def test_a_box_nobody_else_found_arrives_in_the_egos_frame_and_counts_less_with_a_bad_pose(
        self, frame: Frame
    ) -> None:
        model = small_model()
        pose = frame.agents[1].pose.relative_to(frame.agents[0].pose)
        wanted = torch.tensor([[5.0, 3.0, 0.0, 4.0, 2.0, 1.5, 0.3]])
        sent = transform_boxes(wanted.double(), torch.from_numpy(np.linalg.inv(pose))).float().numpy()
        boxes = Boxes3D(sent, scores=np.array([0.9], np.float32))
        scores = []
        for sigma_m in (0.0, 0.4):
            ego, message = self.heard(model, frame, boxes, sigma_m)
            alone, together = (model.detect(ego, [message], share_boxes=share) for share in (False, True))
            assert alone.scores is not None and alone.scores.max() < 0.3
            assert together.scores is not None
            distance = np.abs(together.boxes - wanted.numpy()).max(axis=1)
            assert distance.min() < 1e-3 and (
                len(alone) == 0 or np.abs(alone.boxes - wanted.numpy()).max(1).min() > 0.1
            )
            scores.append(float(together.scores[distance.argmin()]))
        assert scores == pytest.approx([0.72, 0.36], rel=1e-3)

    def test_a_message_without_boxes_adds_nothing(self, frame: Frame) -> None:
        model = small_model()
        ego, other = (model.encode(agent, "lidar64") for agent in frame.agents[:2])
        plain, shared = (model.detect(ego, [other], share_boxes=share) for share in (False, True))
        assert same_boxes(plain, shared) and len(plain) > 0


class TestRefusedMessages:
    @pytest.fixture
    def messages(self, model: Collaboration, frame: Frame) -> list[Message]:
        return [model.encode(agent, "lidar64") for agent in frame.agents[:2]]

    def test_another_base(self, model: Collaboration, messages: list[Message]) -> None:
        foreign = replace(messages[1], feature_space=bytes(16))
        with pytest.raises(MessageError) as caught:
            model.detect(messages[0], [foreign])
        assert model.feature_space.hex() in str(caught.value) and bytes(16).hex() in str(caught.value)
        assert "agent 2" in str(caught.value)

    @pytest.mark.parametrize("shape", [(CHANNELS, 8, 16), (CHANNELS + 1, 16, 16), (0, 0, 0)])
    def test_another_shape(self, model: Collaboration, messages: list[Message], shape: tuple[int, ...]) -> None:
        with pytest.raises(MessageError, match=r"agent 2 sent a feature of shape"):
            model.detect(messages[0], [replace(messages[1], feature=torch.zeros(shape))])

    def test_boxes_where_features_are_fused(self, model: Collaboration, messages: list[Message]) -> None:
        with pytest.raises(MessageError, match="shape None"):
            model.detect(messages[0], [replace(messages[1], feature=None, boxes=Boxes3D.empty())])

    def test_features_where_boxes_are_fused(self, messages: list[Message]) -> None:
        late = small_model("late")
        with pytest.raises(MessageError, match="late fusion needs boxes"):
            late.detect(replace(messages[0], feature=None, boxes=Boxes3D.empty()), messages[1:])

    def test_a_type_nobody_knows(self, model: Collaboration, messages: list[Message]) -> None:
        with pytest.raises(MessageError, match="did you mean 'lidar16'"):
            model.detect(messages[0], [replace(messages[1], agent_type="lidar17")])


class TestLate:
    def test_boxes_are_moved_to_the_ego_and_duplicates_go(self) -> None:
        model = small_model("late")
        ego, sender = Pose.planar(3, -2, 0.4, 1.9), Pose.planar(-5, 6, 2.0, 1.9)
        T = ego.relative_to(sender)
        here = np.float32([[4, 3, -1, 4, 2, 1.5, 0.3], [-6, -5, -1, 4, 2, 1.5, 1.2]])
        there = here.copy()
        there[:, :3] = here[:, :3] @ T[:3, :3].T.astype(np.float32) + T[:3, 3].astype(np.float32)
        there[:, 6] += ego.yaw - sender.yaw
        space = bytes(16)
        mine = Message(1, "lidar64", 0, ego, 0, 0, space, boxes=Boxes3D(here[:1], scores=np.float32([0.9])))
        theirs = Message(2, "lidar64", 0, sender, 0, 0, space, boxes=Boxes3D(there, scores=np.float32([0.8, 0.7])))
        found = model.detect(mine, [theirs])
        np.testing.assert_allclose(found.boxes, here, atol=1e-4)
        assert found.scores is not None and found.scores.tolist() == [pytest.approx(0.9), pytest.approx(0.7)]

    @pytest.mark.parametrize(("ego_id", "known"), [(1, {7.0}), (-1, {7.0, 0.5})])
    def test_received_boxes_of_the_ego_itself_and_beyond_its_grid_are_left_out(
        self, ego_id: int, known: set[float]
    ) -> None:
        """A vehicle is not its own obstacle; a roadside unit has no body, whatever is there is a car."""
        model = small_model("late")
        pose, space = Pose.planar(3, -2, 0.4, 1.9), bytes(16)
        nothing = Boxes3D(np.zeros((0, 7), np.float32), scores=np.zeros(0, np.float32))
        mine = Message(ego_id, "lidar64", 0, pose, 0, 0, space, boxes=nothing)
        beyond = model.grid.x_max + 2
        seen = np.float32([[7, 0, 0, 4, 2, 1.5, 0], [0.5, 0.2, 0, 4, 2, 1.5, 0], [beyond, 0, 0, 4, 2, 1.5, 0]])
        theirs = Message(2, "lidar64", 0, pose, 0, 0, space, boxes=Boxes3D(seen, scores=np.float32([0.9, 0.8, 0.7])))
        assert {round(float(x), 3) for x in model.detect(mine, [theirs]).boxes[:, 0]} == known

    def test_messages_carry_boxes_and_no_feature(self, frame: Frame) -> None:
        model = small_model("late")
        message = model.encode(frame.agents[0], "lidar64")
        assert message.feature is None and message.boxes is not None and len(message.boxes) > 0


# --- geometry -------------------------------------------------------------------------------------------------------


class TestWarp:
    """A sender's mark must land where the ego's own geometry says it is."""

    @pytest.mark.parametrize(
        ("sender", "cell", "lands"),
        [
            # the sender 3.2 m ahead: its origin's neighbour (0.8, 0.8) is (4.0, 0.8) for the ego
            (Pose.planar(3.2, 0.0, 0.0), (0.8, 0.8), (4.0, 0.8)),
            # the sender 4.8 m to the left: further left
            (Pose.planar(0.0, 4.8, 0.0), (0.8, 0.8), (0.8, 5.6)),
            # turned a quarter to the left where the ego stands: its ahead is the ego's left
            (Pose.planar(0.0, 0.0, math.pi / 2), (5.6, 0.8), (-0.8, 5.6)),
            # ahead and facing back at the ego: what is ahead of it comes towards the ego
            (Pose.planar(8.0, 1.6, math.pi), (2.4, 4.0), (5.6, -2.4)),
            # quarter turn to the right, shifted
            (Pose.planar(1.6, 3.2, -math.pi / 2), (4.0, 2.4), (4.0, -0.8)),
        ],
    )
    def test_by_hand(self, sender: Pose, cell: tuple[float, float], lands: tuple[float, float]) -> None:
        received = self.receive(Pose.planar(0, 0, 0), sender, self.mark(cell))
        assert self.peak(received) == pytest.approx(lands)

    @pytest.mark.parametrize("seed", range(4))
    def test_by_matrices(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        ego = Pose.planar(*rng.uniform(-1000, 1000, 2), rng.uniform(-3, 3), 2.0)
        sender = Pose.planar(*(ego.xyz[:2] + rng.uniform(-3, 3, 2)), rng.uniform(-3, 3), 1.5)
        point = np.array([4.0, -2.4, 0.0, 1.0])
        x, y = (sender.relative_to(ego) @ point)[:2]
        peak = self.peak(self.receive(ego, sender, self.mark((4.0, -2.4))))
        assert math.hypot(peak[0] - x, peak[1] - y) < 1.6 * 0.75

    def test_what_the_senders_map_does_not_cover_is_not_visible(self) -> None:
        received = self.receive(Pose.planar(0, 0, 0), Pose.planar(8.0, 0.0, 0.0), torch.ones(CHANNELS, 16, 16))
        assert not received.visible[0, 0, :, :5].any() and received.visible[0, 0, :, 5:].all()
        assert not received.features[0, 0][:, ~received.visible[0, 0]].any()
        assert (received.features[0, 0][:, :, 6:] == 1).all()

    def test_edges_point_from_the_sender_to_the_ego(self) -> None:
        sender = Pose.planar(3.0, -4.0, 0.5)
        received = self.receive(Pose.planar(1.0, 1.0, 0.2), sender, torch.ones(CHANNELS, 16, 16))
        wanted = sender.relative_to(Pose.planar(1.0, 1.0, 0.2))
        np.testing.assert_allclose(received.edges.T_ego_sender[0, 0].numpy(), wanted, atol=1e-12)

    def test_age_and_deviation_reach_the_fusion(self, model: Collaboration, frame: Frame) -> None:
        ego = model.encode(frame.agents[0], "lidar64", captured_us=1_000_000)
        other = replace(model.encode(frame.agents[1], "lidar64", captured_us=800_000), sigma_m=0.3, sigma_rad=0.01)
        links = links_of(ego, [other], model.grid)
        assert float(links.age_s) == pytest.approx(0.2)
        assert float(links.sigma_m) == pytest.approx(0.3) and float(links.sigma_rad) == pytest.approx(0.01)

    @staticmethod
    def mark(cell: tuple[float, float]) -> Tensor:
        feature = torch.zeros(CHANNELS, *GRID.shape)
        feature[:, int((cell[1] + 12.8) / 1.6), int((cell[0] + 12.8) / 1.6)] = 1.0
        return feature

    @staticmethod
    def receive(ego: Pose, sender: Pose, feature: Tensor) -> Received:
        model = small_model("maximum")
        features = torch.stack([torch.zeros_like(feature), feature])
        return model.receive(features, features, ["lidar64", "lidar64"], links_between([ego, sender], [0], [[1]]))[1]

    @staticmethod
    def peak(received: Received) -> tuple[float, float]:
        energy = received.features[0, 0, 0].double()
        assert energy.sum() > 0.5
        x, y = ((energy[..., None] * GRID.centres()).sum(dim=(0, 1)) / energy.sum()).tolist()
        return x, y


# --- a batch in training --------------------------------------------------------------------------------------------


class TestForward:
    TYPES = ("lidar64", "lidar16", "lidar64", "camera", "lidar16")

    def scene(self, model: Collaboration) -> tuple[list[AgentFrame], dict[str, object], Links]:
        first, second = (SmallScenes().read(index, SENSORS) for index in (0, 1))
        agents = [*first.agents, *second.agents[:2]]
        links = links_between([agent.pose for agent in agents], [0, 3], [[1, 2], [4, -1]])
        return agents, batch_of(model, agents, self.TYPES), links

    def test_gives_dense_maps_for_every_ego(self, model: Collaboration) -> None:
        _, inputs, links = self.scene(model)
        maps = model(inputs, self.TYPES, links)
        assert all(value.shape[0] == 2 and value.isfinite().all() for value in maps.values())
        assert maps["heatmap"].shape[2:] == (32, 32)

    def test_equals_encode_and_detect_for_every_ego(self, model: Collaboration) -> None:
        """The same line: what training sees is what runs on the road, message bytes included."""
        agents, inputs, links = self.scene(model)
        with torch.no_grad():
            found = model.head.decode(model(inputs, self.TYPES, links), model.grid)
        messages = [model.encode(agent, name) for agent, name in zip(agents, self.TYPES, strict=True)]
        heard = {0: [1, 2], 3: [4]}
        for row, (ego, senders) in enumerate(heard.items()):
            received = [unpack(pack(messages[sender])) for sender in senders]
            alone = model.detect(messages[ego], received)
            close_boxes(alone, Boxes3D(found[row].boxes.numpy(), scores=found[row].scores.numpy()))

    def test_features_come_in_the_order_of_the_flat_list(self, model: Collaboration) -> None:
        agents, inputs, _ = self.scene(model)
        with torch.no_grad():
            features = model.encode_batch(inputs, self.TYPES)
        for row, agent, name in zip(features, agents, self.TYPES, strict=True):
            alone = model.encode(agent, name).feature
            assert alone is not None
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)

    def test_what_is_sent_is_quantised_and_the_egos_own_is_not(self) -> None:
        model = small_model("maximum")
        features = torch.rand(2, CHANNELS, *GRID.shape)
        poses = [Pose.planar(0, 0, 0)] * 2
        seen: list[tuple[Tensor, Tensor]] = []
        model.fusion.register_forward_hook(lambda _, inputs, __: seen.append((inputs[0], inputs[1].features)))
        model.collaborate(features, ["lidar64"] * 2, links_between(poses, [0], [[1]]))
        ego, received = seen[0]
        assert torch.equal(ego[0], features[0])
        torch.testing.assert_close(received[0, 0], model._codec.quantise(features[1:])[0])
        assert not torch.allclose(received[0, 0], features[1], atol=1e-5)

    def test_gradients_reach_everybody(self) -> None:
        """Every type is an ego and a sender of some scene, and then nothing is left out."""
        model = joined(joined(small_model(), shake=0.1), "camera", AdapterConfig(agent=CAMERA), shake=0.1).train()
        agents, inputs, _ = self.scene(model)
        links = links_between([agent.pose for agent in agents], [0, 3, 1], [[1, 2], [4, 2], [3, 2]])
        maps = model(inputs, self.TYPES, links)
        torch.stack([value.square().mean() for value in maps.values()]).sum().backward()
        silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert not silent, silent

    @pytest.mark.parametrize("fusion", FUSIONS)
    def test_no_slots_at_all(self, fusion: str) -> None:
        model = small_model(fusion)
        features = torch.rand(3, CHANNELS, *GRID.shape)
        links = links_between([Pose.planar(0, 0, 0)] * 3, [0, 2], [[], []])
        with torch.no_grad():
            maps = model.collaborate(features, ["lidar64"] * 3, links)
            wanted = model.predict_alone(features[[0, 2]], ["lidar64"] * 2)
        assert all(torch.equal(maps[name], wanted[name]) for name in wanted)

    @pytest.mark.parametrize("fusion", FUSIONS)
    def test_empty_slots_change_nothing(self, fusion: str) -> None:
        model = small_model(fusion)
        features = torch.rand(2, CHANNELS, *GRID.shape)
        poses = [Pose.planar(0, 0, 0), Pose.planar(2, 1, 0.3)]
        with torch.no_grad():
            alone = model.predict_alone(features[:1], ["lidar64"])
            empty = model.collaborate(features, ["lidar64"] * 2, links_between(poses, [0], [[-1, -1]]))
            one = model.collaborate(features, ["lidar64"] * 2, links_between(poses, [0], [[1]]))
            more = model.collaborate(features, ["lidar64"] * 2, links_between(poses, [0], [[-1, 1]]))
        for name in alone:
            assert torch.equal(empty[name], alone[name])
            torch.testing.assert_close(more[name], one[name])


class TestWindows:
    """Training on a window must be training on a part of the map, not on another map."""

    POSES = (Pose.planar(0, 0, 0.2), Pose.planar(2.5, -1.0, 1.1), Pose.planar(-3.0, 4.0, -2.0))

    def fused(self, model: Collaboration, windows: list[tuple[int, int, tuple[int, int]]]) -> tuple[Tensor, Tensor]:
        features = torch.rand(3, CHANNELS, *GRID.shape, generator=torch.Generator().manual_seed(0))
        links = links_between(self.POSES, [0, 1], [[1, 2], [0, -1]])
        seen: list[Tensor] = []
        hook = model.neck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        types = ["lidar64"] * 3
        with torch.no_grad():
            whole = model.collaborate(features, types, links)["heatmap"]
            cut = replace(links, windows=[GRID.window(*window) for window in windows])
            part = model.collaborate(features, types, cut)["heatmap"]
        hook.remove()
        for row, (top, left, (rows, columns)) in enumerate(windows):
            crop = seen[0][row, :, top : top + rows, left : left + columns]
            torch.testing.assert_close(seen[1][row], crop, rtol=1e-4, atol=1e-5)
        return whole, part

    @pytest.mark.parametrize("fusion", [name for name in FUSIONS if plugins.find("fusion", name).local])
    def test_fusion_on_a_window_is_the_crop_of_the_whole(self, fusion: str) -> None:
        self.fused(small_model(fusion), [(2, 4, (10, 8)), (6, 0, (10, 8))])

    def test_the_prediction_inside_the_margin_is_the_crop_of_the_whole(self) -> None:
        """The neck's cut-off context reaches a few cells in; beyond those nothing of the window is left."""
        model = small_model("maximum", half_extent_m=25.6)
        features = torch.rand(2, CHANNELS, *model.grid.shape)
        links = links_between([Pose.planar(0, 0, 0), Pose.planar(2, 1, 0.4)], [0], [[1]])
        window = model.grid.window(4, 6, (24, 24))
        with torch.no_grad():
            whole = model.collaborate(features, ["lidar64"] * 2, links)["heatmap"]
            part = model.collaborate(features, ["lidar64"] * 2, replace(links, windows=[window]))["heatmap"]
        crop = whole[:, :, 8:56, 12:60]
        off = (part - crop).abs()[0, 0]
        deep = 2 * 10
        assert off[deep:-deep, deep:-deep].max() < 1e-4 and off.max() > 1e-3


# --- joining --------------------------------------------------------------------------------------------------------


class TestJoin:
    def test_nothing_deployed_changes(self, frame: Frame) -> None:
        model = small_model()
        state, space = state_copy(model), model.feature_space
        messages = [model.encode(agent, "lidar64") for agent in frame.agents]
        boxes = model.detect(messages[0], messages[1:])
        joined(model, shake=1.0)
        assert not changed(state, {key: model.state_dict()[key] for key in state}) and model.feature_space == space
        again = [model.encode(agent, "lidar64") for agent in frame.agents]
        for before, after in zip(messages, again, strict=True):
            assert before.feature is not None and after.feature is not None
            assert torch.equal(before.feature, after.feature)
        assert same_boxes(model.detect(again[0], again[1:]), boxes)

    def test_a_batch_with_a_newcomer_leaves_its_other_scenes_alone(self) -> None:
        """Two scenes in one batch, the newcomer in the second only: the first is bit-identical, whatever it learned."""
        features = torch.rand(4, CHANNELS, *GRID.shape)
        poses = [Pose.planar(0, 0, 0), Pose.planar(2, 1, 0.4)] * 2
        links, types = links_between(poses, [0, 2], [[1], [3]]), ["lidar64", "lidar64", "lidar64", "lidar16"]
        outputs = []
        for shake in (0.0, 0.5):
            model = joined(small_model(), shake=shake)
            with torch.no_grad():
                outputs.append(model.collaborate(features, types, links)["heatmap"])
        assert torch.equal(outputs[0][0], outputs[1][0]) and not torch.equal(outputs[0][1], outputs[1][1])

    def test_starts_as_a_type_like_the_deployed_one(self, frame: Frame) -> None:
        """The same encoder under a new name: identity adapters and copied fusion parameters give the same boxes."""
        model = joined(small_model(), "twin", AdapterConfig(agent=PILLARS))
        model.agent("twin").load_state_dict(model.agent("lidar64").state_dict())
        old = [model.encode(agent, "lidar64") for agent in frame.agents]
        new = [model.encode(agent, "twin") for agent in frame.agents]
        assert old[1].feature is not None and new[1].feature is not None
        assert torch.equal(old[1].feature, new[1].feature)
        close_boxes(model.detect(old[0], new[1:]), model.detect(old[0], old[1:]))
        close_boxes(model.detect(new[0], old[1:]), model.detect(old[0], old[1:]))

    def test_adapters_act_on_the_side_they_belong_to(self, frame: Frame) -> None:
        model = joined(small_model())
        ego, other = model.encode(frame.agents[0], "lidar64"), model.encode(frame.agents[1], "lidar16")
        boxes = model.detect(ego, [other])
        shaken(model.receivers["lidar16"], 0.3)
        received = model.encode(frame.agents[1], "lidar16")
        assert other.feature is not None and received.feature is not None
        assert torch.equal(received.feature, other.feature), "the receiver's adapter is not the sender's business"
        assert not same_boxes(model.detect(ego, [other]), boxes)
        shaken(model.senders["lidar16"], 0.3)
        sent = model.encode(frame.agents[1], "lidar16")
        assert sent.feature is not None and not torch.equal(sent.feature, other.feature)

    def test_the_received_adapter_acts_on_its_own_type_only(self, frame: Frame) -> None:
        """In inference it is not even computed for the others; training says the same with one shape for all steps."""
        model = joined(small_model())
        shaken(model.receivers["lidar16"], 0.5)
        features, types = torch.randn(3, CHANNELS, 16, 16), ["lidar64", "lidar16", "lidar64"]
        links = links_between([frame.agents[0].pose] * 3, [0], [[1, 2]])
        seen: list[int] = []
        handle = model.receivers["lidar16"].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
        with torch.no_grad():
            _, inference = model.receive(features, features, types, links)
        _, training = model.receive(features, features, types, links)
        handle.remove()
        assert seen == [1, 2]
        torch.testing.assert_close(inference.features, training.features)
        assert torch.equal(inference.features[0, 1], training.features[0, 1])
        torch.testing.assert_close(inference.features[0, 1], features[2])
        assert not torch.allclose(inference.features[0, 0], features[1])

    def test_the_received_adapter_does_not_touch_the_ego_itself(self, frame: Frame) -> None:
        model = joined(small_model())
        before = model.detect(model.encode(frame.agents[0], "lidar16"))
        shaken(model.receivers["lidar16"], 0.5)
        assert same_boxes(model.detect(model.encode(frame.agents[0], "lidar16")), before)

    def test_cells_a_newcomer_does_not_see_stay_unseen(self) -> None:
        model = joined(small_model("maximum"), shake=0.5)
        features = torch.rand(2, CHANNELS, *GRID.shape)
        links = links_between([Pose.planar(0, 0, 0), Pose.planar(9, 0, 0)], [0], [[1]])
        with torch.no_grad():
            _, received = model.receive(features, features, ["lidar64", "lidar16"], links)
        assert not received.features[0, 0][:, ~received.visible[0, 0]].any() and not received.visible.all()

    @pytest.mark.parametrize("fusion", FUSIONS)
    def test_into_any_fusion(self, fusion: str, frame: Frame) -> None:
        model = joined(small_model(fusion))
        assert model.known_types() == ["lidar16", "lidar64"] and model.joined == {"lidar16": NEWCOMER}
        assert len(model.detect(model.encode(frame.agents[0], "lidar16"))) > 0

    def test_twice_is_refused(self) -> None:
        model = joined(small_model())
        state = state_copy(model)
        for name in ("lidar16", "lidar64"):
            with pytest.raises(ConfigError, match=f"'{name}' has already joined"):
                model.join(name, NEWCOMER)
        assert same_state(model.state_dict(), state)

    def test_like_an_unknown_type_is_refused(self) -> None:
        model = small_model()
        with pytest.raises(ConfigError, match="did you mean 'lidar64'"):
            model.join("lidar16", AdapterConfig(agent=SLICES, like="lidar46"))
        assert model.known_types() == ["lidar64"] and "lidar16" not in model.agents

    @pytest.mark.parametrize("name", ["lidar.16", "", "l" * 33])
    def test_a_name_that_cannot_be_is_refused(self, name: str) -> None:
        with pytest.raises(HeatError):
            small_model().join(name, NEWCOMER)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"agent": PartConfig(part="lidar_slizes")},
            {"agent": SLICES, "before": PartConfig(part="hetero_awair")},
            {"agent": SLICES, "received": PartConfig(part="multi_cognitive", settings={"rang": 3})},
        ],
    )
    def test_a_wrong_part_is_refused_and_nobody_has_joined(self, wrong: dict[str, PartConfig]) -> None:
        model = small_model()
        state = state_copy(model)
        with pytest.raises(ConfigError, match="did you mean"):
            model.join("lidar16", AdapterConfig(**wrong))
        assert same_state(model.state_dict(), state) and model.known_types() == ["lidar64"]
        model.join("lidar16", NEWCOMER)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", plugins.available("codecs"))
def test_the_codec_is_a_setting(codec: str, frame: Frame) -> None:
    model = small_model(codec=codec, codebook=CodebookConfig())
    message = model.encode(frame.agents[0], "lidar64")
    assert message.codec == codec and unpack(pack(message)).codec == codec


@pytest.mark.parametrize(
    "wrong",
    [
        {"fusion": PartConfig(part="hetero_grap")},
        {"head": PartConfig(part="centre")},
        {"codec": "int9"},
        {"agents": {"lidar64": PartConfig(part="lidar_pilar")}},
        {"agents": {"lidar64": PartConfig(part="lidar_pillar", settings={"max_point": 3})}},
    ],
)
def test_an_unknown_part_gets_the_nearest(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        Collaboration(model_config(**wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"half_extent_m": 12.5},  # not a whole number of cells
        {"half_extent_m": 12.0},  # 15 cells: the neck halves the grid
        {"half_extent_y_m": 12.0},
        {"cell_m": 0.0},
        {"channels": 0},
        {"channels": -3},
        {"backbone_blocks": -1},
        {"neck_channels": 0},
        {"agents": {}},
        {"agents": {"lidar.64": PILLARS}},
        {"agents": {"l" * 33: PILLARS}},
    ],
)
def test_settings_that_make_no_model_are_refused_when_it_is_built(wrong: dict[str, object]) -> None:
    with pytest.raises((HeatError, ValueError)) as caught:
        Collaboration(model_config(**wrong))
    assert isinstance(caught.value, HeatError) or type(caught.value).__name__ == "ValidationError", repr(caught.value)


def test_defaults_make_a_model() -> None:
    model = Collaboration(ModelConfig())
    assert model.grid.shape == (64, 64) and model.known_types() == ["lidar64"]
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_500_000


def test_a_grid_may_be_longer_than_wide(frame: Frame) -> None:
    model = small_model("maximum", half_extent_y_m=6.4)
    ego, *others = (model.encode(agent, "lidar64") for agent in frame.agents)
    assert ego.feature is not None and ego.feature.shape == (CHANNELS, 8, 16)
    found = model.detect(ego, others)
    assert len(found) > 0 and np.abs(found.boxes[:, 1]).max() < 8


def test_in_order_puts_rows_back() -> None:
    by_type = {"b": torch.tensor([[1.0], [3.0]]), "a": torch.tensor([[0.0], [2.0], [4.0]])}
    assert in_order(by_type, ["a", "b", "a", "b", "a"]).flatten().tolist() == [0, 1, 2, 3, 4]
    assert in_order({"a": torch.zeros(0, 1)}, []).shape == (0, 1)


def test_parts_live_under_the_names_that_packs_rely_on(model: Collaboration) -> None:
    top = {name for name, _ in model.named_children()}
    assert top == {"agents", "senders", "receivers", "detectors", "backbone", "fusion", "neck", "head"}
    assert set(model.senders["lidar16"]) == {"before", "after"} and isinstance(model.receivers["lidar16"], nn.Module)


def test_an_agent_on_bare_ground_runs_through(model: Collaboration) -> None:
    empty = agent_frame(np.zeros((0, 3)), SENSORS)
    assert np.isfinite(model.detect(model.encode(empty, "lidar16"), [model.encode(empty, "camera")]).boxes).all()
