"""The method, for a batch: one line from sensors to boxes, the same in training and for one vehicle on a road."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heatv2x.core import plugins
from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError, HeatError
from heatv2x.fusion.base import Received
from heatv2x.link.message import pack, unpack
from heatv2x.model.codebook import CodebookConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import AdapterConfig, ModelConfig
from heatv2x.model.links import Links, in_order, links_of
from heatv2x.structures import AgentFrame, Boxes3D, Frame, Pose
from tests.model.comparing import FUSIONS, SENSORS, batch_of, close_boxes, links_between, same_boxes
from tests.scene_factory import (
    CAMERA,
    CHANNELS,
    GRID,
    NEWCOMER,
    PILLARS,
    SLICES,
    SmallScenes,
    changed,
    joined,
    model_config,
    same_state,
    shaken,
    small_model,
    state_copy,
)


def test_what_a_sender_does_not_cover_is_zero() -> None:
    """Also at the border, where interpolation still reaches a cell whose centre lies outside."""
    model, features = small_model(), torch.rand(2, CHANNELS, *GRID.shape) + 1
    links = links_between([Pose.planar(0, 0, 0), Pose.planar(5.3, 2.1, 0.3)], [0], [[1]])
    _, received = model.receive(features, features, ["lidar64"] * 2, links)
    covered = received.visible[0, 0]
    assert covered.any() and not covered.all()
    assert not received.features[0, 0][:, ~covered].any() and received.features[0, 0][:, covered].all()


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
