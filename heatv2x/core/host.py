"""Process-wide settings that make inference faster and change no result: freed memory is kept, idle threads sleep.

A frame allocates the same few large maps again and again. By default glibc hands their memory back each time, and every
first touch of a fresh page costs more than the arithmetic done on it. Importing the library sets nothing: the command
line sets both (`set_up_process`), `deploy.optimised` the first.
"""

from __future__ import annotations

import ctypes
import os

SWITCH = "HEATV2X_KEEP_MEMORY"
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEEP, _STEP = 2**31 - 1, 2**26  # bytes: of freed memory that is kept, and that are fetched at a time


def set_up_process() -> None:
    """Settings for a process that runs nothing but HeatV2X; they must come before torch is imported.

    Idle OpenMP threads sleep instead of spinning, unless OMP_WAIT_POLICY says otherwise (on shared cores this is worth
    a factor of three), and freed memory is kept. Processes started from this one inherit the first.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed; the process then holds on to its peak of memory.

    Returns:
        Whether it was told: not where another allocator is used, and not with HEATV2X_KEEP_MEMORY=0 in the environment.
    """
    if os.environ.get(SWITCH) == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    settings = {_TRIM_THRESHOLD: _KEEP, _MMAP_THRESHOLD: _KEEP, _TOP_PAD: _STEP}
    told = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(told)
