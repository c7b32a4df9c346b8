"""Parameters, seconds and memory."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from heatv2x.evaluation.cost import Stopwatch, count_parameters, peak_memory, tensor_memory


def resident_bytes_now() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_shared_and_frozen_parameters() -> None:
    first, second = nn.Linear(3, 4), nn.Linear(3, 4)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    count = count_parameters(nn.Sequential(first, second, nn.BatchNorm1d(4)))
    assert count.total == 12 + 4 + 4 + 8
    assert count.trainable == count.total - 4


def test_only_blocks_count_and_they_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {"cpu": 0.0, "wall": 0.0}
    monkeypatch.setattr(time, "process_time", lambda: clocks["cpu"])
    monkeypatch.setattr(time, "perf_counter", lambda: clocks["wall"])
    monkeypatch.setattr(os, "times", lambda: SimpleNamespace(children_user=0.0, children_system=0.0))

    def pass_by(cpu: float, wall: float) -> None:
        clocks["cpu"] += cpu
        clocks["wall"] += wall

    watch = Stopwatch()
    with watch:
        pass_by(cpu=1, wall=2)
    pass_by(cpu=50, wall=60)
    with watch:
        pass_by(cpu=3, wall=4)
    with watch:  # asleep
        pass_by(cpu=0, wall=10)
    assert (watch.cpu_s, watch.wall_s) == (4, 16)


def test_the_clocks_are_those_of_this_process() -> None:
    with Stopwatch() as watch:
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass
    assert watch.cpu_s >= 0.03 and watch.wall_s > 0


def test_seconds_of_a_finished_child_count() -> None:
    work = "import time\nwhile time.process_time() < 0.15: pass"
    with Stopwatch() as watch:
        subprocess.run([sys.executable, "-c", work], check=True)
    assert watch.cpu_s > 0.1


def test_a_running_stopwatch_cannot_be_entered() -> None:
    watch = Stopwatch()
    with watch, pytest.raises(RuntimeError, match="already running"), watch:
        pass
    with watch:
        pass


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory()
    now = resident_bytes_now()
    # fresh pages from the system: the allocator may have some of its own left
    held = mmap.mmap(-1, before.resident_bytes - now + 40_000_000)
    np.frombuffer(held, np.uint8)[:] = 1
    assert 20e6 < peak_memory().resident_bytes - before.resident_bytes < 80e6
    del held
    assert peak_memory().resident_bytes > before.resident_bytes + 20e6, "a peak stays"
    assert (before.cuda_bytes is None) == (not torch.cuda.is_available())


def test_tensor_memory_is_the_most_that_was_held_at_once() -> None:
    there_before = torch.ones(1000)

    def work() -> None:
        first = there_before * 2
        second = first * 2
        del first
        third = second * 2
        del second, third

    assert tensor_memory(work) == pytest.approx(8000, abs=200)
    assert tensor_memory(lambda: torch.ones(1000).sum()) == pytest.approx(4000, abs=200)
