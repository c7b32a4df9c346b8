"""The same code on another device: on CUDA where there is one, and always on the pretended one of `tests.other_device`.

The pretended device computes what the CPU does, so there results are equal to the last bit; what CUDA computes differs
by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heatv2x import plugins
from heatv2x.channel import ChannelConfig
from heatv2x.config import build
from heatv2x.errors import ConfigError
from heatv2x.evaluation import Evaluator
from heatv2x.message import pack, unpack
from heatv2x.model import Collaboration
from heatv2x.nn.move import find_device, to_device
from heatv2x.roster import Roster
from heatv2x.structures import SENSORS, Boxes3D
from heatv2x.training.cache import fill_cache
from heatv2x.training.job_config import BaseConfig
from heatv2x.training.lesson import start_from_lesson
from heatv2x.training.local import LocalFineTuning
from heatv2x.training.loop import train
from heatv2x.training.stage import Stage
from tests.other_device import Away, MixedDevicesError, other_device
from tests.scene_factory import SmallScenes, agent_frame, build_agent, joined, pool_of, same_state, small_model
from tests.training.stages import FAST, SCENES, WINDOW
from tests.training.test_distributed import NAMES
from tests.training.test_distributed import build as build_stage

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ONE_STEP = FAST.model_copy(update={"steps": 1, "checkpoint_every": 1})
ROSTER = Roster("lidar64", ("lidar16", "lidar64"))


@dataclass
class Place:
    """A device, and how far its numbers may be from the CPU's."""

    device: torch.device
    tolerance: float

    def same(self, there: Tensor, here: Tensor) -> None:
        """Compare two tensors."""
        assert self.tolerance == 0 or there.device.type == "cuda"
        there = there.detach().cpu()
        if self.tolerance == 0:
            assert torch.equal(there, here.detach())
        else:
            torch.testing.assert_close(there, here.detach(), rtol=self.tolerance, atol=self.tolerance)


