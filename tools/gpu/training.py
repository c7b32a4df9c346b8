"""Training on the device: seconds per step, the share that waits for data, memory, and the floor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from gpu.place import RECIPES, ROOT, SHIPPED, Keep, NotRun, Place, floor_s, peak_gib
from heatv2x.core.config import build, read_recipe
from heatv2x.core.files import read_json
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.evaluation.cost import FlopCount
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.roster import Roster
from heatv2x.model.collaboration import Collaboration
from heatv2x.training import job_config, jobs, loop


@dataclass
class Clock:
    """What was seen of a training's steps.

    Attributes:
        asked: when the loop asked for each batch, and at last when there was none left, after the device had finished.
        waited: seconds until each batch was there.
        flops: operations of one step, backward and all.
    """

    asked: list[float]
    waited: list[float]
    flops: int = 0


@contextmanager
def watched() -> Iterator[Clock]:
    """Watch the steps of a training that runs in here, where the loop asks for its batches.

    The first step, which makes kernels anyway, is the one whose operations are counted.
    """
    clock, counter, source = Clock([], []), FlopCount(), loop.batches

    def batches(*arguments: Any) -> Iterator[Any]:
        for prepared in _timed(source(*arguments), clock):
            if len(clock.waited) == 1:
                counter.__enter__()
            yield prepared
            if len(clock.waited) == 1:
                counter.__exit__(None, None, None)
                clock.flops = counter.flops

    loop.batches = batches
    try:
        yield clock
    finally:
        loop.batches = source


def _timed(items: Iterator[Any], clock: Clock) -> Iterator[Any]:
    while True:
        clock.asked.append(time.perf_counter())
        try:
            item = next(items)
        except StopIteration:
            return
        clock.waited.append(time.perf_counter() - clock.asked[-1])
        yield item


def trained(place: Place, keep: Keep, name: str, job: Callable[..., Any], config: Any) -> Any:
    """Run a job, and tell what its steps took."""
    if place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with watched() as clock:
        result = job(config)
    whole = time.perf_counter() - start
    first = min(3, len(clock.waited) - 1)  # the steps before it make kernels, start workers and count
    asked, waited = clock.asked[first:], clock.waited[first:]
    typical = (asked[-1] - asked[0]) / len(waited)
    waiting = sum(waited) / len(waited)
    curve = [point["loss"] for point in result.record.curve if "loss" in point]
    trainable = result.record.trained_parameters
    frozen = sum(parameter.numel() for parameter in result.model.parameters()) - trainable
    least = floor_s(place, clock.flops, 40 * trainable + 8 * frozen)
    keep(name, {
        "steps": result.record.steps, "precision": result.record.precision, "workers": config.workers,
        "s/step": typical, "waits for data": waiting / typical, "s/step without": typical - waiting,
        "GFLOP/step": clock.flops / 1e9, "floor s": least, "x floor": least and (typical - waiting) / least,
        "peak GiB": peak_gib(place), "loss": f"{curve[0]:.3g} to {curve[-1]:.3g}", "whole s": whole,
    })  # fmt: skip
    return result


def recipe(name: str, **changes: Any) -> dict[str, Any]:
    """A recipe's settings with changes."""
    return {**read_recipe(RECIPES / f"{name}.yaml"), **changes}


def where(place: Place, out: str, steps: int, workers: int = 0) -> dict[str, Any]:
    """Settings that all jobs here share."""
    return {"data": place.world, "out": place.scratch / out, "device": place.device.type, "checkpoint_every": 0,
            "steps": 3 if place.quick else steps, "workers": workers}  # fmt: skip


def many_workers() -> int:
    """Processes that prepare batches ahead: most of the cores."""
    return max(1, min(12, (os.cpu_count() or 2) - 4))


def train_demo(place: Place, keep: Keep) -> None:
    """The demo's base, its batches prepared where they are used and by other processes."""
    for workers in (0,) if place.quick else (0, many_workers()):
        settings = recipe("demo_base", **where(place, f"demo_base_{workers}", 200, workers))
        trained(place, keep, f"demo base, workers={workers}", jobs.train_base, build(job_config.BaseConfig, settings))


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
    few, many = (0, many_workers())
    base, encoder = (job_config.BaseConfig, jobs.train_base), (job_config.EncoderConfig, jobs.train_encoder)
    rows: list[tuple[str, tuple[Any, Callable[..., Any]], int, int, dict[str, Any]]] = [
        ("opv2v_h", base, 30, many, {}),
        ("opv2v_h", base, 15, few, {}),
        ("opv2v_h_camera_efficientnet", encoder, 20, many, {"frames": 24}),
        ("opv2v_h_pyramid", base, 15, many, {}),
        ("opv2v_h_lidar32_voxels", encoder, 10, many, {}),
    ]
    for name, (config, job), steps, workers, changes in rows:
        settings = recipe(name, **where(place, f"{name}_{workers}", steps, workers), **changes)
        trained(place, keep, f"{name}, workers={workers}", job, build(config, settings))


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
        record = read_json(out / "record.json")
        keep(f"{number} process(es)", {"loss": record["curve"][-1]["loss"], "wall s": record["wall_seconds"]})


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
