"""Parameters, seconds and memory."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from heatv2x.metrics.cost import Stopwatch, count_parameters, peak_memory, tensor_memory


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def resident_bytes_now() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_shared_and_frozen_parameters() -> None:
    first, second = nn.Linear(3, 4), nn.Linear(3, 4)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    count = count_parameters(nn.Sequential(first, second, nn.BatchNorm1d(4)))
    assert count.total == 12 + 4 + 4 + 8
    assert count.trainable == count.total - 4


def test_only_blocks_count_and_they_add_up() -> None:
    watch = Stopwatch()
    with watch:
        spin(0.03)
    spin(0.2)
    with watch:
        spin(0.03)
    assert 0.055 < watch.cpu_s < 0.15
    with watch:
        time.sleep(0.05)
    assert watch.cpu_s < 0.15
    assert watch.wall_s > 0.1


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
