"""What `gpu_check.py` measures; one function per section, each gives its rows to `keep` as soon as it has them.

A floor is the least time that the device could need: the larger of operations over its measured bfloat16 matrix rate
and bytes over its measured copy rate (bytes read plus bytes written). Operations are convolutions and matrix products,
two per multiply-add. Bytes of inference: every parameter and every input once; of a training step: 40 per trained
parameter (AdamW reads and writes it, its gradient and both moments) and 8 per frozen one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from heatv2x.bench import sweeps
from heatv2x.bench.frame_speed import compiled_parts
from heatv2x.bench.speed_models import MODELS, seeded
from heatv2x.config import build, read_recipe
from heatv2x.datasets.opv2v import Opv2v
from heatv2x.deploy import optimised
from heatv2x.evaluation import Evaluator
from heatv2x.message import pack, unpack
from heatv2x.metrics.cost import FlopCount
from heatv2x.model import Collaboration, links_of
from heatv2x.nn.move import to_device
from heatv2x.roster import Roster
from heatv2x.training import job_config, jobs
from heatv2x.training.stage import Stage
from heatv2x.world.build import build_world
from heatv2x.world.config import WorldConfig

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "heatv2x" / "shipped"
RECIPES = ROOT / "heatv2x" / "recipes"
Keep = Callable[[str, dict[str, Any]], None]


class NotRun(Exception):  # noqa: N818 - no error: a section that has no place here
    """A section that cannot run on this machine, and why."""


@dataclass(frozen=True)
class Place:
    """Where and how much.

    Attributes:
        cpu: leave CUDA alone.
        quick: smallest sizes.
        scratch: folder for the world, run folders and what sections tell each other.
    """

    cpu: bool
    quick: bool
    scratch: Path

    @property
    def device(self) -> torch.device:
        """What is measured."""
        return torch.device("cpu" if self.cpu else "cuda")

    @property
    def world(self) -> Path:
        """The synthetic world."""
        return self.scratch / "world"

    def needs_cuda(self) -> None:
        """End a section that has nothing to do on a CPU.

        Raises:
            NotRun: there is no CUDA device here.
        """
        if self.cpu:
            raise NotRun("needs a CUDA device")


def run(name: str, place: Place, keep: Keep) -> None:
    """Run one section."""
    if not place.cpu and not torch.cuda.is_available():
        raise RuntimeError("torch finds no CUDA device here; --cpu runs what needs none")
    SECTIONS[name](place, keep)


# --- machine --------------------------------------------------------------------------------------------------------


def ceilings(place: Place, keep: Keep) -> None:
    """What this machine multiplies and copies at most, on random data."""
    cuda = place.device.type == "cuda"
    keep("machine", {"device": torch.cuda.get_device_name() if cuda else "CPU", "torch": torch.__version__,
                     "python": sys.version.split()[0], "cores": os.cpu_count()})  # fmt: skip
    side = 8192 if cuda else 1024
    rates = {}
    for name, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16)):
        if name == "tf32" and not cuda:
            continue
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = (torch.randn(side, side, device=place.device).to(dtype) for _ in range(2))
        rates[name] = 2 * side**3 / seconds_of(lambda a=a, b=b: a @ b, place) / 1e12
        torch.backends.cuda.matmul.allow_tf32 = before
    here = torch.randn(2**28 if cuda else 2**24, device=place.device)
    there = torch.empty_like(here)
    copy = 2 * here.nbytes / seconds_of(lambda: there.copy_(here), place) / 1e9
    keep("rates", {**{f"{k} TFLOP/s": v for k, v in rates.items()}, "copy GB/s": copy})
    if cuda:
        host = torch.empty(2**26).pin_memory()
        keep("host to device", {"GB/s": host.nbytes / seconds_of(lambda: here[: 2**26].copy_(host), place) / 1e9})
    (place.scratch / "ceilings.txt").write_text(f"{rates['bfloat16'] * 1e12} {copy * 1e9}")


def floor_s(place: Place, flops: float, bytes_moved: float) -> float | None:
    """The least seconds by the measured ceilings; None where they were not measured."""
    path = place.scratch / "ceilings.txt"
    if not path.exists():
        return None
    multiply, copy = map(float, path.read_text().split())
    return max(flops / multiply, bytes_moved / copy)


def seconds_of(work: Callable[[], Any], place: Place, repeats: int = 20, warm_up: int = 3) -> float:
    """Median seconds of some work: by CUDA events, on a CPU by the clock."""
    repeats, warm_up = (3, 1) if place.quick else (repeats, warm_up)
    for _ in range(warm_up):
        work()
    found = []
    for _ in range(repeats):
        if place.device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            work()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def wall_of(work: Callable[[], Any], place: Place, repeats: int = 10) -> float:
    """Median seconds on the clock until the device has finished."""
    found = []
    for number in range(2 if place.quick else repeats + 2):
        start = time.perf_counter()
        work()
        if place.device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def peak_gib(place: Place) -> float | None:
    """Most memory of tensors on the device since it was reset."""
    return torch.cuda.max_memory_allocated() / 2**30 if place.device.type == "cuda" else None


# --- tests ----------------------------------------------------------------------------------------------------------


def tests(place: Place, keep: Keep) -> None:
    """The tests that a machine without CUDA skips."""
    place.needs_cuda()
    report = place.scratch / "tests.xml"
    workers = ["-n", str(min(6, os.cpu_count() or 1))] if _has("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=20", *workers, f"--junitxml={report}"]
    ended = subprocess.run([*command, "tests/test_cuda.py"], cwd=ROOT, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    on_cuda = sum("cuda" in (case.get("name") or "") or "gpu" in (case.get("name") or "") for case in cases)
    keep("pytest", {"cases": len(cases), "on CUDA": on_cuda, "failed": len(bad), "skipped": skipped})
    for case in bad:
        keep(f"FAILED {case.get('name')}", {"message": _message(case)})
    if ended.returncode or not on_cuda:
        raise RuntimeError(f"pytest ended with status {ended.returncode}, {len(bad)} failed")


def _message(case: ElementTree.Element) -> str:
    found = case.find("failure") if case.find("failure") is not None else case.find("error")
    return ((found.get("message") or "") if found is not None else "")[:300].replace("\n", " ")


def _has(module: str) -> bool:
    import importlib.util  # noqa: PLC0415 - only here

    return importlib.util.find_spec(module) is not None


# --- training -------------------------------------------------------------------------------------------------------


def world(place: Place, keep: Keep) -> None:
    """A small synthetic world with every sensor."""
    start = time.perf_counter()
    size = (
        {"train": 6, "validate": 0, "test": 2, "azimuth_steps": 120, "render_resolution": (32, 24)}
        if place.quick
        else {"train": 96, "validate": 0, "test": 24, "azimuth_steps": 1040}
    )
    workers = 2 if place.quick else max(1, min(10, (os.cpu_count() or 2) - 4))
    build_world(build(WorldConfig, {"out": place.world, "seed": 3, "workers": workers, **size}), lambda *_: None)
    keep("world", {"seconds": time.perf_counter() - start, "frames": size["train"] + size["test"], "workers": workers})


@dataclass
class Clock:
    """What was seen of a training's steps.

    Attributes:
        batch_s: seconds a step waited for its batch.
        ends: when steps ended.
        flops: operations of one step, backward and all.
    """

    batch_s: list[float]
    ends: list[float]
    flops: int = 0


@contextmanager
def watched() -> Iterator[Clock]:
    """Watch the steps of a training that runs in here: the loop is left as it is, its stage's methods are wrapped."""
    clock = Clock([], [])
    make_batch, forward = Stage.batch, Stage.forward
    counter = FlopCount()

    def batch(self: Stage, rng: np.random.Generator) -> Any:
        start = time.perf_counter()
        made = make_batch(self, rng)
        clock.batch_s.append(time.perf_counter() - start)
        return made

    def counted(self: Stage, content: Any) -> Tensor:
        if len(clock.batch_s) == 2 and not clock.flops:  # the second step: the first one makes kernels
            counter.__enter__()
        return forward(self, content)

    def ended(what: str, done: int, _: int) -> None:
        if what != "training":
            return
        if done == 2:
            counter.__exit__(None, None, None)
            clock.flops = counter.flops
        clock.ends.append(time.perf_counter())

    clock.ended = ended  # type: ignore[attr-defined]
    Stage.batch, Stage.forward = batch, counted  # type: ignore[method-assign]
    try:
        yield clock
    finally:
        Stage.batch, Stage.forward = make_batch, forward  # type: ignore[method-assign]


