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

from heatv2x.core import plugins
from heatv2x.core.config import build
from heatv2x.errors import ConfigError
from heatv2x.evaluation import job as eval_job
from heatv2x.evaluation import sight
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.report.collect import collect_scenes
from heatv2x.evaluation.roster import Roster
from heatv2x.evaluation.view_config import ViewConfig
from heatv2x.link.channel import ChannelConfig
from heatv2x.link.message import pack, unpack
from heatv2x.model.assembly import adapter_pack, add_adapter, add_agent, agent_pack, base_pack
from heatv2x.model.codebook import CodebookConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.deploy import optimised
from heatv2x.model.packs import write_pack
from heatv2x.model.variants import exchanging, reaching
from heatv2x.model.vehicle import Vehicle
from heatv2x.nn.move import find_device, to_device
from heatv2x.structures import SENSORS, Boxes3D
from heatv2x.training import jobs
from heatv2x.training.distillation import start_from_teacher
from heatv2x.training.feature_cache import fill_cache
from heatv2x.training.job_config import (
    BackwardConfig,
    BaseConfig,
    CollaborativeConfig,
    EncoderConfig,
    FullConfig,
    LocalConfig,
)
from heatv2x.training.lhft import LocalFineTuning
from heatv2x.training.loop import train
from heatv2x.training.stage import Stage
from tests.formats.opv2v_writer import write_opv2v_h
from tests.other_device import Away, MixedDevicesError, other_device
from tests.scene_factory import (
    NEWCOMER,
    SmallScenes,
    agent_frame,
    build_agent,
    joined,
    model_config,
    pool_of,
    same_state,
    small_model,
)
from tests.training.stages import FAST, SCENES, WINDOW
from tests.training.test_distributed import NAMES
from tests.training.test_distributed import build as build_stage
from tests.training.test_recipes import STREET

# torch warns of copies to what it takes for a meta tensor, although they are made
pytestmark = pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
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
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # its 10 bits are no rounding of float32
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


def found(model: Vehicle, share_boxes: bool = False) -> Boxes3D:
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
    """LHFT with the teacher's features and the closed form, made where the model is."""
    torch.manual_seed(0)
    model = joined(small_model(shake=0.05)).to(device)
    pool = pool_of(model, ["lidar64", "lidar16"])
    cache = fill_cache(model, pool, ["lidar64"], ["lidar16"], SCENES, 0, teacher=("lidar64", "own"))
    assert cache.teacher is not None
    start_from_teacher(model, "lidar16", cache.features["lidar16"], cache.teacher, 0)
    return LocalFineTuning(model, "lidar16", cache, 3, WINDOW, 1, distill=2.0)


def test_distillation_and_caches(place: Place) -> None:
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
        with pytest.raises(ConfigError, match="process 3 of this machine has no GPU of its own, only 2 exist"):
            find_device(wanted)

    def test_jobs_take_the_setting(self) -> None:
        assert build(BaseConfig, {"data": "x", "device": "cpu"}).device == "cpu"
        with pytest.raises(ConfigError, match="device"):
            build(BaseConfig, {"data": "x", "device": "gpu"})


class TestJoining:
    """What joins a model goes where the model is."""

    @pytest.mark.parametrize("fusion", plugins.available("fusion"))
    def test_a_newcomer_can_be_heard_at_once(self, fusion: str, place: Place) -> None:
        here = found(joined(small_model(fusion)))
        model = joined(small_model(fusion).to(place.device))
        assert {tensor.device.type for tensor in model.state_dict().values()} == {place.device.type}
        as_sure(place, found(model), here)

    def test_packs_join_a_model_there_and_are_written_from_there(self, place: Place, tmp_path: Path) -> None:
        source = joined(small_model(), shake=0.1)
        packs = {"agent": agent_pack(source, "lidar16", {}), "adapter": adapter_pack(source, "lidar16", {})}
        there = small_model().to(place.device)
        add_adapter(there, packs["adapter"])
        add_agent(there, packs["agent"])
        as_sure(place, found(there), found(source))
        packs["base"] = base_pack(source, {})
        again = {"agent": agent_pack(there, "lidar16", {}), "adapter": adapter_pack(there, "lidar16", {})}
        again["base"] = base_pack(there, {})
        for kind, pack_ in again.items():
            written = write_pack(pack_, tmp_path / f"{kind}.safetensors").read_bytes()
            assert written == write_pack(packs[kind], tmp_path / f"{kind}_here.safetensors").read_bytes()

    @pytest.mark.parametrize("exchange", ["boxes", "points", "features"])
    def test_other_ways_to_exchange(self, exchange: str, place: Place) -> None:
        model = joined(small_model("maximum" if exchange == "features" else "hetero_graph"), shake=0.05)
        here = found(exchanging(model, exchange) if exchange != "features" else reaching(model, 51.2, 51.2))
        model.to(place.device)
        there = exchanging(model, exchange) if exchange != "features" else reaching(model, 51.2, 51.2)
        assert next(there.parameters()).device.type == place.device.type
        as_sure(place, found(there), here)


@pytest.mark.parametrize("codec", plugins.available("codecs"))
def test_every_codec_takes_features_from_there(codec: str, place: Place) -> None:
    frame = SmallScenes().read(0, ["lidar64"]).agents[0]

    def sent(model: Collaboration) -> bytes:
        model.use_codec(codec)
        return pack(model.encode(frame, "lidar64"))

    book = CodebookConfig(stages=2, entries=16)
    here, there = sent(small_model(codebook=book)), sent(small_model(codebook=book).to(place.device))
    assert place.tolerance > 0 or here == there
    assert unpack(there).map is not None


