"""Batches for the training loop: prepared where they are used, or ahead of time by worker processes.

A batch is a pure function of (seed, step), so the weights are the same bit for bit however many workers prepare them,
and after a run was killed and continued. Workers are forked: they share the frames that a pool holds in memory.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from heatv2x.errors import ConfigError, DataError, HeatError
from heatv2x.nn.move import pinned
from heatv2x.training.stage import Stage

log = logging.getLogger(__name__)
_DRAWS = 20  # so many batches in a row may hold a file that cannot be read
_AHEAD = 2  # batches that each worker prepares before they are asked for


@dataclass
class Prepared:
    """One batch, or why there is none.

    Attributes:
        batch: what the stage's losses take, on the CPU.
        cpu_seconds: CPU time of the worker that prepared it; 0 if that was this process.
        error: what went wrong; raised where the batch is used.
        bad_files: what could not be read before this batch was drawn in place of another.
    """

    batch: Any
    cpu_seconds: float = 0.0
    error: HeatError | None = None
    bad_files: tuple[str, ...] = ()

    def pin_memory(self) -> Prepared:
        """Copy to page-locked memory, so that copies to a GPU need no waiting; `DataLoader` calls this."""
        return replace(self, batch=pinned(self.batch))


class _Steps(Dataset[Prepared]):
    """The batches of all steps, by number; `rounds` of them make one step.

    With `skip` a batch with a file that cannot be read is drawn again, from the seed, its number and how often that
    happened: the same in every process and every run, as long as the same files are bad.
    """

    def __init__(self, stage: Stage, seed: int, count: int, rounds: int, skip: bool) -> None:
        self.stage, self.seed, self.count, self.rounds = stage, seed, count, rounds
        self.draws = _DRAWS if skip else 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Prepared:
        started = time.process_time()
        bad: list[str] = []
        for draw in range(self.draws):
            again = (draw,) if draw else ()
            try:
                batch = self.stage.batch(np.random.default_rng([self.seed, *divmod(number, self.rounds), *again]))
                return Prepared(batch, time.process_time() - started, bad_files=tuple(bad))
            except DataError as error:
                if self.draws == 1:
                    return Prepared(None, error=error)
                log.warning("skipped: %s", error)
                bad.append(str(error.path))
            except HeatError as error:  # as a value: DataLoader would turn it into another kind of error
                return Prepared(None, error=error)
        return Prepared(
            None,
            error=HeatError(
                f"{self.draws} batches in a row held a file that cannot be read, the last one {bad[-1]}: the data are "
                "broken.\n  Way out: heatv2x data check data=FOLDER names every such file"
            ),
        )


def batches(
    stage: Stage,
    seed: int,
    first: int,
    count: int,
    workers: int = 0,
    device: torch.device | None = None,
    rounds: int = 1,
    skip: bool = False,
) -> Generator[Prepared]:
    """The batches from number `first` to `count - 1`.

    Args:
        rounds: batches of one step; each is drawn from the seed, its step and its place in the step.
        skip: draw another batch in the place of one with a file that cannot be read.
        workers: processes that prepare them ahead; 0 prepares each when it is asked for.
        device: where they will be used; for a GPU they are laid into page-locked memory.

    Raises:
        ConfigError: more workers than the process may use cores, or the system cannot fork.
        HeatError: a file is broken, or a worker was ended by the system.
    """
    source = _Steps(stage, seed, count, rounds, skip)
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
