"""What each of the demo's processes does: join, measure the controls, fine-tune everything, train from scratch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from heatv2x.core.config import Config, read_recipe
from heatv2x.core.workers import Tell
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.report.collect import collect_scenes
from heatv2x.evaluation.results import Evaluation
from heatv2x.evaluation.roster import Roster
from heatv2x.evaluation.rows import OneBar, cost_of, stage_of, to_row
from heatv2x.model import pretrained
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.packs import read_pack
from heatv2x.model.variants import exchanging
from heatv2x.training import job_config, jobs, newcomers, recipes
from heatv2x.training.jobs import run_once

BASE, NEWCOMER, CAMERA = "lidar64", "lidar16", "camera"
READER_FRAMES = 200
"""Training frames that a reader is trained on."""
YARDSTICK_CHECKPOINT_STEPS = 25
"""Stopping the demo while the yardstick trains loses at most this many of its steps."""


class DemoConfig(Config):
    """Attributes:
    out: the run folder.
    train, validate, test: labelled frames of the world.
    seed: of the world and of the newcomer's training.
    adapt_frames: training frames that LHFT and GCFT use, spread evenly; full fine-tuning uses all.
    local_steps, collaborative_steps, full_steps: optimiser steps of LHFT, GCFT and full fine-tuning.
    collaborative_steps_more: GCFT steps of the camera newcomer, at a higher rate: LHFT alone aligns it less well.
    base_steps, reader_steps, encoder_steps: of base, reader and encoder training with `--from-scratch`.
    full: the camera newcomer joins, too.
    from_scratch: train base and encoders here instead of using the shipped packs.
    processes: how many run in parallel.
    """

    out: Path = Path("runs/demo")
    train: int = pydantic.Field(240, gt=0)
    validate_: int = pydantic.Field(20, gt=0, alias="validate")
    test: int = pydantic.Field(60, gt=0)
    seed: int = 1
    adapt_frames: int = pydantic.Field(80, gt=0)
    local_steps: int = pydantic.Field(80, gt=0)
    collaborative_steps: int = pydantic.Field(30, gt=0)
    collaborative_steps_more: int = pydantic.Field(100, gt=0)
    full_steps: int = pydantic.Field(300, gt=0)
    base_steps: int = pydantic.Field(1000, gt=0)
    reader_steps: int = pydantic.Field(600, gt=0)
    encoder_steps: int = pydantic.Field(600, gt=0)
    full: bool = False
    from_scratch: bool = False
    processes: int = pydantic.Field(2, gt=0)


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


@dataclass(frozen=True)
class Joining:
    """What LHFT and GCFT of a newcomer left in the run folder.

    Attributes:
        local, collaborative: records of the two stages.
        adapter, adapter_both: packs after LHFT, and after GCFT.
    """

    local: dict[str, Any]
    collaborative: dict[str, Any]
    adapter: Path
    adapter_both: Path


def let_newcomer_join(config: DemoConfig, newcomer: str, tell: Tell) -> Part:
    """LHFT, then GCFT, and the rows of the main story."""
    joining = _join(config, newcomer, tell)
    prefix = prefix_of(newcomer)
    rows, kept, joined = _evaluate(config, newcomer, joining, True, OneBar(tell, f"{newcomer}: evaluating"))
    stages = [
        stage_of(f"{prefix}local", joining.local),
        stage_of(f"{prefix}collaborative", joining.collaborative),
    ]
    scenes = None
    if not prefix:
        scenes = collect_scenes(joined, kept["no_fusion"].scenes, kept["lhft_gcft"].scenes).to_json()
    return Part(rows, stages, scenes)


def evaluate_controls(config: DemoConfig, newcomer: str, tell: Tell) -> Part:
    """The controls, and the newcomer as the ego: rows that the first report does not wait for."""
    joining = _join(config, newcomer, tell)
    rows, _, _ = _evaluate(config, newcomer, joining, False, OneBar(tell, f"{newcomer}: evaluating the controls"))
    return Part(rows)


def _join(config: DemoConfig, newcomer: str, tell: Tell) -> Joining:
    few = {**_adaptation(config, newcomer), "frames": config.adapt_frames}
    local = job_config.LocalConfig(
        **few, out=config.out / f"{newcomer}_local", steps=config.local_steps, keep_cache=True
    )
    local_record = run_once(local, jobs.adapt_local, tell, f"{newcomer}: LHFT")
    adapter, cache = local.out / "adapter.safetensors", local.out / "cache.safetensors"
    if newcomer == CAMERA:
        few |= {"steps": config.collaborative_steps_more, "lr": 2e-3}
    collaborative = job_config.CollaborativeConfig(
        **{"steps": config.collaborative_steps, **few},
        out=config.out / f"{newcomer}_collaborative",
        adapter=adapter,
        cache=cache if cache.exists() else None,
    )
    collaborative_record = run_once(collaborative, jobs.adapt_collaborative, tell, f"{newcomer}: GCFT")
    cache.unlink(missing_ok=True)
    return Joining(local_record, collaborative_record, adapter, collaborative.out / "adapter.safetensors")


def _evaluate(
    config: DemoConfig, newcomer: str, joining: Joining, main: bool, say: OneBar
) -> tuple[list[dict[str, Any]], dict[str, Evaluation], Collaboration]:
    """Every row that needs only the frozen base and the newcomer's adapters.

    Args:
        main: the rows of the main story; otherwise the controls and those with the newcomer as the ego.

    Returns:
        The rows, what was measured by the row's method, and the model that joined.
    """
    shared, prefix = _adaptation(config, newcomer), prefix_of(newcomer)
    unaligned = newcomers.load_for_adaptation(job_config.LocalConfig(**shared))
    adapted = newcomers.load_for_adaptation(job_config.LocalConfig(**shared, adapter=joining.adapter))
    joined = newcomers.load_for_adaptation(job_config.LocalConfig(**shared, adapter=joining.adapter_both))
    base_cost = {"provenance_seconds": read_pack(_packs(config)["base"]).provenance.get("cpu_seconds")}
    first, second = joining.local, joining.collaborative
    lhft = cost_of(first, first["seconds"], first["trained_parameters"])
    both = cost_of(second, first["seconds"] + second["seconds"], _union(second, first))

    mixed, alone, homogeneous = Roster(BASE, newcomer), Roster(BASE, BASE, drop=True), Roster(BASE, BASE)
    own_ego = Roster(newcomer, BASE)
    plan: list[tuple[str, Collaboration, Roster, dict[str, Any]]] = [
        ("no_fusion", unaligned, alone, base_cost),
        ("homogeneous", unaligned, homogeneous, base_cost),
        (f"{prefix}unaligned", unaligned, mixed, base_cost),
        (f"ego_{newcomer}/unaligned", unaligned, own_ego, base_cost),
        (f"{prefix}lhft", adapted, mixed, lhft),
        (f"ego_{newcomer}/no_fusion", adapted, Roster(newcomer, newcomer, drop=True), lhft),
        (f"{prefix}late", exchanging(adapted, "boxes"), mixed, lhft),
        (f"{prefix}lhft_gcft", joined, mixed, both),
        (f"ego_{newcomer}/lhft_gcft", joined, own_ego, both),
        ("control/collaborators_dropped", joined, alone, both),
        ("control/deployed_after_joining", joined, homogeneous, both),
    ]
    if prefix:  # rows that do not hear the newcomer are the same for every newcomer
        plan = [line for line in plan if newcomer in line[0] or line[0].startswith(prefix)]
    plan = [line for line in plan if main != line[0].startswith(("ego_", "control/"))]
    evaluator = _evaluator(config)
    rows, kept, before = [], {}, unaligned
    for name, model, roster, cost in plan:
        if model is not before:
            evaluator.forget(newcomer)
            before = model
        kept[name] = evaluator.evaluate(model, roster, say.of(len(plan)))
        rows.append(to_row(name, newcomer, roster, config.seed, kept[name], model, cost))
    return rows, kept, joined


def prefix_of(newcomer: str) -> str:
    """The prefix of the row names of a further newcomer."""
    return "" if newcomer == NEWCOMER else f"{newcomer}/"


def full_finetune(config: DemoConfig, newcomer: str, tell: Tell) -> Part:
    """The yardstick: everything is trained again, and the deployed fleet must be updated."""
    job = yardstick_of(config, newcomer)
    record = run_once(job, jobs.full_finetune, tell, f"{newcomer}: full fine-tuning")
    packs = [job.out / f"{name}.safetensors" for name in ("base", BASE, newcomer, "adapter")]
    model = Collaboration.from_packs(*packs)
    evaluator = _evaluator(config)
    say = OneBar(tell, f"{newcomer}: evaluating full fine-tuning")
    plateau = jobs.seconds_to_plateau(record["curve"])
    reading = record["seconds"] - record["cpu_seconds"]
    cost = cost_of(record, record["seconds"] if plateau is None else reading + plateau, record["trained_parameters"])
    rosters = {
        "full_finetune": Roster(BASE, newcomer),
        "control/deployed_after_full_finetune": Roster(BASE, BASE),
        f"ego_{newcomer}/full_finetune": Roster(newcomer, BASE),
    }
    rows = []
    for name, roster in rosters.items():
        evaluation = evaluator.evaluate(model, roster, say.of(len(rosters)))
        rows.append(to_row(name, newcomer, roster, config.seed, evaluation, model, cost))
    return Part(rows, [stage_of("full_finetune", record)])


def train_own_base(config: DemoConfig, tell: Tell) -> Part:
    """Train the base and its reader here, for `--from-scratch`."""
    recipe = read_recipe(recipes.FOLDER / "demo_base.yaml")
    settings = {
        **recipe,
        "data": config.out / "world",
        "out": config.out / "base",
        "steps": config.base_steps,
        "seed": config.seed,
    }
    record = run_once(job_config.BaseConfig(**settings), jobs.train_base, tell, "base: training")
    reader = job_config.TrainReaderConfig(
        data=config.out / "world",
        base=config.out / "base" / "base.safetensors",
        agents=(config.out / "base" / f"{BASE}.safetensors",),
        frames=READER_FRAMES,
        out=config.out / "reader",
        steps=config.reader_steps,
        seed=config.seed,
    )
    reader_record = run_once(reader, jobs.train_reader, tell, "base: reader")
    return Part(stages=[stage_of("base", record), stage_of("reader", reader_record)])


def train_own_encoder(config: DemoConfig, name: str, tell: Tell) -> Part:
    """Train a newcomer's encoder here, for `--from-scratch`."""
    recipe = read_recipe(recipes.FOLDER / f"demo_{name}.yaml")
    settings = {
        **recipe,
        "data": config.out / "world",
        "out": config.out / name,
        "steps": config.encoder_steps,
        "seed": config.seed,
    }
    record = run_once(job_config.EncoderConfig(**settings), jobs.train_encoder, tell, f"{name}: encoder")
    return Part(stages=[stage_of(f"encoder_{name}", record)])


