"""A model rearranged for use alone says what the model says, to a stated tolerance, and refuses to be trained."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heatv2x.agents.base import Agent
from heatv2x.core import plugins
from heatv2x.core.plugins import PartConfig
from heatv2x.formats.carla import from_carla
from heatv2x.interop.heal.checkpoint import HealImport, convert
from heatv2x.link.message import pack, unpack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.deploy import Precision, optimised
from heatv2x.model.links import links_of
from heatv2x.model.vehicle import Vehicle
from heatv2x.structures import AgentFrame, PointCloud, Pose
from tests.golden_weights import GOLDEN, reference_weights
from tests.scene_factory import SmallScenes, joined, same_state, small_model, state_copy

FUSIONS = plugins.available("fusion")
AGENTS = plugins.available("agents")
TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}  # see `error`
SENSORS = ("lidar64", "lidar32", "lidar16", "camera")


def published() -> Collaboration:
    """HEAL's m1 network on 51.2 m with the weights of the reference vectors."""
    settings = HealImport(half_extent_m=25.6, half_extent_y_m=25.6, codec="raw")
    return convert(reference_weights("m_e2e_m1_state_dict_shapes.json"), settings).model.eval()


def dense(model: Collaboration, frames: list[AgentFrame], agent_type: str = "lidar64") -> dict[str, Tensor]:
    """Dense predictions of the first agent that hears the others."""
    with torch.no_grad():
        own, *others = (model.encode(frame, agent_type) for frame in frames)
        features = torch.stack([message.feature for message in (own, *others) if message.feature is not None])
        links = links_of(own, others, model.grid)
        return model.collaborate(features, [agent_type] * len(frames), links)


def settled(model: Collaboration, frames: list[AgentFrame]) -> Collaboration:
    """The model with the statistics of its own maps in its normalisations, as training leaves them.

    With drawn statistics the maps of a deep image trunk grow a thousandfold, and its depth distribution is a choice
    between near ties, which falls differently with every processor's rounding.
    """
    agent = model.agents["own"]
    norms = [module for module in agent.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean of what it sees
        norm.reset_running_stats()
    agent.train()
    with torch.no_grad():
        agent(agent.collate([agent.prepare(frame) for frame in frames]))
    return model.eval()


def assert_near(found: dict[str, Tensor], wanted: dict[str, Tensor], precision: Precision) -> None:
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        assert error(found[name], values, precision) <= TOLERANCES[precision], name


def error(found: Tensor, wanted: Tensor, precision: Precision) -> float:
    """In float32 the largest difference over the largest value, in bfloat16 the root mean squares of the two."""
    order = math.inf if precision == "float32" else 2
    difference, size = (torch.linalg.vector_norm(x, order) for x in (found.float() - wanted, wanted))
    return float(difference / size)


@pytest.fixture(scope="module")
def frames() -> list[AgentFrame]:
    """Three agents of one scene with every sensor."""
    return list(SmallScenes().read(0, SENSORS).agents)


class TestSays:
    """The same as the model, nearly."""

    @pytest.mark.parametrize("precision", TOLERANCES)
    @pytest.mark.parametrize("part", FUSIONS)
    def test_with_every_fusion(self, part: str, precision: Precision, frames: list[AgentFrame]) -> None:
        model = small_model(part)
        if model.fusion.selects and precision == "bfloat16":
            pytest.skip("a choice among nearly equal cells falls another way")
        assert_near(dense(optimised(model, precision).networks, frames), dense(model, frames), precision)

    @pytest.mark.parametrize("precision", TOLERANCES)
    @pytest.mark.parametrize("part", AGENTS)
    def test_with_every_kind_of_agent(self, part: str, precision: Precision, frames: list[AgentFrame]) -> None:
        for seed in range(3):
            model = settled(small_model("maximum", agents={"own": PartConfig(part=part)}, seed=seed), frames)
            fast = optimised(model, precision)
            wanted, found = (one.encode(frames[0], "own").feature for one in (model, fast))
            assert wanted is not None and found is not None and found.dtype == torch.float32
            assert error(found, wanted, precision) <= TOLERANCES[precision], f"seed {seed}"

    @pytest.mark.parametrize("part", [part for part in AGENTS if "camera" in part])
    def test_depth_is_not_rounded(self, part: str) -> None:
        model = optimised(small_model("maximum", agents={"own": PartConfig(part=part)}), "bfloat16").networks
        kinds = [module for module in model.agents["own"].modules() if isinstance(module, Agent) and module.exact]
        assert kinds
        for kind in kinds:
            rounded = {name.split(".")[0] for name, x in kind.named_parameters() if x.dtype == torch.bfloat16}
            assert rounded and "depth" in kind.exact and not rounded & set(kind.exact)

    def test_with_newcomers(self, frames: list[AgentFrame]) -> None:
        model = joined(small_model(), shake=0.1)
        fast = optimised(model, "float32")
        own = model.encode(frames[0], "lidar64")
        messages = [model.encode(frame, "lidar16") for frame in frames[1:]]
        wanted, found = model.detect(own, messages), fast.detect(own, messages)
        np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)

    @pytest.mark.parametrize("precision", TOLERANCES)
    def test_the_reference_network(self, precision: Precision) -> None:
        with np.load(GOLDEN / "m_e2e_m1.npz") as file:
            vectors = dict(file)
        flip = np.float32([1, -1, 1, 1])
        frames = [
            AgentFrame(
                number,
                "000000",
                Pose(from_carla(vectors["poses"][number].tolist())),
                {"lidar64": PointCloud(vectors[f"points{number}"] * flip)},
            )
            for number in range(2)
        ]
        maps = dense(optimised(published(), precision).networks, frames, "lidar64_pillars")
        wanted = {
            ours: torch.from_numpy(vectors[f"{theirs}_preds"])
            for ours, theirs in (("score", "cls"), ("box", "reg"), ("direction", "dir"))
        }
        assert_near(maps, wanted, precision)


class TestMessages:
    def test_of_both_are_each_others(self, frames: list[AgentFrame]) -> None:
        model = small_model()
        fast = optimised(model, "float32")
        assert fast.feature_space == model.feature_space
        for sender, ego in ((model, fast), (fast, model)):
            arrived = unpack(pack(sender.encode(frames[1], "lidar64")), ego.feature_space)
            assert len(ego.detect(ego.encode(frames[0], "lidar64"), [arrived])) > 0


class TestOnlyForUse:
    def test_the_model_itself_is_untouched(self) -> None:
        model = small_model()
        model.train()
        before = state_copy(model)
        optimised(model, "bfloat16")
        assert same_state(before, model.state_dict()) and model.training
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_nothing_is_left_to_normalise(self) -> None:
        fast = optimised(published(), "float32")
        assert not [name for name, part in fast.networks.named_modules() if isinstance(part, nn.BatchNorm2d)]

    def test_it_is_a_vehicle_and_no_model(self) -> None:
        fast = optimised(small_model())
        assert isinstance(fast, Vehicle) and not isinstance(fast, nn.Module)
        assert not fast.networks.training
        assert not any(parameter.requires_grad for parameter in fast.networks.parameters())


def test_only_what_asks_for_bfloat16_gets_it() -> None:
    for part in ("hetero_graph", "maximum"):
        model = small_model(part)
        assert optimised(model, "float32").networks.fusion.precision == torch.float32
        assert optimised(model, "bfloat16").networks.fusion.precision == torch.bfloat16
        assert model.fusion.precision == torch.float32
