"""The demo: an alliance of one agent type, a newcomer of another, what its joining brings and costs, controls included.

Two processes work side by side: in one the newcomer joins (LHFT, then GCFT), in the other everything is fine-tuned as
the yardstick. Both leave their records in the run folder; what is finished is not done twice.
"""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.pool import AsyncResult
from pathlib import Path
from queue import Empty
from typing import Any, Protocol

import pydantic
import torch

from heatv2x import __version__
from heatv2x.config import Config, build, read_recipe
from heatv2x.datasets.opv2v import Opv2v
from heatv2x.evaluation import Evaluation, Evaluator, Roster
from heatv2x.files import read_json, write_json
from heatv2x.model import Collaboration
from heatv2x.model_config import ModelConfig
from heatv2x.packs import read_pack
from heatv2x.report.build import build_report
from heatv2x.report.collect import collect_scenes
from heatv2x.training import job_config, jobs
from heatv2x.world.build import WorldConfig, build_world

SHIPPED = Path(__file__).parent / "shipped"
RECIPES = Path(__file__).parent / "recipes"
BASE, NEWCOMER, CAMERA = "lidar64", "lidar16", "camera"


class DemoConfig(Config):
    """Attributes:
    out: the run folder.
    train, validate, test: labelled frames of the world.
    seed: of the world and of the newcomer's training.
    local_steps, collaborative_steps, full_steps: optimiser steps of LHFT, GCFT and full fine-tuning.
    base_steps, encoder_steps: of base and encoder training with `--from-scratch`.
    full: the camera newcomer joins, too.
    from_scratch: train base and encoders here instead of using the shipped packs.
    processes: how many work side by side.
    """

    out: Path = Path("runs/demo")
    train: int = pydantic.Field(240, gt=0)
    validate_: int = pydantic.Field(20, gt=0, alias="validate")
    test: int = pydantic.Field(60, gt=0)
    seed: int = 1
    local_steps: int = pydantic.Field(200, gt=0)
    collaborative_steps: int = pydantic.Field(150, gt=0)
    full_steps: int = pydantic.Field(300, gt=0)
    base_steps: int = pydantic.Field(1000, gt=0)
    encoder_steps: int = pydantic.Field(600, gt=0)
    full: bool = False
    from_scratch: bool = False
    processes: int = pydantic.Field(2, gt=0)


@dataclass
class DemoResult:
    """Where the demo left its results.

    Attributes:
        rows: of metrics.json.
        metrics, report: files.
    """

    rows: list[dict[str, Any]]
    metrics: Path
    report: Path


class Tell(Protocol):
    """Progress: what is being done, done, in all."""

    def __call__(self, what: str, done: int, total: int, /) -> None:
        """Take note."""
        ...


