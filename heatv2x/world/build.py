"""Building a synthetic world on disk: many clips in parallel, resumable, the same bytes however it is run."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from heatv2x.core.files import read_json, write_json
from heatv2x.errors import ConfigError, DataError, HeatError
from heatv2x.world import WORLD_VERSION
from heatv2x.world.assignment import write_assignments
from heatv2x.world.config import SPLITS, WorldConfig
from heatv2x.world.scenario import STAGING, Counts, ScenarioTask, finished_counts, make_scenario, prepare_worker

Progress = Callable[[int, int], None]
__all__ = ["SplitSummary", "WorldConfig", "WorldSummary", "build_world"]


@dataclass(frozen=True)
class SplitSummary:
    """What one split holds.

    Attributes:
        scenarios, frames: how many.
        agent_frames: agents summed over frames.
        objects: distinct labelled objects within 51.2 m of the ego (the first agent), summed over frames.
        ego_objects: those among them that the ego's own LiDAR hits.
    """

    scenarios: int
    frames: int
    agent_frames: int
    objects: int
    ego_objects: int


@dataclass(frozen=True)
class WorldSummary:
    """What was built, by split."""

    out: Path
    splits: dict[str, SplitSummary]


def build_world(config: WorldConfig, progress: Progress | None = None) -> WorldSummary:
    """Build the world, or finish one that was interrupted.

    Args:
        config: what to build and where.
        progress: called with (labelled frames done, labelled frames in all), first with what already exists.

    Raises:
        ConfigError: `out` holds a world with other settings.
        DataError: a file cannot be written, for example because the disk is full.
    """
    _claim(config)
    try:
        tasks = scenario_tasks(config)
        waiting = [task for task in tasks if not task.finished]
        done, total = sum(task.frames for task in tasks if task.finished), sum(task.frames for task in tasks)
        _report(progress, done, total)
        with contextlib.closing(_work(waiting, config.workers)) as results:
            for frames in results:
                done += frames
                _report(progress, done, total)
        write_assignments(config.out, {task.scenario: task.split for task in tasks})
        summary = _summarise(config, tasks)
        write_json(config.out / "manifest.json", _manifest(config, summary))
    finally:
        shutil.rmtree(config.out / STAGING, ignore_errors=True)
    return summary


def scenario_tasks(config: WorldConfig) -> list[ScenarioTask]:
    """All scenarios of a world, in order; the last of a split may be shorter."""
    tasks = []
    for split in SPLITS:
        frames = config.frames_of(split)
        for clip in range(-(-frames // config.clip_frames)):
            tasks.append(ScenarioTask(config, split, clip, min(config.clip_frames, frames - clip * config.clip_frames)))
    return tasks


def _work(tasks: list[ScenarioTask], workers: int) -> Generator[int, None, None]:
    """Make scenarios; yields the number of frames of each as it is finished."""
    if workers == 1 or len(tasks) <= 1:
        for task in tasks:
            yield _checked(make_scenario(task))
        return
    with (
        _one_thread_each(),
        ProcessPoolExecutor(
            min(workers, len(tasks)), mp_context=get_context("spawn"), initializer=prepare_worker
        ) as pool,
    ):
        futures = [pool.submit(make_scenario, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield _checked(future.result())
        except BrokenProcessPool as error:
            raise HeatError(
                "a worker process ended early: it was killed, most likely because memory ran out, or a script calls "
                "build_world without `if __name__ == '__main__':`. Finished work is kept; workers=1 starts no "
                "worker processes"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _checked(outcome: int | DataError) -> int:
    if isinstance(outcome, DataError):
        raise outcome
    return outcome


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Worker processes share the cores by themselves: their maths libraries start with one thread."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _claim(config: WorldConfig) -> None:
    """Write the manifest of a new world, or check that an existing one has the same settings."""
    path = config.out / "manifest.json"
    if not path.exists():
        if (config.out / "OPV2V").exists() or (config.out / "OPV2V_Hetero").exists():
            raise ConfigError(
                f"out={config.out} holds OPV2V data that `heatv2x world build` did not write; choose another folder"
            )
        write_json(path, _manifest(config, None))
    there = read_json(path)
    if not isinstance(there, dict) or not isinstance(there.get("settings"), dict):
        raise DataError(path, "is not the manifest of a world", way_out="choose another folder for out=")
    if there.get("world_version") != WORLD_VERSION:
        raise ConfigError(
            f"out={config.out} holds a world of version {there.get('world_version')}, this program builds version "
            f"{WORLD_VERSION}; choose another folder, or delete it first"
        )
    wanted = config.content()
    other = [f"{key}={there['settings'].get(key)!r}" for key in wanted if there["settings"].get(key) != wanted[key]]
    if other:
        raise ConfigError(
            f"out={config.out} holds a world with other settings ({', '.join(other)}); use those to finish it, "
            "or choose another folder"
        )
    shutil.rmtree(config.out / STAGING, ignore_errors=True)


def _manifest(config: WorldConfig, summary: WorldSummary | None) -> dict[str, Any]:
    counts = None if summary is None else {split: vars(part) for split, part in summary.splits.items()}
    return {
        "world_version": WORLD_VERSION,
        "complete": summary is not None,
        "settings": config.content(),
        "counts": counts,
    }


def _summarise(config: WorldConfig, tasks: list[ScenarioTask]) -> WorldSummary:
    splits = {}
    for split in SPLITS:
        counts: list[Counts] = [finished_counts(task) for task in tasks if task.split == split]
        if counts:
            splits[split] = SplitSummary(len(counts), *(sum(column) for column in zip(*counts, strict=True)))
    return WorldSummary(config.out, splits)


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
