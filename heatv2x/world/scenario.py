"""One scenario folder, made as a whole or not at all; this is what a worker process does."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from heatv2x.core.host import keep_freed_memory
from heatv2x.errors import DataError
from heatv2x.world.clip import Clip, ClipPlan, Sensed, simulate
from heatv2x.world.config import SPLITS, WorldConfig
from heatv2x.world.rays import Moment
from heatv2x.world.styles import STYLES
from heatv2x.world.writer import write_agent

STAGING = ".building"
EVAL_HALF_M = 51.2


class Counts(NamedTuple):
    """Counts of a scenario, see `SplitSummary`."""

    frames: int
    agent_frames: int
    objects: int
    ego_objects: int


@dataclass(frozen=True)
class ScenarioTask:
    """One scenario to make.

    Attributes:
        config: the world's settings.
        split: "train", "validate" or "test".
        clip: its number in the split.
        frames: its labelled frames.
    """

    config: WorldConfig
    split: str
    clip: int
    frames: int

    @property
    def scenario(self) -> str:
        """Folder name in OPV2V's form of a recording time; made up, one year per split, and unique in a world."""
        start = datetime(2031 + SPLITS.index(self.split), 1, 1, 8, 0, 0)
        return (start + timedelta(seconds=1847 * self.clip)).strftime("%Y_%m_%d_%H_%M_%S")

    @property
    def folder(self) -> Path:
        """Where the scenario's OPV2V part ends up."""
        return self.config.out / "OPV2V" / self.split / self.scenario

    @property
    def finished(self) -> bool:
        """Whether its folder exists, which is moved into place only when complete."""
        return self.folder.is_dir()

    def plan(self) -> ClipPlan:
        """The specification of its clip."""
        config = self.config
        return ClipPlan(
            seed=(config.seed, SPLITS.index(self.split), self.clip),
            style=STYLES[self.split],
            frames=self.frames,
            stride=config.stride,
            agents=(config.min_agents, config.max_agents),
            roadside=config.roadside,
            sensors=config.sensors,
            azimuth_steps=config.azimuth_steps,
            resolution=config.render_resolution,
        )


def prepare_worker() -> None:
    """Leave Ctrl-C to the parent process, end when it ends, and keep freed memory."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def make_scenario(task: ScenarioTask) -> int | DataError:
    """Simulate, sense and write one scenario; the number of its frames, or what went wrong while writing."""
    staging = task.config.out / STAGING / f"{task.split}_{task.scenario}"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        _write(task, staging)
        _publish(task, staging)
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        return DataError(task.folder, problem, way_out="free some space, then run the same command again to continue")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return task.frames


def _write(task: ScenarioTask, staging: Path) -> None:
    clip = simulate(task.plan())
    counts = []
    for frame, (timestamp, moment, sensed) in enumerate(clip.sense()):
        for slot, agent in enumerate(sensed):
            name = str(agent.rig.agent_id)
            gnss = np.random.default_rng([*clip.plan.seed, 2000 + frame, slot])
            write_agent(staging / "OPV2V" / name, staging / "OPV2V_Hetero" / name, timestamp, moment, agent, gnss)
        counts.append(_count(moment, sensed))
    total = Counts(*(sum(column) for column in zip(*counts, strict=True)))
    (staging / "OPV2V" / "data_protocol.yaml").write_text(_protocol(task, clip, total))


def _publish(task: ScenarioTask, staging: Path) -> None:
    """Move the finished folders into place, the one that marks the scenario as finished last."""
    hetero = task.config.out / "OPV2V_Hetero" / task.split / task.scenario
    if (staging / "OPV2V_Hetero").exists():
        shutil.rmtree(hetero, ignore_errors=True)
        hetero.parent.mkdir(parents=True, exist_ok=True)
        (staging / "OPV2V_Hetero").replace(hetero)
    task.folder.parent.mkdir(parents=True, exist_ok=True)
    (staging / "OPV2V").replace(task.folder)


def _count(moment: Moment, sensed: list[Sensed]) -> Counts:
    hits = np.stack([np.where(moment.ids == agent.rig.agent_id, 0, agent.hits) for agent in sensed])
    ego = sensed[0]
    local = np.linalg.inv(ego.T_world_lidar) @ moment.T_world_vehicle[:, :, 3].T
    near = (np.abs(local[:2]).max(axis=0) < EVAL_HALF_M) & (moment.ids != ego.rig.agent_id)
    labelled = near & (hits.sum(axis=0) > 0)
    return Counts(1, len(sensed), int(labelled.sum()), int((labelled & (hits[0] > 0)).sum()))


def _protocol(task: ScenarioTask, clip: Clip, counts: Counts) -> str:
    content = {
        "world": {"simulator": "heatv2x.world", "split": task.split, "layout": clip.town.network.layout},
        "sensors": task.config.content()["sensors"],
        "seconds_between_frames": task.config.stride / 10,
        "counts": counts._asdict(),
    }
    return json.dumps(content, indent=2) + "\n"  # JSON is YAML


def finished_counts(task: ScenarioTask) -> Counts:
    """The counts of a scenario that is finished.

    Raises:
        DataError: its protocol file is missing or not ours.
    """
    path = task.folder / "data_protocol.yaml"
    try:
        return Counts(**json.loads(path.read_text())["counts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            path, f"was not written by `heatv2x world build`: {error}", way_out="delete this scenario and build again"
        ) from error