def trained(place: Place, keep: Keep, name: str, job: Callable[..., Any], config: Any) -> Any:
    """Run a job, and tell what its steps took."""
    if place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with watched() as clock:
        result = job(config, clock.ended)  # type: ignore[attr-defined]
    whole = time.perf_counter() - start
    steps = np.diff(clock.ends)[1:]  # without the first and the counted step
    waits = np.array(clock.batch_s[2:])
    curve = [point["loss"] for point in result.record.curve if "loss" in point]
    trainable = result.record.trained_parameters
    frozen = sum(parameter.numel() for parameter in result.model.parameters()) - trainable
    least = floor_s(place, clock.flops, 40 * trainable + 8 * frozen)
    typical = float(np.median(steps)) if len(steps) else None
    share = float(waits.sum() / steps.sum()) if len(steps) else None
    computing = None if typical is None else typical - float(np.median(waits))
    keep(name, {
        "steps": result.record.steps, "precision": result.record.precision, "s/step": typical,
        "waits for data": share, "s/step without": computing, "GFLOP/step": clock.flops / 1e9, "floor s": least,
        "x floor": computing / least if computing and least else None, "peak GiB": peak_gib(place),
        "loss": f"{curve[0]:.3g} to {curve[-1]:.3g}", "whole s": whole,
    })  # fmt: skip
    return result


