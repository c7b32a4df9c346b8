"""Freed memory is kept: seen by the pages that a process touches for the first time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from heatv2x import memory

PAGES_TOUCHED = """
import resource, numpy, heatv2x
def work():
    for _ in range(50):
        maps = [numpy.ones(400_000, numpy.float32) for _ in range(4)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(switch: str) -> int:
    environment = {**os.environ, memory.SWITCH: switch}
    command = [sys.executable, "-c", PAGES_TOUCHED]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has another allocator")
def test_maps_of_the_next_frame_touch_no_fresh_pages() -> None:
    assert pages("1") < 100
    assert pages("0") > 10_000  # 50 x 4 maps of 390 pages


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.SWITCH, "0")
    assert memory.keep_freed_memory() is False


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(memory.SWITCH, raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert memory.keep_freed_memory() is False
