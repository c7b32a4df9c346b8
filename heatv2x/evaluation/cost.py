"""What a method costs: parameters, floating-point operations, CPU seconds, memory."""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class ParameterCount:
    """Numbers in a network's parameters; a tensor shared by several parts counts once, buffers do not count."""

    trainable: int
    total: int


def count_parameters(network: nn.Module) -> ParameterCount:
    """Count the parameters of a network."""
    parameters = list(network.parameters())
    return ParameterCount(
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        total=sum(parameter.numel() for parameter in parameters),
    )


class FlopCount(TorchDispatchMode):
    """Floating-point operations of what runs inside its `with` block: two per multiply-add.

    Convolutions and matrix products count, by torch's own formulas; sums, maxima, softmax, interpolation do not. Works
    on the meta device, where nothing is computed. `torch.utils.flop_counter.FlopCounterMode` gives the same numbers,
    but it imports torch's compiler first, which takes seconds.

    Attributes:
        flops: operations so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled in here; True would import the compiler to say so


class Stopwatch:
    """Seconds spent inside its `with` blocks, which may be entered again and again: evaluation is left out that way.

    Attributes:
        cpu_s: processor seconds of this process, all its threads, and of child processes that *ended* inside a block
            (the system counts a child when it has been waited for: close data loaders before leaving the block).
        wall_s: seconds on the clock.
    """

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.wall_s = 0.0
        self._entered: tuple[float, float] | None = None

    def __enter__(self) -> Self:
        if self._entered is not None:
            raise RuntimeError("this stopwatch is already running")
        self._entered = (_cpu_seconds(), time.perf_counter())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._entered is not None
        self.cpu_s += _cpu_seconds() - self._entered[0]
        self.wall_s += time.perf_counter() - self._entered[1]
        self._entered = None


@dataclass(frozen=True)
class PeakMemory:
    """The most memory held so far.

    Attributes:
        resident_bytes: of this process since it started.
        cuda_bytes: tensors on the current CUDA device since the last `torch.cuda.reset_peak_memory_stats`; None
            without CUDA.
    """

    resident_bytes: int
    cuda_bytes: int | None


def peak_memory() -> PeakMemory:
    """Read the peak memory."""
    return PeakMemory(_peak_resident(), torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None)


def tensor_memory(work: Callable[[], object]) -> int:
    """Most bytes of CPU tensors that some work held at once on top of what was there before.

    Counted at torch's allocator, so the number is the same on every machine with the same kernels; a library's private
    scratch space and numpy arrays are not in it. The work runs once, slowed down by the profiler.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler writes lines to the terminal
    with profile(profile_memory=True) as recorded:  # torch.profiler does the same but imports the compiler first
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: (e["ts"], e["args"]["Ev Idx"]))
    held = most = 0
    for change in changes:
        held += change["args"]["Bytes"]
        most = max(most, held)
    return most


def _peak_resident() -> int:
    # Linux hands the peak of the parent down to a new process in getrusage, but not in /proc.
    status = Path("/proc/self/status")
    if status.exists():
        peak = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        if peak:
            return int(peak[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cpu_seconds() -> float:
    children = os.times()  # in steps of 10 ms; there is no finer clock for children
    return time.process_time() + children.children_user + children.children_system