@dataclass
class Part:
    """What one process hands back.

    Attributes:
        rows: for metrics.json.
        stages: records of the stages it trained.
        scenes: for scenes.json, if it made them.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    scenes: dict[str, Any] | None = None


def run_demo(config: DemoConfig, tell: Tell) -> DemoResult:
    """Build the world, let the newcomer join, evaluate everything, write the report."""
    tell_world = _Saying(tell, "building the world").of(1)
    build_world(world_of(config), tell_world)
    newcomers = [NEWCOMER, CAMERA] if config.full else [NEWCOMER]
    if config.from_scratch:
        _side_by_side(
            config, [(train_own_base, (config,)), *((train_own_encoder, (config, name)) for name in newcomers)], tell
        )
    tasks: list[tuple[Callable[..., Part], tuple[Any, ...]]] = [
        (join, (config, NEWCOMER)),
        (full_finetune, (config, NEWCOMER)),
    ]
    if config.full:
        tasks.append((join, (config, CAMERA)))
    parts = _side_by_side(config, tasks, tell)
    metrics = _write(config, parts)
    return DemoResult(read_json(metrics)["rows"], metrics, build_report(config.out))


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


# --- the work of one process each -----------------------------------------------------------------------------------


def join(config: DemoConfig, newcomer: str, tell: Tell) -> Part:
    """LHFT, then GCFT, and every row that needs only the frozen base and the newcomer's adapters."""
    shared = _adaptation(config, newcomer)
    prefix = "" if newcomer == NEWCOMER else f"{newcomer}/"
    local = job_config.LocalConfig(**shared, out=config.out / f"{newcomer}_local", steps=config.local_steps)
    local_record = _once(local, jobs.adapt_local, tell, f"{newcomer}: LHFT")
    adapter = local.out / "adapter.safetensors"
    collaborative = job_config.CollaborativeConfig(
        **shared, out=config.out / f"{newcomer}_collaborative", steps=config.collaborative_steps, adapter=adapter
    )
    collaborative_record = _once(collaborative, jobs.adapt_collaborative, tell, f"{newcomer}: GCFT")

    unaligned = jobs.load_for_adaptation(job_config.LocalConfig(**shared))
    adapted = jobs.load_for_adaptation(job_config.LocalConfig(**shared, adapter=adapter))
    joined = jobs.load_for_adaptation(
        job_config.LocalConfig(**shared, adapter=collaborative.out / "adapter.safetensors")
    )
    evaluator = _evaluator(config)
    say = _Saying(tell, f"{newcomer}: evaluating")
    base_cost = {"provenance_seconds": read_pack(_packs(config)["base"]).provenance.get("cpu_seconds")}
    spent = local_record["seconds"]
    lhft = _cost(local_record, spent, local_record["trained_parameters"])
    both = _cost(
        collaborative_record, spent + collaborative_record["seconds"], _union(collaborative_record, local_record)
    )

    mixed, alone, homogeneous = Roster(BASE, newcomer), Roster(BASE, BASE, drop=True), Roster(BASE, BASE)
    own_ego = Roster(newcomer, BASE)
    plan: list[tuple[str, Collaboration, Roster, dict[str, Any]]] = [
        ("no_fusion", unaligned, alone, base_cost),
        ("homogeneous", unaligned, homogeneous, base_cost),
        (f"{prefix}unaligned", unaligned, mixed, base_cost),
        (f"ego_{newcomer}/unaligned", unaligned, own_ego, base_cost),
        (f"{prefix}lhft", adapted, mixed, lhft),
        (f"ego_{newcomer}/no_fusion", adapted, Roster(newcomer, newcomer, drop=True), lhft),
        (f"{prefix}late", _late(adapted), mixed, lhft),
        (f"{prefix}lhft_gcft", joined, mixed, both),
        (f"ego_{newcomer}/lhft_gcft", joined, own_ego, both),
        ("control/collaborators_dropped", joined, alone, both),
        ("control/deployed_after_joining", joined, homogeneous, both),
    ]
    if prefix:  # rows that do not hear the newcomer are the same for every newcomer
        plan = [line for line in plan if newcomer in line[0] or line[0].startswith(prefix)]
    rows, kept, before = [], {}, unaligned
    for name, model, roster, cost in plan:
        if model is not before:
            evaluator.forget(newcomer)
            before = model
        kept[name] = evaluator.evaluate(model, roster, say.of(len(plan)))
        rows.append(_row(config, name, newcomer, roster, kept[name], model.config.codec, cost))
    stages = [_stage(f"{prefix}local", local_record), _stage(f"{prefix}collaborative", collaborative_record)]
    scenes = None
    if not prefix:
        together = kept["lhft_gcft"].scenes
        types = {index: [mixed.type_of(a) for a in range(len(scene.frame.agents))] for index, scene in together.items()}
        scenes = collect_scenes(joined, kept["no_fusion"].scenes, together, types).to_json()
    return Part(rows, stages, scenes)


