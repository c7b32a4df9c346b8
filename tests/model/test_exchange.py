"""Ways to exchange: selected features, boxes (late fusion), points (early fusion)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError, MessageError
from heatv2x.fusion.base import Received
from heatv2x.link.message import MAX_BOXES, Message, pack, unpack
from heatv2x.link.pose_refinement import RefinementConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import AdapterConfig
from heatv2x.model.links import links_of
from heatv2x.structures import Boxes3D, Frame, PointCloud, Pose
from tests.model.comparing import boxes_in, close_boxes, links_between, same_boxes
from tests.scene_factory import (
    CAMERA,
    CHANNELS,
    GRID,
    joined,
    small_model,
)


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
        assert same_boxes(found, boxes_in(model, trained))

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
