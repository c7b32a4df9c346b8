"""What runs in a car: sensors and received messages in, boxes out."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from heatv2x.errors import ConfigError, HeatError, MessageError
from heatv2x.geometry.boxes import transform_boxes
from heatv2x.link.channel import disturbed
from heatv2x.link.message import MAX_BOXES, Message, pack, unpack
from heatv2x.link.pose_refinement import RefinementConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.structures import Boxes3D, Frame, Pose
from tests.model.comparing import FUSIONS, SENSORS, close_boxes, same_boxes
from tests.scene_factory import (
    CHANNELS,
    GRID,
    agent_frame,
    joined,
    same_state,
    small_model,
    state_copy,
)


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


def test_an_agent_on_bare_ground_runs_through(model: Collaboration) -> None:
    empty = agent_frame(np.zeros((0, 3)), SENSORS)
    assert np.isfinite(model.detect(model.encode(empty, "lidar16"), [model.encode(empty, "camera")]).boxes).all()