def recipe(name: str, **changes: Any) -> dict[str, Any]:
    """A recipe's settings with changes."""
    return {**read_recipe(RECIPES / f"{name}.yaml"), **changes}


def where(place: Place, out: str, steps: int) -> dict[str, Any]:
    """Settings that all jobs here share."""
    return {"data": place.world, "out": place.scratch / out, "device": place.device.type, "checkpoint_every": 0,
            "steps": 3 if place.quick else steps}  # fmt: skip


def train_demo(place: Place, keep: Keep) -> None:
    """The demo's base."""
    config = build(job_config.BaseConfig, recipe("demo_base", **where(place, "demo_base", 300)))
    trained(place, keep, "demo base", jobs.train_base, config)


def adapt(place: Place, keep: Keep) -> None:
    """LHFT and GCFT of a LiDAR newcomer on the shipped base."""
    shared = {"base": SHIPPED / "base.safetensors", "newcomer": "lidar16", "like": "lidar64",
              "agents": [SHIPPED / "lidar64.safetensors", SHIPPED / "lidar16.safetensors"]}  # fmt: skip
    local = build(job_config.LocalConfig, {**shared, **where(place, "local", 80)})
    trained(place, keep, "LHFT", jobs.adapt_local, local)
    settings = {**shared, **where(place, "collaborative", 50), "adapter": local.out / "adapter.safetensors"}
    trained(place, keep, "GCFT", jobs.adapt_collaborative, build(job_config.CollaborativeConfig, settings))


def train_published(place: Place, keep: Keep) -> None:
    """Networks of the published size: the base, the pyramid, and newcomers' encoders."""
    if place.quick:
        raise NotRun("too large for a quick run")
    base = recipe("opv2v_h", **where(place, "opv2v_h", 30))
    trained(place, keep, "base opv2v_h", jobs.train_base, build(job_config.BaseConfig, base))
    camera = recipe("opv2v_h_camera_efficientnet", **where(place, "camera", 20))
    trained(place, keep, "camera EfficientNet", jobs.train_encoder, build(job_config.EncoderConfig, camera))
    pyramid = recipe("opv2v_h_pyramid", **where(place, "pyramid", 15))
    trained(place, keep, "base pyramid", jobs.train_base, build(job_config.BaseConfig, pyramid))
    voxels = recipe("opv2v_h_lidar32_voxels", **where(place, "voxels", 10))
    trained(place, keep, "LiDAR voxels", jobs.train_encoder, build(job_config.EncoderConfig, voxels))


