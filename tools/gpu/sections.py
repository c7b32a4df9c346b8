"""The sections of `tools/gpu_check.py` by name; each gives its rows to `keep` as soon as it has them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gpu.inference import compiled, inference
from gpu.machine import ceilings, tests, world
from gpu.place import Keep, NotRun, Place
from gpu.training import adapt, numerics, train_demo, train_published, two_processes

__all__ = ["NotRun", "Place", "run"]

_ALL = (world, ceilings, tests, inference, numerics, train_demo, adapt, train_published, two_processes, compiled)
SECTIONS: dict[str, Callable[[Place, Keep], None]] = {section.__name__: section for section in _ALL}


def run(name: str, place: Place, keep: Keep) -> None:
    """Run one section.

    Raises:
        NotRun: it has nothing to do on this machine.
        RuntimeError: there is no CUDA device, and the CPU was not asked for.
    """
    if not place.cpu and not torch.cuda.is_available():
        raise RuntimeError("torch finds no CUDA device here; --cpu runs what needs none")
    SECTIONS[name](place, keep)
