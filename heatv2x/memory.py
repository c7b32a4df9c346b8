"""Freed memory stays with the process, so that the next frame's maps need not be fetched from the system again.

A frame allocates the same few large maps again and again. By default glibc hands their memory back each time, and every
first touch of a fresh page costs more than the arithmetic done on it. Nothing here changes a result.
"""

from __future__ import annotations

import ctypes
import os

SWITCH = "HEATV2X_KEEP_MEMORY"
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEEP, _STEP = 2**31 - 1, 2**26  # bytes: of freed memory that is kept, and that are fetched at a time


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
