"""The speed benchmark: what a frame, a training step and an evaluation cost, each measured in a process of its own.

CPU seconds beside matrix products of the same process, so that other machines and other work on this one fall out of
ratios. A measurement that is finished is kept until all are: an interrupted run goes on, a finished one starts anew.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

import heatv2x
from heatv2x.core.config import Config, nearest
from heatv2x.core.workers import Tell
from heatv2x.evaluation.rows import machine
from heatv2x.model.published_types import TYPES
from studies import frame_speed, matching_speed, step_speed
from studies.cells import Cell, Content, run_cells
from studies.frame_speed import Build, Precision, Repeats, Variant
from studies.speed_models import MIXED, MODELS

BUILDS: tuple[Build, ...] = ("plain", "optimised")
"""The ways to run a network, the one that is meant for use last."""


class SpeedConfig(Config):
    """Attributes:
    out: where finished measurements lie until all are there.
    docs: where the page, the figure and the JSON are written.
    models: which networks are timed.
    agents: how many agents are in a frame, the ego included.
    threads: of torch; more than one is measured in small frames only.
    objects: how many objects the heads are made to find.
    least, most: rounds of one measurement.
    seconds: no further round begins after so many CPU seconds, once there are `least`.
    steps: networks whose training steps are timed, too.
    compiled: networks that are run through torch.compile, too.
    mixed: time one frame with one agent of each published type, too.
    frames, boxes: how much average precision is taken of; detections and ground truth have as many boxes each.
    loop_frames: frames that go through the polygon loops; their time is scaled up.
    seed: of weights, sweeps and boxes.
    """

    out: Path = Path("runs/bench/speed")
    docs: Path = Path("docs/benchmarks")
    models: tuple[str, ...] = pydantic.Field(("published", "heatv2x", "demo"), min_length=1)
    agents: tuple[int, ...] = pydantic.Field((1, 2, 3, 5, 10), min_length=1)
    threads: tuple[int, ...] = pydantic.Field((1, 2), min_length=1)
    objects: int = pydantic.Field(45, gt=0)
    least: int = pydantic.Field(3, gt=0)
    most: int = pydantic.Field(7, gt=0)
    seconds: float = pydantic.Field(30.0, ge=0)
    steps: tuple[str, ...] = ("published", "heatv2x", "demo")
    compiled: tuple[str, ...] = ("published", "heatv2x")
    mixed: bool = True
    frames: int = pydantic.Field(10_000, gt=0)
    boxes: int = pydantic.Field(100, gt=0)
    loop_frames: int = pydantic.Field(50, gt=0)
    seed: int = 0

    @pydantic.model_validator(mode="after")
    def _possible(self) -> SpeedConfig:
        for field in ("models", "steps", "compiled"):
            for name in getattr(self, field):
                if name not in MODELS:
                    raise ValueError(f"{field}: unknown network '{name}'; {nearest(name, MODELS)}")
        if list(self.agents) != sorted(set(self.agents)) or self.agents[0] < 1:
            raise ValueError(f"agents: counts go up from 1, got {', '.join(map(str, self.agents))}")
        if min(self.threads) < 1:
            raise ValueError(f"threads: at least 1, got {', '.join(map(str, self.threads))}")
        if self.most < self.least:
            raise ValueError(f"most={self.most} is below least={self.least}")
        return self

    @property
    def cells(self) -> Path:
        """One JSON per finished measurement."""
        return self.out / "measured"

    @property
    def repeats(self) -> Repeats:
        """Of one measurement."""
        return Repeats(self.least, self.most, self.seconds)


def quick(config: SpeedConfig) -> SpeedConfig:
    """So little of everything that it only shows that every number can be had; the long options are left out."""
    out = config.out.with_name(f"{config.out.name}_quick")
    small = {"agents": (1, 2, 3), "least": 1, "most": 2, "seconds": 5.0, "frames": 500, "loop_frames": 5}
    left_out = {"steps": ("heatv2x",), "compiled": (), "mixed": False}
    return config.model_copy(update={"out": out, "docs": out, **small, **left_out})


def run_speed(config: SpeedConfig, tell: Tell) -> dict[str, Content]:
    """Measure what is not measured yet; gives all contents by name."""
    cells = list(cells_of(config))
    total, spent = round(sum(cell.seconds for cell in cells)), 0.0
    contents: dict[str, Content] = {}
    for cell in cells:
        tell("whole benchmark", round(spent), total)
        # one at a time, and each in a process of its own: its peak memory is its own
        contents |= run_cells([cell], config.cells, 1, lambda what, done, of: _without_cells(tell, what, done, of))
        spent += cell.seconds
    tell("whole benchmark", total, total)
    return contents


def forget(config: SpeedConfig) -> None:
    """Drop the finished measurements: the page holds them now, and the next run is a new one."""
    shutil.rmtree(config.cells, ignore_errors=True)


def cells_of(config: SpeedConfig) -> Iterator[Cell]:
    """Every measurement, the most asked for first."""
    for variant in variants_of(config):
        counts = config.agents if variant.threads == 1 else config.agents[:2]
        yield _frames(config, variant, counts)
    if config.mixed:
        for precision in precisions():
            yield _frames(config, Variant(MIXED, BUILDS[-1], precision), (len(TYPES),))
    for name in config.steps:
        for precision in precisions():
            variant = Variant(name, "plain", precision)
            step = (MODELS[name].config(), variant, 2, config.repeats, config.seed)
            yield _cell(f"step/{name}/{precision}", step_speed.measure_step, step, _HEAVY.get(name, 4))
    frames = (config.frames, config.boxes, config.loop_frames, config.seed)
    yield _cell("average_precision", matching_speed.measure_matching, frames, 5 + config.frames / 500)
    if compiler() is not None:
        for name in config.compiled:
            for precision in precisions():
                yield _frames(config, Variant(name, "compiled", precision), config.agents[1:2] or config.agents)


def variants_of(config: SpeedConfig) -> Iterator[Variant]:
    """Ways to run the networks: every build and precision on one thread, the fastest of a large grid on more."""
    for name in config.models:
        for build in BUILDS:
            for precision in precisions():
                yield Variant(name, build, precision)
    for threads in sorted(set(config.threads) - {1}):
        for name in (name for name in config.models if MODELS[name].same_grid):
            yield Variant(name, BUILDS[-1], precisions()[-1], threads)


def precisions() -> tuple[Precision, ...]:
    """Those that the processor multiplies natively."""
    return ("float32", "bfloat16") if machine()["bfloat16"] else ("float32",)


def compiler() -> str | None:
    """The C++ compiler that torch.compile would call."""
    return next((found for name in ("g++", "clang++") if (found := shutil.which(name))), None)


_HEAVY = {"published": 60.0, "heatv2x": 15.0, MIXED: 80.0}
"""Rough CPU seconds of a measurement, for the time left."""


def _frames(config: SpeedConfig, variant: Variant, counts: tuple[int, ...]) -> Cell:
    arguments = (
        MODELS[variant.model].config(), variant, counts, config.repeats, config.objects, config.seed
    )  # fmt: skip
    measure = frame_speed.measure_compiled_frame if variant.build == "compiled" else frame_speed.measure_frame
    name = f"frames/{variant.model}/{variant.build}/{variant.precision}/{variant.threads}"
    seconds = 4 + _HEAVY.get(variant.model, 0.5) * sum(counts) * (1 + config.least) / 80
    return _cell(name, measure, arguments, seconds + 40 * (variant.build == "compiled"))


def _cell(name: str, work: Any, arguments: tuple[Any, ...], seconds: float) -> Cell:
    """A result holds for the very code that was measured."""
    return Cell(name, work, arguments, {"code": code_digest(), "arguments": repr(arguments)}, seconds=seconds)


@functools.cache
def code_digest() -> str:
    """Short hash of the package's modules."""
    digest = hashlib.sha256()
    for path in sorted(Path(heatv2x.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _without_cells(tell: Tell, what: str, done: int, of: int) -> None:
    """Progress of a measurement; that of the cells, one by one, is not the benchmark's."""
    if what != "whole study":
        tell(what.partition(": ")[2], done, of)
