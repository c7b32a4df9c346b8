"""A newcomer's own detector: it travels in the agent pack, and speaks for the newcomer and for nobody else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from heatv2x.errors import HeatError, PackError
from heatv2x.model.assembly import adapter_pack, agent_pack, assemble, base_pack, encoder_of, with_detector
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.deploy import optimised
from heatv2x.model.packs import Pack, read_pack, write_pack
from heatv2x.model.reader import ReaderConfig
from heatv2x.model.variants import exchanging, reading, without_reader
from heatv2x.structures import Frame
from heatv2x.training.job_config import BackwardConfig, CollaborativeConfig, FullConfig
from heatv2x.training.newcomers import load_for_adaptation
from tests.scene_factory import SLICES, SmallScenes, joined, same_state, small_model


@pytest.fixture(scope="module")
def frame() -> Frame:
    return SmallScenes(frames=1).read(0, ("lidar64", "lidar16"))


@pytest.fixture(scope="module")
def alone() -> Collaboration:
    """The newcomer's own network, as `train encoder` leaves it."""
    return small_model("none", seed=5, agents={"lidar16": SLICES})


@pytest.fixture(scope="module")
def base() -> Collaboration:
    model = joined(small_model(), shake=0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return reading(model, ReaderConfig(hidden=8, min_score=0.0))


@pytest.fixture(scope="module")
def brought(alone: Collaboration) -> Pack:
    network = base_pack(alone, {})
    return with_detector(agent_pack(alone, "lidar16", {}), network)


@pytest.fixture(scope="module")
def packs(base: Collaboration, brought: Pack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packs")
    made = {
        "base": base_pack(base, {}),
        "lidar64": agent_pack(base, "lidar64", {}),
        "adapter": adapter_pack(base, "lidar16", {}),
        "lidar16": brought,
        "bare": encoder_of(brought),
    }
    return {name: write_pack(pack, folder / f"{name}.safetensors") for name, pack in made.items()}


@pytest.fixture(scope="module")
def model(packs: dict[str, Path]) -> Collaboration:
    return Collaboration.from_packs(*(packs[name] for name in ("base", "lidar64", "lidar16", "adapter")))


def test_its_boxes_are_those_of_its_own_network(model: Collaboration, alone: Collaboration, frame: Frame) -> None:
    said = model.encode(frame.agents[1], "lidar16").boxes
    wanted = exchanging(alone, "boxes").encode(frame.agents[1], "lidar16").boxes
    assert said is not None and wanted is not None and len(said) > 0
    np.testing.assert_allclose(said.boxes, wanted.boxes[: len(said)], atol=1e-5)


def test_features_and_everybody_else_stay_as_they_are(
    model: Collaboration, packs: dict[str, Path], frame: Frame
) -> None:
    bare = Collaboration.from_packs(*(packs[name] for name in ("base", "lidar64", "bare", "adapter")))
    assert not bare.detectors and model.feature_space == bare.feature_space
    for name in ("lidar64", "lidar16"):
        one, other = (each.encode(frame.agents[0], name) for each in (model, bare))
        assert torch.equal(one.feature, other.feature)  # type: ignore[arg-type]
        same = one.boxes is not None and other.boxes is not None and np.array_equal(one.boxes.boxes, other.boxes.boxes)
        assert same == (name == "lidar64") == (model.voice(name) == bare.voice(name))


def test_without_a_reader_nobody_asks_it(model: Collaboration, frame: Frame) -> None:
    plain = without_reader(model)
    assert list(plain.detectors) == ["lidar16"] and plain.encode(frame.agents[0], "lidar16").boxes is None


def test_a_deployed_copy_says_the_same(model: Collaboration, frame: Frame) -> None:
    slow, fast = (each.encode(frame.agents[1], "lidar16").boxes for each in (model, optimised(model, "float32")))
    assert slow is not None and fast is not None and len(slow) == len(fast)
    np.testing.assert_allclose(np.sort(fast.scores), np.sort(slow.scores), atol=2e-4)  # type: ignore[arg-type]


def test_in_its_own_network_there_is_no_second_one(alone: Collaboration, brought: Pack) -> None:
    again = assemble(Collaboration, base_pack(alone, {}), [brought])
    assert not again.detectors and same_state(again.state_dict(), alone.state_dict())


def test_it_leaves_when_the_encoder_trains(packs: dict[str, Path], tmp_path: Path) -> None:
    agents = (packs["lidar64"], packs["lidar16"])
    about = {"data": tmp_path, "base": packs["base"], "agents": agents, "newcomer": "lidar16", "out": tmp_path}
    assert list(load_for_adaptation(CollaborativeConfig(**about)).detectors) == ["lidar16"]
    for kind in (BackwardConfig, FullConfig):
        assert not load_for_adaptation(kind(**about), frozen_encoders=False).detectors


def test_a_detector_of_another_shape_is_refused(brought: Pack, packs: dict[str, Path], tmp_path: Path) -> None:
    detector = {**brought.config["detector"], "neck_channels": 32}
    wrong = write_pack(replace(brought, config={**brought.config, "detector": detector}), tmp_path / "w.safetensors")
    with pytest.raises(PackError, match=r"w\.safetensors.*do not fit"):
        Collaboration.from_packs(packs["base"], packs["lidar64"], wrong, packs["adapter"])


@pytest.mark.parametrize("nonsense", [[1], "x", None, {}])
def test_a_detector_that_is_none_is_refused(
    nonsense: object, brought: Pack, packs: dict[str, Path], tmp_path: Path
) -> None:
    wrong = replace(brought, config={**brought.config, "detector": nonsense})
    file = write_pack(wrong, tmp_path / "w.safetensors")
    with pytest.raises(HeatError, match=r"w\.safetensors"):
        Collaboration.from_packs(packs["base"], packs["lidar64"], file, packs["adapter"])


def test_an_unknown_setting_of_it_is_refused(brought: Pack, packs: dict[str, Path], tmp_path: Path) -> None:
    wrong = replace(brought, config={**brought.config, "detector": {**brought.config["detector"], "neckk": 1}})
    with pytest.raises(Exception, match="neckk"):
        Collaboration.from_packs(
            packs["base"], packs["lidar64"], write_pack(wrong, tmp_path / "w.safetensors"), packs["adapter"]
        )


def test_only_the_network_that_trained_the_encoder_becomes_its_detector(
    alone: Collaboration, base: Collaboration
) -> None:
    agent = agent_pack(alone, "lidar16", {})
    for other in (small_model("none", seed=6, agents={"lidar16": SLICES}), base):
        with pytest.raises(PackError, match="is not the network"):
            with_detector(agent, base_pack(other, {}))


def test_packs_hold_it_after_a_round_trip(packs: dict[str, Path], brought: Pack) -> None:
    again = read_pack(packs["lidar16"])
    assert again.config == brought.config and same_state(again.tensors, brought.tensors)
    assert {name.partition(".")[0] for name in again.tensors} >= {"detector"}