def two_processes(place: Place, keep: Keep) -> None:
    """Training in two processes with a device each, against one process."""
    place.needs_cuda()
    if torch.cuda.device_count() < 2:
        raise NotRun("needs two CUDA devices")
    words = ["train", "base", "recipe=demo_base", f"data={place.world}", "steps=20", "precision=float32"]
    for number in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
        out = place.scratch / f"processes{number}"
        subprocess.run([sys.executable, *launcher, "-m", "heatv2x", *words, f"out={out}"], cwd=ROOT, check=True)
        record = jobs.read_json(out / "record.json")
        keep(f"{number} process(es)", {"loss": record["curve"][-1]["loss"], "wall s": record["wall_seconds"]})


# --- numbers --------------------------------------------------------------------------------------------------------


def numerics(place: Place, keep: Keep) -> None:
    """CPU against device: losses of the same steps, average precision of the shipped packs on the same frames."""
    steps = {"steps": 3 if place.quick else 10, "precision": "float32", "measure_every": 1}
    losses = {}
    tf32 = torch.backends.cudnn.allow_tf32
    for device, name in (("cpu", "cpu"), ("cuda", "cuda"), ("cuda", "cuda with TF32"))[: 1 if place.cpu else 3]:
        torch.backends.cudnn.allow_tf32 = "TF32" in name  # torch's default for convolutions
        settings = recipe("demo_base", **where(place, f"numerics {name}", 1)) | {"device": device, **steps}
        curve = jobs.train_base(build(job_config.BaseConfig, settings)).record.curve
        losses[name] = [point["loss"] for point in curve]
        keep(f"loss on {name}", {"first": losses[name][0], "last": losses[name][-1], "steps": len(curve)})
    torch.backends.cudnn.allow_tf32 = tf32
    cases = {"lidar64": ["lidar64"], "camera": ["lidar64", "camera"], "lidar16": ["lidar64", "lidar16"]}
    found = {}
    for device in dict.fromkeys(("cpu", place.device.type)):
        for sender, packs in cases.items():
            model = Collaboration.from_packs(*(SHIPPED / f"{name}.safetensors" for name in ("base", *packs)))
            evaluator = Evaluator(Opv2v(place.world, "test"), limit=2 if place.quick else 16)
            result = evaluator.evaluate(model.to(device), Roster("lidar64", sender))
            found[device, sender] = result.result.ap
            keep(f"AP of {sender} on {device}", {f"AP{100 * float(k):.0f}": v for k, v in result.result.ap.items()})
    if place.device.type == "cuda":
        apart = max(abs(a / b - 1) for a, b in zip(losses["cuda"], losses["cpu"], strict=True))
        ap = max(abs(found["cuda", s][k] - found["cpu", s][k]) for s in cases for k in found["cpu", s])
        keep("cuda against cpu", {"largest difference of a loss": apart, "largest difference of AP": ap})
        if apart > 0.02 or ap > 0.02:
            raise RuntimeError(f"CPU and CUDA disagree: losses by {apart:.3g} of their size, AP by {ap:.3g}")


@dataclass(frozen=True)
class Wanted:
    """What the first build of a network gave for some number of agents.

    Attributes:
        maps: dense predictions.
        flops: of the ego's frame as the network is written: its own encoder, fusion, neck and head.
    """

    maps: dict[str, Tensor]
    flops: int


def variants(model: Collaboration, place: Place) -> Iterator[tuple[str, Collaboration, bool]]:
    """The builds that are timed, and whether autocast is on."""
    yield "float32", model, False
    if place.device.type == "cuda":
        yield "bfloat16", model, True
    yield "deploy float32", optimised(model, "float32"), False
    yield "deploy bfloat16", optimised(model, "bfloat16"), False


