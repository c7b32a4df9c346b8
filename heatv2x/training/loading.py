"""Batches for the training loop: prepared where they are used, or ahead of time by worker processes.

A batch is a pure function of (seed, step), so the weights are the same bit for bit however many workers prepare them,
and after a run was killed and continued. Workers are forked: they share the frames that a pool holds in memory.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from heatv2x.errors import ConfigError, HeatError
from heatv2x.nn.move import pinned
from heatv2x.training.stage import Stage

_AHEAD = 2  # batches that each worker prepares before they are asked for


@dataclass
class Prepared:
    """One batch, or why there is none.

    Attributes:
        batch: what the stage's losses take, on the CPU.
        cpu_seconds: CPU time of the worker that prepared it; 0 if that was this process.
        error: what went wrong; raised where the batch is used.
    """

    batch: Any
    cpu_seconds: float = 0.0
    error: HeatError | None = None

    def pin_memory(self) -> Prepared:
        """Copy to page-locked memory, so that copies to a GPU need no waiting; `DataLoader` calls this."""
        return replace(self, batch=pinned(self.batch))


class _Steps(Dataset[Prepared]):
    """The batches of all steps, by number; `rounds` of them make one step."""

    def __init__(self, stage: Stage, seed: int, count: int, rounds: int) -> None:
        self.stage, self.seed, self.count, self.rounds = stage, seed, count, rounds

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Prepared:
        started = time.process_time()
        try:
            batch = self.stage.batch(np.random.default_rng([self.seed, *divmod(number, self.rounds)]))
        except HeatError as error:  # as a value: DataLoader would turn it into another kind of error
            return Prepared(None, error=error)
        return Prepared(batch, time.process_time() - started)


def batches(
    stage: Stage,
    seed: int,
    first: int,
    count: int,
    workers: int = 0,
    device: torch.device | None = None,
    rounds: int = 1,
) -> Generator[Prepared]:
    """The batches from number `first` to `count - 1`.

    Args:
        rounds: batches of one step; each is drawn from the seed, its step and its place in the step.
        workers: processes that prepare them ahead; 0 prepares each when it is asked for.
        device: where they will be used; for a GPU they are laid into page-locked memory.

    Raises:
        ConfigError: more workers than the process may use cores, or the system cannot fork.
        HeatError: a file is broken, or a worker was ended by the system.
    """
    source = _Steps(stage, seed, count, rounds)
    if workers == 0:
        for number in range(first, count):
            prepared = source[number]
            if prepared.error is not None:
                raise prepared.error
            yield replace(prepared, cpu_seconds=0.0)
        return
    _check(workers)
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=range(first, count),
        num_workers=workers,
        prefetch_factor=_AHEAD,
        pin_memory=device is not None and device.type == "cuda",
        multiprocessing_context="fork",
    )
    number = first
    try:
        for prepared in loader:
            if prepared.error is not None:
                raise prepared.error
            yield prepared
            number += 1
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise HeatError(
            f"A worker process that prepares batches died at step {number // rounds}: {str(error).splitlines()[0]}\n"
            "  Way out: the usual cause is lack of memory (or of /dev/shm, in a container): set a smaller workers= or "
            "hold_data=false, then start the same command again; it continues from the last checkpoint"
        ) from error


def _check(workers: int) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers > cores:
        raise ConfigError(
            f"workers={workers}, but only {cores} cores are available to this process: set workers={cores} or fewer"
        )
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ConfigError(f"workers={workers} needs a system that can fork processes (Linux): set workers=0")
