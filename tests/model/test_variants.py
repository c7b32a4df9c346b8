"""The same networks with another fusion, or on another grid."""

from __future__ import annotations

import numpy as np
import pytest

from heatv2x.core.config import build
from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import ModelConfig
from heatv2x.model.variants import exchanging, fusing_by, reaching
from heatv2x.structures import Frame
from tests.scene_factory import NEWCOMER, SLICES, SmallScenes, joined, same_state, small_model

CROPPED = PartConfig(part="pyramid", settings={"blocks": (1, 1, 1), "enlarged": 16, "crop": {"camera": (2.0, 1.0)}})


@pytest.fixture(scope="module")
def frame() -> Frame:
    return SmallScenes(frames=1).read(0, ("lidar64", "lidar16"))


@pytest.fixture(params=["hetero_graph", CROPPED], ids=["hetero_graph", "pyramid"])
def model(request: pytest.FixtureRequest) -> Collaboration:
    """A base of two kinds of fusion, one of which computes alone, too, with a newcomer."""
    return joined(small_model(request.param), config=NEWCOMER.model_copy(update={"agent": SLICES}), shake=0.1)


def test_late_fusion_merges_what_each_agent_finds_alone(model: Collaboration, frame: Frame) -> None:
    late = exchanging(model, "boxes")
    types = ("lidar64", "lidar16", "lidar64")
    ego, *others = (late.encode(agent, name) for agent, name in zip(frame.agents, types, strict=True))
    assert late.payload == "boxes" and ego.feature is None and ego.boxes is not None and len(ego.boxes) > 1
    assert not late.receivers
    alone = model.detect(model.encode(frame.agents[0], "lidar64"))
    np.testing.assert_allclose(np.sort(late.detect(ego).scores), np.sort(alone.scores)[-len(late.detect(ego)) :])
    found = late.detect(ego, others)
    assert len(found) > len(late.detect(ego))
    assert model.exchange.name == "features", "the model itself stays as it was"


def test_early_fusion_sends_points(model: Collaboration, frame: Frame) -> None:
    early = exchanging(model, "points")
    ego, *others = (early.encode(agent, "lidar64") for agent in frame.agents)
    assert ego.points is not None and len(early.detect(ego, others)) > 0


def test_a_fusion_of_features_must_fit_what_comes_after_it(model: Collaboration) -> None:
    if model.config.fusion.part == "hetero_graph":
        assert fusing_by(model, "maximum").config.fusion.part == "maximum"
        with pytest.raises(ConfigError, match="'disco' has parameters"):
            fusing_by(model, "disco")
        return
    with pytest.raises(ConfigError, match="'pyramid' cannot be replaced by 'maximum'") as caught:
        fusing_by(model, "maximum")
    assert "fusion=late or fusion=early" in str(caught.value)


def test_a_longer_grid_keeps_the_networks(model: Collaboration, frame: Frame) -> None:
    far = reaching(model, 25.6, 12.8)
    assert same_state(dict(model.state_dict()), dict(far.state_dict()))
    assert far.grid.shape == (16, 32) and far.feature_space != model.feature_space
    ego, *others = (far.encode(agent, "lidar64") for agent in frame.agents)
    assert ego.feature is not None and ego.feature.shape[-2:] == (16, 32)
    assert np.abs(far.detect(ego, others).boxes[:, 0]).max() > 14
    if model.config.fusion.part == "pyramid":
        assert far.config.fusion.settings["crop"] == {"camera": (4.0, 1.0)}


def test_back_on_the_old_grid_everything_is_as_before(model: Collaboration, frame: Frame) -> None:
    back = reaching(reaching(model, 25.6, 25.6), 12.8, 12.8)
    assert back.feature_space == model.feature_space
    first, second = (each.detect(each.encode(frame.agents[0], "lidar64")) for each in (model, back))
    assert np.array_equal(first.boxes, second.boxes) and np.array_equal(first.scores, second.scores)


def test_a_grid_that_does_not_fit_is_refused(model: Collaboration) -> None:
    with pytest.raises(ConfigError):
        reaching(model, 13.0, 12.8)


@pytest.mark.parametrize(("fusion", "exchange"), [("late", "boxes"), ("early", "points")])
def test_ways_to_exchange_were_fusions_once(fusion: str, exchange: str) -> None:
    with pytest.raises(ConfigError, match=f"fusion: '{fusion}' is not a fusion of features.*exchange={exchange}"):
        build(ModelConfig, {"fusion": {"part": fusion}})


def test_what_is_the_default_is_not_written() -> None:
    """Packs and records that were made before there was a choice stay what they are."""
    assert "exchange" not in ModelConfig().model_dump(mode="json")
    config = ModelConfig(exchange="points")
    assert build(ModelConfig, config.model_dump(mode="json")) == config
