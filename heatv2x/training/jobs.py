"""Whole jobs: from a dataset on disk to packs in a run folder.

A run folder holds the resolved settings, the log, the record (cost, curve, proof), the checkpoint and the packs. A job
that finds its own finished result there gives that back; one that finds a checkpoint continues from it exactly.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from heatv2x import __version__
from heatv2x.core import distributed, plugins
from heatv2x.core.config import build
from heatv2x.core.files import read_json, write_json
from heatv2x.core.workers import Tell
from heatv2x.errors import ConfigError
from heatv2x.evaluation.cost import Stopwatch
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.picture import from_above
from heatv2x.evaluation.roster import Roster
from heatv2x.model.assembly import adapter_pack, agent_pack, assemble, base_pack, with_detector
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import ModelConfig
from heatv2x.model.networks import ENCODES
from heatv2x.model.packs import Pack, read_pack, write_pack
from heatv2x.model.variants import reading
from heatv2x.nn.move import find_device, precision_on
from heatv2x.training.backward import BackwardAlignment
from heatv2x.training.distillation import Onlooker, as_seen_by, start_from_teacher, teacher_for
from heatv2x.training.end_to_end import CollaborativeTraining
from heatv2x.training.events import EventWriter
from heatv2x.training.feature_cache import fill_cache, load_cache, save_cache
from heatv2x.training.gcft import CollaborativeFineTuning
from heatv2x.training.job_config import (
    AdaptConfig,
    BackwardConfig,
    BaseConfig,
    CollaborativeConfig,
    EncoderConfig,
    FullConfig,
    JobConfig,
    LocalConfig,
    TrainReaderConfig,
)
from heatv2x.training.lhft import LocalFineTuning
from heatv2x.training.loop import Measure, TrainingRecord, train
from heatv2x.training.newcomers import load_for_adaptation, seeded
from heatv2x.training.pool import Pool, load_pool
from heatv2x.training.reader import ReaderTraining, sampled_cells
from heatv2x.training.run_folder import (
    finished,
    identity_of,
    log_to,
    open_split,
    portable,
    refuse_to_overwrite,
    settled,
)
from heatv2x.training.stage import Stage

log = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]
"""Called with (what is being done, done, in all)."""


@dataclass
class JobResult:
    """What a job gives back.

    Attributes:
        model: trained, in evaluation mode.
        record: its cost, curve and proof.
        seconds: CPU seconds of training, reading, caching and voxelising included; of all processes together.
        wall_seconds: the same on the clock.
        packs: what was written; of several processes the first one writes.
    """

    model: Collaboration
    record: TrainingRecord
    seconds: float
    wall_seconds: float
    packs: list[Path]


def train_base(config: BaseConfig, report: Report | None = None) -> JobResult:
    """Train a base: every tensor, collaboratively, on scenes of its own types."""
    model = seeded(config, lambda: Collaboration(config.model))
    types = dict.fromkeys(config.model.agents, 1.0)

    def stage(pool: Pool, _: Report) -> Stage:
        return CollaborativeTraining(model, pool, types, config.scenes, config.batch_size)

    def packs(provenance: dict[str, Any]) -> dict[str, Pack]:
        encoders = {name: agent_pack(model, name, provenance) for name in types}
        return {"base": base_pack(model, provenance), **encoders}

    return _run(config, "base", model, list(types), stage, packs, report, Roster(next(iter(types)), tuple(types)))


def train_encoder(config: EncoderConfig, report: Report | None = None) -> JobResult:
    """Pretrain a newcomer's encoder alone.

    Its own backbone, neck and head travel in its agent pack: the newcomer goes on detecting alone with them. They are
    kept as a base pack, too: the dedicated single-agent network.
    """
    alone = {"agents": {config.name: config.agent.model_dump()}, "fusion": {"part": "none"}}
    sizes = build(ModelConfig, {**config.model.model_dump(), **alone}, complete=True)
    model = seeded(config, lambda: Collaboration(sizes))
    if config.scenes.senders:
        raise ConfigError("scenes.senders must be 0: an encoder is pretrained alone, without collaborators")

    def stage(pool: Pool, _: Report) -> Stage:
        return CollaborativeTraining(model, pool, {config.name: 1.0}, config.scenes, config.batch_size, name="encoder")

    def packs(provenance: dict[str, Any]) -> dict[str, Pack]:
        network = base_pack(model, provenance)
        return {"base": network, config.name: with_detector(agent_pack(model, config.name, provenance), network)}

    return _run(config, "encoder", model, [config.name], stage, packs, report, _alone(config.name))


def train_reader(config: TrainReaderConfig, report: Report | None = None) -> JobResult:
    """Fit the codebook of a base and train its reader; writes the base with both.

    Its features mean what they did before, so that its agents and adapters remain valid.
    """
    pack = read_pack(config.base, "base")
    with plugins.allowing(config.allow_parts):
        model = assemble(Collaboration, pack, [read_pack(path, "agent") for path in config.agents])
    model = seeded(config, lambda: reading(model, config.reader, config.codebook, config.budget_bytes))
    types = dict.fromkeys(model.config.agents, 1.0)
    model.require(types, ENCODES)

    def stage(pool: Pool, report: Report) -> Stage:
        cache = fill_cache(
            model,
            pool,
            list(types),
            [],
            config.scenes,
            config.seed,
            lambda a, b: report("caching messages", a, b),
            precision=precision_on(model.device, config.precision),
        )
        if model.codebook is not None:
            model.codebook.fit(sampled_cells(model, cache, config.seed), config.seed)
        how = config.batch_size, config.window, config.shares, config.unreported
        return ReaderTraining(model, types, cache, config.scenes, *how)

    def packs(provenance: dict[str, Any]) -> dict[str, Pack]:
        return {"base": base_pack(model, {**pack.provenance, "reader": provenance})}

    return _run(config, "reader", model, list(types), stage, packs, report, Roster(next(iter(types)), tuple(types)))


def adapt_local(config: LocalConfig, report: Report | None = None) -> JobResult:
    """Local Heterogeneous Fine-Tuning: the newcomer's adapters, on its own data, against the frozen base."""
    model = load_for_adaptation(config)
    newcomer, whose = config.newcomer, teacher_for(model, config.newcomer, config.like, config.teacher)
    model.require([newcomer] if whose == "none" else [newcomer, config.like], ENCODES)

    def stage(pool: Pool, report: Report) -> Stage:
        cache = fill_cache(
            model,
            pool,
            [],
            [newcomer],
            config.scenes,
            config.seed,
            lambda a, b: report("caching encoder outputs", a, b),
            None if whose == "none" else (config.like, whose),
            precision_on(next(model.parameters()).device, config.precision),
        )
        if config.keep_cache and distributed.rank() == 0:
            save_cache(cache, config.out / "cache.safetensors", _made_from(config, whose))
        if config.closed_form and config.adapter is None and cache.teacher is not None:
            start_from_teacher(model, newcomer, cache.features[newcomer], cache.teacher, config.seed)
        min_hits = config.scenes.min_hits
        return LocalFineTuning(model, newcomer, cache, config.batch_size, config.window, min_hits, config.distill)

    types = [newcomer, config.like] if whose == "companion" else [newcomer]
    return _run(config, "local", model, types, stage, lambda p: _adapter(model, config, p), report, _alone(newcomer))