def full_finetune(config: DemoConfig, newcomer: str, tell: Tell) -> Part:
    """The yardstick: everything is trained again, and the deployed fleet must be updated."""
    shared = _adaptation(config, newcomer)
    job = job_config.FullConfig(
        **shared,
        out=config.out / f"{newcomer}_full",
        steps=config.full_steps,
        validate_frames=config.validate_,
        validate_every=75,
    )
    record = _once(job, jobs.full_finetune, tell, f"{newcomer}: full fine-tuning")
    packs = [job.out / f"{name}.safetensors" for name in ("base", BASE, newcomer, "adapter")]
    model = Collaboration.from_packs(*packs)
    evaluator = _evaluator(config)
    say = _Saying(tell, f"{newcomer}: evaluating full fine-tuning")
    plateau = jobs.seconds_to_plateau(record["curve"])
    reading = record["seconds"] - record["cpu_seconds"]
    cost = _cost(record, record["seconds"] if plateau is None else reading + plateau, record["trained_parameters"])
    rosters = {
        "full_finetune": Roster(BASE, newcomer),
        "control/deployed_after_full_finetune": Roster(BASE, BASE),
        f"ego_{newcomer}/full_finetune": Roster(newcomer, BASE),
    }
    rows = []
    for name, roster in rosters.items():
        evaluation = evaluator.evaluate(model, roster, say.of(len(rosters)))
        rows.append(_row(config, name, newcomer, roster, evaluation, model.config.codec, cost))
    return Part(rows, [_stage("full_finetune", record)])


def train_own_base(config: DemoConfig, tell: Tell) -> Part:
    """A base of our own, for `--from-scratch`."""
    recipe = read_recipe(RECIPES / "demo_base.yaml")
    settings = {
        **recipe,
        "data": config.out / "world",
        "out": config.out / "base",
        "steps": config.base_steps,
        "seed": config.seed,
    }
    record = _once(job_config.BaseConfig(**settings), jobs.train_base, tell, "base: training")
    return Part(stages=[_stage("base", record)])


def train_own_encoder(config: DemoConfig, name: str, tell: Tell) -> Part:
    """A newcomer's encoder of our own, for `--from-scratch`."""
    recipe = read_recipe(RECIPES / f"demo_{name}.yaml")
    settings = {
        **recipe,
        "data": config.out / "world",
        "out": config.out / name,
        "steps": config.encoder_steps,
        "seed": config.seed,
    }
    record = _once(job_config.EncoderConfig(**settings), jobs.train_encoder, tell, f"{name}: encoder")
    return Part(stages=[_stage(f"encoder_{name}", record)])


# --- helpers of the parts -------------------------------------------------------------------------------------------


def _packs(config: DemoConfig) -> dict[str, Path]:
    """Base and encoders: the shipped ones, or those of `--from-scratch`."""
    if not config.from_scratch:
        return {name: SHIPPED / f"{name}.safetensors" for name in ("base", BASE, NEWCOMER, CAMERA)}
    own = {"base": config.out / "base" / "base.safetensors", BASE: config.out / "base" / f"{BASE}.safetensors"}
    return own | {name: config.out / name / f"{name}.safetensors" for name in (NEWCOMER, CAMERA)}


def _adaptation(config: DemoConfig, newcomer: str) -> dict[str, Any]:
    packs = _packs(config)
    return {
        "data": config.out / "world",
        "base": packs["base"],
        "agents": (packs[BASE], packs[newcomer]),
        "newcomer": newcomer,
        "like": BASE,
        "seed": config.seed,
    }


def _once(job: Any, run: Callable[[Any, jobs.Report], jobs.JobResult], tell: Tell, what: str) -> dict[str, Any]:
    """Run a job unless its finished result is there; gives its record."""
    if jobs.finished(job) is None:
        run(job, lambda step, done, total: tell(f"{what} ({step})" if step != "training" else what, done, total))
    record: dict[str, Any] = read_json(job.out / "record.json")
    return record