@pytest.mark.parametrize("fusion", [*plugins.available("fusion"), "selecting"])
def test_a_report_shows_what_was_computed_there(fusion: str, place: Place) -> None:
    def scenes(device: torch.device) -> Any:
        model = joined(small_model("hetero_graph" if fusion == "selecting" else fusion), shake=0.1).to(device)
        if fusion == "selecting":
            model.fusion.sends_at_most(0.5)
        alone = Roster("lidar64", "lidar64", drop=True)
        kept = [Evaluator(SmallScenes(), limit=1, keep=[0]).evaluate(model, cast).scenes for cast in (alone, ROSTER)]
        return collect_scenes(model, kept[0], kept[1]).to_json()

    here, there = scenes(torch.device("cpu")), scenes(place.device)
    assert here["scenes"][0]["agents"] and (place.tolerance > 0 or here == there)


@pytest.mark.parametrize("fusion", ["hetero_graph", "pyramid"])
def test_a_deployed_model(fusion: str, place: Place) -> None:
    """Maps lie in another order in memory here, which the pretended device loses, so it rounds differently, too."""
    model = joined(small_model(fusion), shake=0.05)
    here = found(optimised(model, "float32"))
    there = optimised(model.to(place.device), "float32")
    assert there.networks.device.type == place.device.type
    as_sure(Place(place.device, max(place.tolerance, 1e-4)), found(there), here)


@needs_cuda
@pytest.mark.parametrize("fusion", ["hetero_graph", "pyramid"])
def test_a_deployed_model_in_bfloat16_on_a_gpu(fusion: str) -> None:
    """The pretended device cannot change the type of a parameter in place."""
    model = joined(small_model(fusion), shake=0.05)
    frames = SmallScenes().read(0, ["lidar64", "lidar16"]).agents
    here = optimised(model, "bfloat16").encode(frames[0], "lidar64").feature
    fast = optimised(model.to("cuda"), "bfloat16")
    there = fast.encode(frames[0], "lidar64").feature
    assert here is not None and there is not None
    assert float((there.cpu() - here).norm() / here.norm()) < 0.03
    assert np.isfinite(found(fast).boxes).all()


def test_a_view_draws_what_is_detected_there(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight, "find_device", lambda _: place.device)
    model = joined(small_model(), shake=0.1)
    packs = [base_pack(model, {}), *(agent_pack(model, name, {}) for name in ("lidar64", "lidar16"))]
    packs.append(adapter_pack(model, "lidar16", {}))
    paths = [write_pack(each, tmp_path / f"{number}.safetensors") for number, each in enumerate(packs)]
    config = build(ViewConfig, {"packs": paths, "ego": "lidar64", "senders": ["lidar16"]})
    watcher = sight.Watcher(SmallScenes(), config)
    assert next(watcher.model.parameters()).device.type == place.device.type
    alone, together = watcher.look(0)
    assert not alone.heard and together.heard


class TestJobs:
    """From a dataset to packs, an adapted newcomer and a score, with the networks there."""

    def test_train_adapt_evaluate(self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = tmp_path / "data"
        write_opv2v_h(data, STREET)
        monkeypatch.setattr(jobs, "find_device", lambda _: place.device)
        monkeypatch.setattr(eval_job, "find_device", lambda _: place.device)
        quick = {"data": data, "steps": 1, "batch_size": 1, "frames": 1, "checkpoint_every": 0, "precision": "float32"}
        model = model_config().model_dump(mode="json")
        base = build(BaseConfig, {**quick, "model": model, "out": tmp_path / "base"})
        jobs.train_base(base)
        newcomer = {**quick, "name": "lidar16", "agent": NEWCOMER.agent.model_dump(mode="json"), "model": model}
        encoder = build(EncoderConfig, {**newcomer, "out": tmp_path / "encoder"})
        jobs.train_encoder(encoder)
        packs = [tmp_path / "base" / "lidar64.safetensors", tmp_path / "encoder" / "lidar16.safetensors"]
        shared = {**quick, "base": tmp_path / "base" / "base.safetensors", "agents": packs, "newcomer": "lidar16"}
        shared["window"] = WINDOW.model_dump()
        local = build(LocalConfig, {**shared, "out": tmp_path / "local", "keep_cache": True})
        kept = {"adapter": local.out / "adapter.safetensors", "cache": local.out / "cache.safetensors"}
        gcft = build(CollaborativeConfig, {**shared, **kept, "out": tmp_path / "gcft"})
        backward = build(BackwardConfig, {**shared, "out": tmp_path / "backward"})
        full = build(FullConfig, {**shared, "out": tmp_path / "full"})
        steps: list[tuple[Any, Callable[[Any], Any]]] = [(local, jobs.adapt_local), (gcft, jobs.adapt_collaborative)]
        for config, job in (*steps, (backward, jobs.align_backward), (full, jobs.full_finetune)):
            assert job(config).record.steps == 1
        everything = (shared["base"], *packs, tmp_path / "gcft" / "adapter.safetensors")
        settings = {"data": data, "split": "train", "packs": everything, "ego": "lidar64", "senders": "lidar16"}
        rows = eval_job.run_eval(build(eval_job.EvalConfig, {**settings, "frames": 1, "out": tmp_path / "eval"}))
        assert rows[0]["n_ground_truth"] > 0
