"""The demo: a newcomer joins an alliance of another agent type; what that gains and costs, with controls.

Two processes work side by side: in one the newcomer joins (LHFT, then GCFT), in the other everything is fine-tuned as
the yardstick. Both leave their records in the run folder; what is finished is not done twice.

The yardstick takes longest by far but need not be waited for: as soon as the newcomer has joined, the report is
written without it and the controls, and it is written again whenever one of them is done.
"""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatv2x import __version__
from heatv2x.cli.demo_work import (
    BASE,
    CAMERA,
    NEWCOMER,
    DemoConfig,
    Part,
    evaluate_controls,
    full_finetune,
    let_newcomer_join,
    prefix_of,
    train_own_base,
    train_own_encoder,
    yardstick_of,
)
from heatv2x.core.config import build
from heatv2x.core.files import read_json, write_json
from heatv2x.core.workers import Task, Tell, run_tasks
from heatv2x.evaluation.report import words
from heatv2x.evaluation.report.build import build_report
from heatv2x.evaluation.rows import OneBar, machine
from heatv2x.training import run_folder
from heatv2x.world.build import WorldConfig, build_world

__all__ = ["DemoConfig", "DemoResult", "run_demo", "world_of"]

YARDSTICK = "full_finetune"


@dataclass
class DemoResult:
    """Where the demo left its results.

    Attributes:
        rows: of metrics.json.
        metrics, report: files.
        pending: names of the parts that were still running when these results were written.
    """

    rows: list[dict[str, Any]]
    metrics: Path
    report: Path
    pending: tuple[str, ...] = ()

    @property
    def still_running(self) -> str:
        """The pending parts in words."""
        return words.listed([words.work(name) for name in self.pending])


def run_demo(config: DemoConfig, tell: Tell, first: Callable[[DemoResult], None] | None = None) -> DemoResult:
    """Build the world, let the newcomer join, evaluate everything, write the report.

    Args:
        tell: progress.
        first: called with every report that is complete except for parts that are still being worked on. Such a
            report stays in the run folder if the demo is stopped, until the same command has finished the rest.
    """
    tell_world = OneBar(tell, "building the world").of(1)
    build_world(world_of(config), tell_world)
    newcomers = [NEWCOMER, CAMERA] if config.full else [NEWCOMER]
    if config.from_scratch:
        encoders = [Task(f"encoder {name}", train_own_encoder, (config, name)) for name in newcomers]
        run_tasks([Task("base", train_own_base, (config,)), *encoders], config.processes, tell)
    tasks = _tasks(config)
    finished: dict[str, Part] = {}
    # a yardstick that was trained before is evaluated in a moment: no report without it replaces one that has it
    untrained = run_folder.finished(yardstick_of(config, NEWCOMER)) is None

    def note(name: str, part: Part) -> None:
        finished[name] = part
        pending = tuple(task.name for task in tasks if task.name not in finished)
        if untrained and pending and NEWCOMER in finished:
            result = _write(config, [finished[task.name] for task in tasks if task.name in finished], pending)
            if first is not None:
                first(result)

    parts: list[Part] = list(run_tasks(tasks, config.processes, tell, note).values())
    return _write(config, parts)


def _tasks(config: DemoConfig) -> list[Task]:
    """The work to do once the world is built, in the order in which it starts."""
    newcomers = [NEWCOMER, CAMERA] if config.full else [NEWCOMER]
    joining = [Task(name, let_newcomer_join, (config, name)) for name in newcomers]
    controls = [Task(f"{prefix_of(n)}controls", evaluate_controls, (config, n), needs=(n,)) for n in newcomers]
    yardstick = Task(YARDSTICK, full_finetune, (config, NEWCOMER))
    # side by side the longest work starts at once; a single process does first what people want to see
    return (
        [*joining, *controls, yardstick]
        if config.processes == 1
        else [*joining[:1], yardstick, *joining[1:], *controls]
    )


def world_of(config: DemoConfig) -> WorldConfig:
    """The demo's world: only the sensors that its agents carry."""
    settings = {
        "out": config.out / "world",
        "train": config.train,
        "validate": config.validate_,
        "test": config.test,
        "seed": config.seed,
        "sensors": ["lidar64", "lidar16", *(["camera"] if config.full else [])],
        "workers": config.processes,
    }
    return build(WorldConfig, settings)


def _write(config: DemoConfig, parts: list[Part], pending: tuple[str, ...] = ()) -> DemoResult:
    """Write metrics.json, scenes.json and the report from the parts that are finished."""
    order = ["no_fusion", "unaligned", "late", "lhft", "lhft_gcft", "full_finetune", "homogeneous"]
    order += ["collaborators_dropped", "deployed_after_joining", "deployed_after_full_finetune"]
    rows = [row for part in parts for row in part.rows]
    rank = {name: index for index, name in enumerate(order)}
    rows.sort(key=lambda row: (row["name"].rpartition("/")[0], rank.get(row["name"].rpartition("/")[2], len(order))))
    scenes = next(part.scenes for part in parts if part.scenes is not None)
    manifest = read_json(config.out / "world" / "manifest.json")
    content = {
        "title": "HeatV2X demo",
        "story": {"base_type": BASE, "newcomer": NEWCOMER, "from_scratch": config.from_scratch},
        **({"pending": list(pending)} if pending else {}),
        "rows": rows,
        "stages": [stage for part in parts for stage in part.stages],
        "world": manifest,
        "machine": machine(),
        "code_version": __version__,
        "command": shlex.join(["heatv2x", *sys.argv[1:]]) if sys.argv[1:] else "heatv2x demo",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    write_json(config.out / "scenes.json", scenes)
    write_json(config.out / "metrics.json", content)
    return DemoResult(rows, config.out / "metrics.json", build_report(config.out), pending)