def adapt_collaborative(config: CollaborativeConfig, report: Report | None = None) -> JobResult:
    """Global Collaborative Fine-Tuning: everything that belongs to the newcomer, in scenes of mixed types."""
    model = load_for_adaptation(config)
    types = _mix(config)
    whose = teacher_for(model, config.newcomer, config.like, config.teacher)
    model.require(types, ENCODES)

    def stage(pool: Pool, report: Report) -> Stage:
        kept = None
        if config.cache is not None:
            kept = load_cache(config.cache, pool, config.scenes, config.seed, _made_from(config, whose))
        cache = fill_cache(
            model,
            pool,
            [config.like],
            [config.newcomer],
            config.scenes,
            config.seed,
            lambda a, b: report("caching messages", a, b),
            None if whose == "none" else (config.like, whose),
            precision_on(next(model.parameters()).device, config.precision),
            kept,
        )
        return CollaborativeFineTuning(
            model, config.newcomer, types, cache, config.scenes, config.batch_size, config.window, config.distill
        )

    read = [config.like] if config.cache is not None else list(types)
    heard = Roster(config.like, config.newcomer)
    return _run(config, "collaborative", model, read, stage, lambda p: _adapter(model, config, p), report, heard)


def full_finetune(config: FullConfig, report: Report | None = None) -> JobResult:
    """Full fine-tuning: every tensor of the base and the newcomer, on the same scenes.

    Nothing is cached, nothing stays.
    """
    model = load_for_adaptation(config, config.together, frozen_encoders=False)
    newcomers = (config.newcomer, *config.together)
    types = {config.like: config.deployed_share}
    types |= {name: (1 - config.deployed_share) / len(newcomers) for name in newcomers}
    required = None if config.together else config.newcomer
    model.require(types, ENCODES)
    whose = teacher_for(model, config.newcomer, config.like, config.teacher)
    if config.together and whose != "none":
        raise ConfigError("a teacher teaches one newcomer: leave out together=, or set teacher=none")

    def stage(pool: Pool, _: Report) -> Stage:
        return CollaborativeTraining(
            model,
            pool,
            types,
            config.scenes,
            config.batch_size,
            required=required,
            name="full_finetune",
            teacher=_onlooker(model, pool, config, whose),
            distill=config.distill,
        )

    def packs(provenance: dict[str, Any]) -> dict[str, Pack]:
        encoders = {name: agent_pack(model, name, provenance) for name in types}
        adapters = {f"adapter_{name}": adapter_pack(model, name, provenance) for name in config.together}
        return {"base": base_pack(model, provenance), **encoders, **_adapter(model, config, provenance), **adapters}

    heard = Roster(config.like, config.newcomer)
    return _run(config, "full_finetune", model, list(types), stage, packs, report, heard)


