"""Where something is measured, how long it takes there, and how long it had to take at least.

A floor is the least time that the device could need: the larger of operations over its measured bfloat16 matrix rate
and bytes over its measured copy rate (bytes read plus bytes written). Operations are convolutions and matrix products,
two per multiply-add. Bytes of inference: every parameter and every input once; of a training step: 40 per trained
parameter (AdamW reads and writes it, its gradient and both moments) and 8 per frozen one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
SHIPPED = ROOT / "heatv2x" / "model" / "pretrained"
RECIPES = ROOT / "heatv2x" / "training" / "recipes"
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