# --- helpers of the parts -------------------------------------------------------------------------------------------


def _packs(config: DemoConfig) -> dict[str, Path]:
    """Base and encoders: the shipped ones, or those of `--from-scratch`."""
    if not config.from_scratch:
        return {name: pretrained.FOLDER / f"{name}.safetensors" for name in ("base", BASE, NEWCOMER, CAMERA)}
    own = {"base": config.out / "reader" / "base.safetensors", BASE: config.out / "base" / f"{BASE}.safetensors"}
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


def yardstick_of(config: DemoConfig, newcomer: str) -> job_config.FullConfig:
    """The yardstick's job."""
    return job_config.FullConfig(
        **_adaptation(config, newcomer),
        out=config.out / f"{newcomer}_full",
        steps=config.full_steps,
        validate_frames=config.validate_,
        validate_every=75,
        checkpoint_every=YARDSTICK_CHECKPOINT_STEPS,
    )


def _evaluator(config: DemoConfig) -> Evaluator:
    keep = range(0, config.test, max(1, config.test // 8))
    return Evaluator(Opv2v(config.out / "world", "test"), keep=tuple(keep)[:8])


def _union(later: dict[str, Any], earlier: dict[str, Any]) -> int:
    """Distinct values trained by GCFT and LHFT: GCFT trains everything LHFT trained, and more."""
    return max(int(later["trained_parameters"]), int(earlier["trained_parameters"]))