def align_backward(config: BackwardConfig, report: Report | None = None) -> JobResult:
    """Backward alignment after HEAL: the newcomer's whole encoder, on its own data, against the frozen base."""
    model = load_for_adaptation(config, frozen_encoders=False)
    whose = teacher_for(model, config.newcomer, config.like, config.teacher)
    model.require([config.newcomer] if whose == "none" else [config.newcomer, config.like], ENCODES)

    def stage(pool: Pool, _: Report) -> Stage:
        taught = _onlooker(model, pool, config, whose), config.distill
        how = config.scenes, config.batch_size, config.window
        return BackwardAlignment(model, config.newcomer, pool, *how, *taught)

    def packs(provenance: dict[str, Any]) -> dict[str, Pack]:
        return {config.newcomer: agent_pack(model, config.newcomer, provenance)}

    alone = _alone(config.newcomer)
    types = [config.newcomer, config.like] if whose == "companion" else [config.newcomer]
    return _run(config, "backward_alignment", model, types, stage, packs, report, alone)


def _onlooker(model: Collaboration, pool: Pool, config: AdaptConfig, whose: str) -> Onlooker | None:
    """The teacher of a newcomer whose encoder trains; the first agents of some frames give its scale."""
    if whose == "none":
        return None
    frames = range(0, len(pool.frames), max(1, len(pool.frames) // 32))
    seen_as = config.like if whose == "companion" else config.newcomer
    agents = [pool.agent(frame, 0, seen_as) for frame in frames]
    if whose == "own":
        agents = [as_seen_by(model, config.like, agent) for agent in agents]
    return Onlooker(model, config.like, whose, agents)


def seconds_to_plateau(curve: Sequence[dict[str, Any]], tolerance: float = 0.005) -> float | None:
    """CPU seconds until a validation curve came within `tolerance` of its best AP50; None if it was not measured."""
    points = [point for point in curve if "ap50" in point]
    if not points:
        return None
    best = max(point["ap50"] for point in points)
    return float(next(point["cpu_seconds"] for point in points if point["ap50"] >= best - tolerance))


def _run(
    config: JobConfig,
    name: str,
    model: Collaboration,
    types: list[str],
    make_stage: Callable[[Pool, Report], Stage],
    make_packs: Callable[[dict[str, Any]], dict[str, Pack]],
    report: Report | None,
    roster: Roster,
) -> JobResult:
    """Read, prepare, train, write: the same for every job.

    Args:
        roster: who plays what in validation.
    """
    tell = report or (lambda *_: None)
    config = settled(config)
    dataset = open_split(config, "train")
    identity = identity_of(config, dataset)
    refuse_to_overwrite(config, identity)
    model.to(find_device(config.device))
    with Stopwatch() as preparation:
        agents = {type_name: model.agent(type_name) for type_name in types}
        skip = config.on_bad_file == "skip"
        pool = load_pool(
            dataset, agents, config.frames, lambda a, b: tell("reading frames", a, b), config.hold_data, skip
        )
        stage = make_stage(pool, tell)
    speaks = distributed.rank() == 0
    events = EventWriter(config.out if speaks else None)
    with log_to(config.out / "log.txt") if speaks else nullcontext(), closing(events):
        log.debug("%s: %s", name, identity)
        record = train(
            stage,
            config,
            config.out / "checkpoint.safetensors",
            progress=lambda done, total, terms: tell(_with_loss("training", terms), done, total),
            measure=_validation(config, model, roster, events) if config.validate_frames else None,
            measure_at=_measure_at(config),
            identity=identity,
            best=config.out / "best.safetensors" if config.keep == "best" else None,
            watch=events.add,
        )
        log.debug("finished after %.1f CPU seconds; frozen: %s", record.cpu_seconds, record.frozen_proof)
    model.eval().to("cpu")
    preparing = float(distributed.all_reduce_detached(torch.tensor(preparation.cpu_s, dtype=torch.float64)))
    seconds, wall = preparing + record.cpu_seconds, preparation.wall_s + record.wall_seconds
    record.bad_files = list(dict.fromkeys([*pool.bad_files, *record.bad_files]))
    about = {"seconds": round(seconds, 2), "wall_seconds": round(wall, 2), **record.to_dict()}
    if distributed.rank() > 0:
        return JobResult(model, record, seconds, wall, [])
    write_json(config.out / "config.json", config.model_dump(mode="json"))
    write_json(config.out / "record.json", {**about, "identity": identity})
    provenance = {
        "job": name,
        "settings": portable(config),
        "data_fingerprint": dataset.fingerprint,
        "cpu_seconds": round(seconds, 1),
        "steps": record.steps,
        "trained_parameters": record.trained_parameters,
        "code_version": __version__,
    }
    packs = [write_pack(pack, config.out / f"{stem}.safetensors") for stem, pack in make_packs(provenance).items()]
    return JobResult(model, record, seconds, wall, packs)


def _adapter(model: Collaboration, config: AdaptConfig, provenance: dict[str, Any]) -> dict[str, Pack]:
    return {"adapter": adapter_pack(model, config.newcomer, provenance)}


def _made_from(config: LocalConfig | CollaborativeConfig, teacher: str) -> dict[str, Any]:
    """What decides the newcomer's encoder outputs and the teacher's features."""
    settings = config.model_dump(mode="json", include={"newcomer", "like", "frames", "seed", "scenes", "precision"})
    packs = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (config.base, *config.agents)]
    return {**settings, "teacher": teacher, "data": open_split(config, "train").fingerprint, "packs": packs}


def _mix(config: CollaborativeConfig) -> dict[str, float]:
    return {config.like: config.deployed_share, config.newcomer: 1 - config.deployed_share}


def _alone(name: str) -> Roster:
    return Roster(name, name, drop=True)


def _validation(config: JobConfig, model: Collaboration, roster: Roster, events: EventWriter) -> Measure:
    """Average precision on frames of the validation split, and a picture of the first."""
    evaluator = Evaluator(open_split(config, "validate"), limit=config.validate_frames)
    shown = evaluator.indices[0]
    evaluator.keep = {shown}

    def measure(step: int) -> dict[str, float]:
        evaluation = evaluator.evaluate(model, roster)
        ap = evaluation.result.ap
        if shown in evaluation.scenes:  # of several processes the first one runs it, and writes
            events.picture(step, from_above(evaluation.scenes[shown], model.grid))
        # an evaluation without ground truth does not end
        return {f"ap{round(100 * float(threshold))}": value for threshold, value in ap.items() if value is not None}

    return measure


def _measure_at(config: JobConfig) -> tuple[int, ...]:
    if not config.validate_frames:
        return ()
    return tuple({*range(config.validate_every, config.steps, config.validate_every), config.steps})


def _with_loss(what: str, terms: Mapping[str, float]) -> str:
    """What is being done, and how large the loss is as far as that is known."""
    return f"{what} · loss {sum(terms.values()):.3f}" if terms else what


def run_once(job: Any, run: Callable[[Any, Report], JobResult], tell: Tell, what: str) -> dict[str, Any]:
    """Run a job unless its finished result is there; gives its record."""
    if finished(job) is None:
        run(job, lambda step, done, total: tell(f"{what} ({step})" if step != "training" else what, done, total))
    record: dict[str, Any] = read_json(job.out / "record.json")
    return record