@pytest.fixture(params=["other", pytest.param("cuda", marks=needs_cuda)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where to go."""
    if request.param == "cuda":
        yield Place(torch.device("cuda", 0), 2e-3)
        return
    with other_device() as device:
        yield Place(device, 0.0)


MIXED: list[Callable[[Tensor, Tensor], Any]] = [
    lambda away, here: away + here,
    lambda away, here: torch.cat([away, here]),
    lambda away, here: torch.where(here > 0, away, away),
    lambda away, here: away.masked_fill(here > 0, 0.0),
    lambda away, here: away.clone().index_add_(0, here.long(), away),
    lambda away, here: here[away.long()],
    lambda away, here: away.numpy(),
    lambda away, here: np.asarray(away),
    lambda away, here: torch.stack([away[0], here[0]]),
]
FINE: list[Callable[[Tensor, Tensor], Any]] = [
    lambda away, here: away + here.to(away.device),
    lambda away, here: away.cpu().numpy() + here.numpy(),
    lambda away, here: away * here[0] + 2,
    lambda away, here: away[here.long()],
    lambda away, here: away.clone().copy_(here),
    lambda away, here: float(away.sum()),
]


class TestThePretendedDevice:
    """It has to refuse what CUDA refuses, or the tests below show nothing."""

    @pytest.mark.parametrize("work", MIXED)
    def test_mixing_is_refused(self, work: Callable[[Tensor, Tensor], Any], place: Place) -> None:
        away, here = torch.ones(1, device=place.device), torch.zeros(1)
        with pytest.raises((MixedDevicesError, RuntimeError, TypeError)):
            work(away, here)

    @pytest.mark.parametrize("work", FINE)
    def test_what_is_allowed(self, work: Callable[[Tensor, Tensor], Any], place: Place) -> None:
        work(torch.ones(1, device=place.device), torch.zeros(1))

    def test_gradients_are_there_too(self) -> None:
        with other_device() as device:
            weight = torch.nn.Parameter(torch.ones(2, device=device))
            (weight * torch.tensor([1.0, 2.0], device=device)).sum().backward()
            assert isinstance(weight.grad, Away) and weight.grad.cpu().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("kind", plugins.available("agents"))
def test_every_agent_encodes_and_learns(kind: str, place: Place) -> None:
    here, there = build_agent(kind), build_agent(kind).to(place.device)
    frame = agent_frame(np.array([[8.0, 5.0, -0.6]]), SENSORS)
    items = [here.prepare(frame)]
    place.same(there(to_device(there.collate(items), place.device)), here(here.collate(items)))
    here.train()
    there.train()
    (feature, extra), (far, more) = (
        agent.supervised(to_device(agent.collate(items * 2), device))
        for agent, device in ((here, torch.device("cpu")), (there, place.device))
    )
    (feature.square().mean() + extra).backward()
    (far.square().mean() + more).backward()
    place.same(more, extra)
    if place.tolerance == 0:  # batch statistics of two equal agents make a GPU's rounding large
        for one, other in zip(here.parameters(), there.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None and other.grad is not None:
                place.same(other.grad, one.grad)


def found(model: Collaboration, share_boxes: bool = False) -> Boxes3D:
    """What a lidar64 finds with two messages of lidar16, bytes in between."""
    frame = SmallScenes().read(0, ["lidar64", "lidar16"])
    ego = model.encode(frame.agents[0], "lidar64")
    messages = [unpack(pack(model.with_boxes(model.encode(a, "lidar16")))) for a in frame.agents[1:]]
    return model.detect(ego, model.refined(ego, messages), share_boxes)


def as_sure(place: Place, there: Boxes3D, here: Boxes3D) -> None:
    """Compare detections."""
    assert len(there) == len(here) > 0
    if place.tolerance == 0:
        assert np.array_equal(there.boxes, here.boxes)
    assert there.scores is not None and here.scores is not None
    np.testing.assert_allclose(there.scores, here.scores, atol=max(place.tolerance, 1e-9))


@pytest.mark.parametrize("fusion", plugins.available("fusion"))
def test_every_fusion_detects(fusion: str, place: Place) -> None:
    model = joined(small_model(fusion), shake=0.05)
    here = found(model, share_boxes=True)
    as_sure(place, found(model.to(place.device), share_boxes=True), here)


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_makes_a_step(name: str, place: Place, tmp_path: Path) -> None:
    """And its checkpoint goes on anywhere."""
    here, there, again = build_stage(name), build_stage(name), build_stage(name)
    there.model.to(place.device)
    wanted, record = train(here, ONE_STEP), train(there, ONE_STEP, tmp_path / "checkpoint.safetensors")
    assert record.curve[-1]["loss"] == pytest.approx(wanted.curve[-1]["loss"], rel=max(place.tolerance, 1e-12))
    assert record.trained_parameters == wanted.trained_parameters
    if place.tolerance == 0:
        for key, value in here.model.state_dict().items():
            place.same(there.model.state_dict()[key], value)
    train(again, ONE_STEP, tmp_path / "checkpoint.safetensors")
    assert same_state(again.model.state_dict(), {k: v.cpu() for k, v in there.model.state_dict().items()})


def taught(device: torch.device) -> Stage:
    """LHFT with the base's lesson and the closed form, made where the model is."""
    torch.manual_seed(0)
    model = joined(small_model(shake=0.05)).to(device)
    pool = pool_of(model, ["lidar64", "lidar16"])
    cache = fill_cache(model, pool, ["lidar64"], ["lidar16"], SCENES, 0, teacher=("lidar64", "own"))
    assert cache.lesson is not None
    start_from_lesson(model, "lidar16", cache.features["lidar16"], cache.lesson, 0)
    return LocalFineTuning(model, "lidar16", cache, 3, WINDOW, 1, distill=2.0)


def test_lessons_and_caches(place: Place) -> None:
    here, there = taught(torch.device("cpu")), taught(place.device)
    wanted, record = train(here, ONE_STEP), train(there, ONE_STEP)
    assert record.curve[-1]["distill"] == pytest.approx(
        wanted.curve[-1]["distill"], rel=max(10 * place.tolerance, 1e-9)
    )


@pytest.mark.parametrize("options", [{}, {"share_boxes": True, "refine_poses": True}])
def test_evaluation(options: dict[str, bool], place: Place) -> None:
    channel = ChannelConfig(sigma_m=0.3, sigma_deg=0.5)

    def evaluated(device: torch.device) -> Any:
        model = joined(small_model(), shake=0.1).to(device)
        return Evaluator(SmallScenes(), channel, limit=2, **options).evaluate(model, ROSTER)

    here, there = evaluated(torch.device("cpu")), evaluated(place.device)
    assert there.traffic.n_messages == here.traffic.n_messages > 0
    if place.tolerance == 0:
        assert (there.found, there.arrived) == (here.found, here.arrived)
    assert there.result.ap == pytest.approx(here.result.ap, abs=0.1 if place.tolerance else 0.0)


@needs_cuda
@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_on_a_gpu(name: str) -> None:
    stage = build_stage(name)
    stage.model.to("cuda")
    record = train(stage, FAST.model_copy(update={"precision": "bfloat16"}))
    assert record.precision == "bfloat16" and np.isfinite(record.curve[-1]["loss"])


class TestDevice:
    def fake(self, monkeypatch: pytest.MonkeyPatch, gpus: int, local_rank: int = 0) -> list[int]:
        chosen: list[int] = []
        functions = {"is_available": lambda: gpus > 0, "device_count": lambda: gpus, "set_device": chosen.append}
        monkeypatch.setattr(torch, "cuda", SimpleNamespace(**functions))
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        return chosen

    def test_auto_takes_a_gpu_if_there_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake(monkeypatch, gpus=0)
        assert find_device("auto") == find_device("cpu") == torch.device("cpu")
        chosen = self.fake(monkeypatch, gpus=2, local_rank=1)
        assert find_device("auto") == find_device("cuda") == torch.device("cuda", 1) and chosen == [1, 1]
        assert find_device("cpu") == torch.device("cpu")

    def test_no_gpu_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake(monkeypatch, gpus=0)
        with pytest.raises(ConfigError, match="device=cuda, but torch finds no GPU"):
            find_device("cuda")

    @pytest.mark.parametrize("wanted", ["auto", "cuda"])
    def test_more_processes_than_gpus_is_an_error(self, wanted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake(monkeypatch, gpus=2, local_rank=2)
        with pytest.raises(ConfigError, match="process 3 of this machine finds no GPU of its own, there are 2"):
            find_device(wanted)

    def test_jobs_take_the_setting(self) -> None:
        assert build(BaseConfig, {"data": "x", "device": "cpu"}).device == "cpu"
        with pytest.raises(ConfigError, match="device"):
            build(BaseConfig, {"data": "x", "device": "gpu"})