def _evaluator(config: DemoConfig) -> Evaluator:
    keep = range(0, config.test, max(1, config.test // 8))
    return Evaluator(Opv2v(config.out / "world", "test"), keep=tuple(keep)[:8])


def _late(model: Collaboration) -> Collaboration:
    """The same networks exchanging boxes instead of features."""
    late = Collaboration(ModelConfig(**{**model.config.model_dump(), "fusion": {"part": "late"}}))
    for name, joining in model.joined.items():
        late.join(name, joining.model_copy(update={"received": None}))
    own = late.state_dict()
    late.load_state_dict({name: value for name, value in model.state_dict().items() if name in own})
    return late.eval()


def _cost(record: dict[str, Any], seconds: float, cumulative: int) -> dict[str, Any]:
    return {
        "trained_parameters": record["trained_parameters"],
        "cumulative_parameters": cumulative,
        "train_seconds": round(seconds, 2),
        "train_wall_seconds": record["wall_seconds"],
        "peak_memory_mb": record["peak_memory_mb"],
    }


def _union(later: dict[str, Any], earlier: dict[str, Any]) -> int:
    """Distinct values trained by GCFT and LHFT: GCFT trains everything LHFT trained, and more."""
    return max(int(later["trained_parameters"]), int(earlier["trained_parameters"]))


def _row(
    config: DemoConfig,
    name: str,
    newcomer: str,
    roster: Roster,
    evaluation: Evaluation,
    codec: str,
    cost: dict[str, Any],
) -> dict[str, Any]:
    empty = {"trained_parameters": 0, "cumulative_parameters": 0, "train_seconds": None, "train_wall_seconds": None}
    about = {"name": name, "newcomer": newcomer, "ego_type": roster.ego, "seed": config.seed}
    codec = "boxes" if name.endswith("late") else codec
    return {**about, **evaluation.to_row(codec), **empty, "provenance_seconds": None, "peak_memory_mb": None, **cost}


def _stage(name: str, record: dict[str, Any]) -> dict[str, Any]:
    curve = [
        {"step": p["step"], "seconds": p["cpu_seconds"], **{k: p[k] for k in ("loss", "ap50") if k in p}}
        for p in record["curve"]
    ]
    return {
        "name": name,
        "cpu_seconds": record["seconds"],
        "wall_seconds": record["wall_seconds"],
        "trained_parameters": record["trained_parameters"],
        "steps": record["steps"],
        "curve": curve,
        "frozen_proof": record["frozen_proof"],
    }


class _Saying:
    """Progress over several evaluations as one bar."""

    def __init__(self, tell: Tell, what: str) -> None:
        self.tell, self.what, self.finished = tell, what, 0

    def of(self, rows: int) -> Callable[[int, int], None]:
        """Progress of the next of `rows` evaluations."""
        before = self.finished
        self.finished += 1
        return lambda done, total: self.tell(self.what, before * total + done, rows * total)


# --- processes and results ------------------------------------------------------------------------------------------


def _side_by_side(
    config: DemoConfig, tasks: Sequence[tuple[Callable[..., Part], tuple[Any, ...]]], tell: Tell
) -> list[Part]:
    """Run tasks in processes of one thread each, and pass their progress on."""
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(min(config.processes, len(tasks)), _one_thread) as pool:
        queue = manager.Queue()
        running: list[AsyncResult[Part]] = [
            pool.apply_async(_work, (work, arguments, queue)) for work, arguments in tasks
        ]
        while not all(task.ready() for task in running):
            try:
                tell(*queue.get(timeout=0.2))
            except Empty:
                for task in running:
                    if task.ready():
                        task.get()  # the first failure ends them all
        while not queue.empty():
            tell(*queue.get())
        return [task.get() for task in running]


def _one_thread() -> None:
    torch.set_num_threads(1)


def _work(work: Callable[..., Part], arguments: tuple[Any, ...], queue: Any) -> Part:
    return work(*arguments, lambda what, done, total: queue.put((what, done, total)))


def _write(config: DemoConfig, parts: list[Part]) -> Path:
    order = ["no_fusion", "unaligned", "late", "lhft", "lhft_gcft", "full_finetune", "homogeneous"]
    rows = [row for part in parts for row in part.rows]
    rank = {name: index for index, name in enumerate(order)}
    rows.sort(key=lambda row: (row["name"].rpartition("/")[0], rank.get(row["name"].rpartition("/")[2], len(order))))
    scenes = next(part.scenes for part in parts if part.scenes is not None)
    manifest = read_json(config.out / "world" / "manifest.json")
    content = {
        "title": "HeatV2X demo",
        "story": {"base_type": BASE, "newcomer": NEWCOMER, "from_scratch": config.from_scratch},
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
    return config.out / "metrics.json"


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads_per_process": 1,
    }