def inference(place: Place, keep: Keep) -> None:
    """Milliseconds and frames per second of the ego, 1 to 10 agents, in every build."""
    names = ("demo",) if place.quick else ("heatv2x", "published")
    counts = (1, 2) if place.quick else (1, 2, 3, 5, 10)
    for name in names:
        plain = seeded(MODELS[name].config())
        frames = sweeps.agent_frames(max(counts), 0)
        reference: dict[int, Wanted] = {}
        for build_name, model, autocast in variants(plain.to(place.device), place):
            time_build(place, keep, f"{name}, {build_name}", model, autocast, frames, counts, reference)
        plain.cpu()


@torch.no_grad()
def time_build(
    place: Place,
    keep: Keep,
    title: str,
    model: Collaboration,
    autocast: bool,
    frames: list[Any],
    counts: tuple[int, ...],
    reference: dict[int, Wanted],
) -> None:
    """Time one build, and compare its maps with those of the first one."""
    kind = next(iter(model.config.agents))
    agent = model.agent(kind)
    inputs = to_device(agent.collate([agent.prepare(frames[0])]), place.device)
    weights = sum(p.nbytes for p in model.parameters())
    with torch.autocast(place.device.type, torch.bfloat16, enabled=autocast):
        encode = seconds_of(lambda: model.share(kind, agent(inputs)), place)
        own_flops = 0 if reference else flops_of(lambda: model.share(kind, agent(inputs)))
        messages = [model.encode(frame, kind) for frame in frames]
        arrived = [unpack(pack(message), model.feature_space) for message in messages]
        for count in counts:
            if place.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            own, heard = messages[0], arrived[1:count]
            features = torch.stack([m.feature.to(place.device) for m in (own, *heard) if m.feature is not None])
            links = links_of(own, heard, model.grid)

            def maps(features: Tensor = features, links: Any = links, count: int = count) -> dict[str, Tensor]:
                return model.collaborate(features, [kind] * count, links)

            fuse = seconds_of(maps, place)
            found = {key: value.float().cpu() for key, value in maps().items()}
            if count not in reference:
                reference[count] = Wanted(found, own_flops + flops_of(maps))
            wanted = reference[count]
            whole = wall_of(lambda own=own, heard=heard: model.detect(own, heard), place)
            prepared = wall_of(lambda: agent.collate([agent.prepare(frames[0])]), place, 3)
            least = floor_s(place, wanted.flops, weights + features.nbytes)
            keep(f"{title}, {count}", {
                "encode ms": 1e3 * encode, "fuse to head ms": 1e3 * fuse, "detect ms (clock)": 1e3 * whole,
                "prepare ms (CPU)": 1e3 * prepared, "frames/s, network": 1 / (encode + fuse),
                "frames/s, all": 1 / (prepared + encode + whole), "GFLOP": wanted.flops / 1e9,
                "floor ms": least and 1e3 * least, "x floor": least and (encode + fuse) / least,
                "peak GiB": peak_gib(place), "off by": off_by(found, wanted.maps),
            })  # fmt: skip


def flops_of(work: Callable[[], Any]) -> int:
    """Operations of some work."""
    with FlopCount() as counter:
        work()
    return counter.flops


def off_by(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest of the maps' root mean square differences, by the size of the map."""
    return max(float((found[k] - wanted[k]).norm() / wanted[k].norm()) for k in wanted)


def compiled(place: Place, keep: Keep) -> None:
    """torch.compile of what it is given in the speed benchmark."""
    place.needs_cuda()
    for name in ("heatv2x", "published"):
        model = seeded(MODELS[name].config()).to(place.device)
        frames, counts = sweeps.agent_frames(3, 0), (1, 3)
        reference: dict[int, Wanted] = {}
        time_build(place, keep, f"{name}, bfloat16", model, True, frames, counts, reference)
        for part in compiled_parts(model):
            part.compile()
        start = time.perf_counter()
        time_build(place, keep, f"{name}, compiled bfloat16", model, True, frames, counts, reference)
        keep(f"{name}, compiling", {"whole s": time.perf_counter() - start})


_ALL = (world, ceilings, tests, inference, numerics, train_demo, adapt, train_published, two_processes, compiled)
SECTIONS: dict[str, Callable[[Place, Keep], None]] = {section.__name__: section for section in _ALL}
