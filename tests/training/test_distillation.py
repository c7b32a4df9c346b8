"""The base teaches: features of its own encoder, a closed form to start from, and a loss that wants to be zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from heatv2x.adapters.hetero_aware import HeteroAware
from heatv2x.errors import ConfigError
from heatv2x.model.collaboration import Collaboration
from heatv2x.training.distillation import DistillationLoss, TeacherFeatures, as_seen_by, start_from_teacher, teacher_for
from heatv2x.training.feature_cache import FeatureCache, fill_cache
from heatv2x.training.lhft import LocalFineTuning
from heatv2x.training.loop import train
from tests.scene_factory import SmallScenes, joined, pool_of, small_model, state_copy
from tests.training.stages import FAST, SCENES, WINDOW

BOTH = ("lidar64", "lidar16")


@pytest.fixture
def model() -> Collaboration:
    return joined(small_model(shake=0.05))


def taught(model: Collaboration, whose: str) -> FeatureCache:
    pool = pool_of(model, BOTH, SmallScenes(frames=4, agents=3))
    return fill_cache(model, pool, [], ["lidar16"], SCENES, 0, teacher=("lidar64", whose))


def teacher_features_of(cache: FeatureCache) -> TeacherFeatures:
    assert cache.teacher is not None
    return cache.teacher


def test_the_own_sweep_under_the_name_of_the_teachers_sensor(model: Collaboration) -> None:
    frame = SmallScenes().read(0, ["lidar16"]).agents[0]
    seen = as_seen_by(model, "lidar64", frame)
    assert set(seen.lidars) == {"lidar64"} and seen.pose == frame.pose
    assert (seen.lidars["lidar64"].points == frame.lidars["lidar16"].points).all()


@pytest.mark.parametrize("whose", ["own", "companion"])
def test_the_teacher_says_what_the_base_would_send_from_there(model: Collaboration, whose: str) -> None:
    """Without augmentation the teacher's feature of an agent is that agent's message as a lidar64."""
    still = SCENES.model_copy(update={"mirror": False, "turn_rad": 0.0, "thin": 0.0})
    dataset = SmallScenes(frames=3, agents=3)
    cache = fill_cache(model, pool_of(model, BOTH, dataset), [], ["lidar16"], still, 0, teacher=("lidar64", whose))
    for index in range(3):
        for member, agent in enumerate(dataset.read(index, BOTH).agents):
            own = as_seen_by(model, "lidar64", dataset.read(index, ["lidar16"]).agents[member])
            sent = model.encode(own if whose == "own" else agent, "lidar64").feature
            assert sent is not None
            row = teacher_features_of(cache).shared[cache.first_row[index] + member].float()
            torch.testing.assert_close(row, sent, rtol=2e-3, atol=2e-3)


def test_a_companion_turns_with_the_newcomer(model: Collaboration) -> None:
    """Both sensors of a vehicle are augmented alike, or the target would be of another place."""
    turned = SCENES.model_copy(update={"turn_rad": 0.8, "thin": 0.0})
    pool = pool_of(model, BOTH, SmallScenes(frames=3, agents=3))
    # the same points for both sensors: then both teachers must say the same under the same turn
    pool.sensed["lidar16"] = [
        [_renamed(agent, "lidar64", "lidar16") for agent in agents] for agents in pool.sensed["lidar64"]
    ]
    own, companion = (
        teacher_features_of(fill_cache(model, pool, [], ["lidar16"], turned, 3, teacher=("lidar64", whose))).shared
        for whose in ("own", "companion")
    )
    assert torch.equal(own, companion) and own.float().abs().sum() > 0


def _renamed(agent, old: str, new: str):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(agent, lidars={new: agent.lidars[old]})


def test_who_teaches(model: Collaboration) -> None:
    assert teacher_for(model, "lidar16", "lidar64", "auto") == "own"
    assert teacher_for(model, "lidar16", "lidar64", "companion") == "companion"
    assert teacher_for(model, "lidar16", "lidar64", "none") == "none"


def test_a_camera_cannot_show_its_own_sweep(model: Collaboration, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.agent("lidar16"), "sensors", ("camera",))
    assert teacher_for(model, "lidar16", "lidar64", "auto") == "companion"
    with pytest.raises(ConfigError, match="teacher=companion"):
        teacher_for(model, "lidar16", "lidar64", "own")


def test_the_closed_form_finds_a_linear_truth(model: Collaboration) -> None:
    """If the base's encoder output is a 3x3 convolution of the newcomer's, the adapter becomes that convolution."""
    torch.manual_seed(0)
    channels = model.config.channels
    encoded = torch.randn(12, channels, *model.grid.shape)
    truth = nn.Conv2d(channels, channels, 3, padding=1).requires_grad_(False)
    wanted = truth(encoded)
    teacher = TeacherFeatures(wanted.half(), model.backbone.eval()(wanted).detach().half())
    start_from_teacher(model, "lidar16", encoded, teacher, seed=0)
    adapters = model.senders["lidar16"]
    assert isinstance(adapters, nn.ModuleDict)
    before, after = adapters["before"], adapters["after"]
    assert isinstance(before, HeteroAware) and isinstance(after, HeteroAware)
    torch.testing.assert_close(before.remix.weight, truth.weight, rtol=0, atol=0.02)
    identity = torch.eye(channels)[:, :, None, None]
    assert (after.remix.weight - identity).abs().mean() < 0.02


def test_the_closed_form_changes_only_the_newcomers_adapters(model: Collaboration) -> None:
    cache, before = taught(model, "own"), state_copy(model)
    start_from_teacher(model, "lidar16", cache.features["lidar16"], teacher_features_of(cache), seed=0)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    parts = {f"senders.lidar16.{side}.remix.{kind}" for side in ("before", "after") for kind in ("weight", "bias")}
    assert moved == parts


def test_the_loss_is_zero_for_the_teacher_itself_and_grows_with_the_distance(model: Collaboration) -> None:
    teacher = teacher_features_of(taught(model, "own"))
    loss, sample = DistillationLoss(model, teacher.shared), teacher.shared[:2].float()
    near, far = (float(loss(sample + shift, sample)) for shift in (0.1, 1.0))
    assert float(loss(sample, sample)) == 0 and 0 < near < far


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_local_fine_tuning_with_and_without_a_teacher(model: Collaboration, weight: float) -> None:
    stage = LocalFineTuning(model, "lidar16", taught(model, "own"), 3, WINDOW, min_hits=1, distill=weight)
    record = train(stage, FAST)
    assert ("distill" in record.curve[-1]) == (weight > 0)
    assert record.trained_parameters == sum(p.numel() for p in model.senders["lidar16"].parameters())
