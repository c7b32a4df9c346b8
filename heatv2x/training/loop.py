"""The one training loop.

Steps, learning rate, checkpoints, several processes, and the proof that frozen tensors stayed.

Exact: every step draws its batch from (seed, step), so a run that was killed and continued from its last checkpoint
ends with the same weights as one that was not (on a CPU, with the same number of threads and processes). Several
processes share each batch and end with the weights of one, up to the order in which numbers are added (see
`core.distributed`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch
from torch import Tensor, nn

from heatv2x.core import distributed
from heatv2x.errors import ConfigError
from heatv2x.evaluation.cost import peak_memory
from heatv2x.model.packs import tensors_digest
from heatv2x.nn.move import precision_on, to_device
from heatv2x.nn.recompute import recomputing
from heatv2x.nn.shared_norm import shared_norms
from heatv2x.training.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from heatv2x.training.loading import Prepared, batches
from heatv2x.training.optimiser import Optimiser, OptimiserConfig
from heatv2x.training.stage import Stage

log = logging.getLogger(__name__)


class LoopConfig(OptimiserConfig):
    """Attributes:
    seed: seed of every random draw.
    checkpoint_every: steps between checkpoints; 0 writes none.
    measure_every: steps between points of the curve and between looks at the loss, which wait for the GPU.
    workers: processes that prepare batches ahead of time; the weights do not depend on how many there are.
    precision: "auto" takes bfloat16 where the processor multiplies it natively, and float32 elsewhere.
    recompute: compute residual blocks again in the backward pass instead of keeping what is inside them: about half the
        memory of a step at published size, and the same weights.
    on_bad_file: "error" ends the run at a file that cannot be read; "skip" draws something else in its place, names
        the file in the log and in the record, and goes on.
    """

    seed: int = 0
    checkpoint_every: int = pydantic.Field(100, ge=0)
    measure_every: int = pydantic.Field(10, gt=0)
    workers: int = pydantic.Field(0, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    recompute: bool = False
    on_bad_file: Literal["error", "skip"] = "error"

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the weights, as JSON.

        Those that came later count only where they change something, so that earlier results stay what they are.
        """
        settings = self.model_dump(mode="json")
        later = {"schedule", "milestones", "accumulate", "ema"}
        unused = {"milestones"} if self.schedule == "cosine" else set()
        neutral = {name for name in later if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in settings.items() if name not in neutral | unused}


@dataclass
class TrainingRecord:
    """What a stage cost and what it proved; stored with every result.

    Attributes:
        stage: its name.
        steps: optimiser steps done.
        trained_parameters: number of values that were free to change.
        cpu_seconds, wall_seconds: of this stage's own work, batches included; CPU seconds of all processes together.
        waiting_seconds: how much of the wall time the steps waited for their batches.
        peak_memory_mb: highest memory of a process.
        processes: how many shared each batch.
        precision: of the matrix products.
        curve: points with step, cpu_seconds, loss, the terms, and whatever a measurement added.
        best: step and AP50 of the best validation, if the best weights were to be kept.
        frozen_proof: how many tensors were frozen, and the SHA-256 over them before and after.
        bad_files: files that could not be read and were passed over, each once (on_bad_file=skip).
    """

    stage: str
    steps: int = 0
    trained_parameters: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    waiting_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    processes: int = 1
    precision: str = "float32"
    curve: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    frozen_proof: dict[str, Any] = field(default_factory=dict)
    bad_files: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


Measure = Callable[[int], dict[str, float]]
Watch = Callable[[dict[str, float]], None]


def _nobody(*_: Any) -> None:
    """Default for a caller that wants no progress reports."""


def train(
    stage: Stage,
    config: LoopConfig,
    checkpoint: Path | None = None,
    progress: Callable[[int, int, dict[str, float]], None] = _nobody,
    measure: Measure | None = None,
    measure_at: tuple[int, ...] = (),
    identity: Mapping[str, Any] | None = None,
    best: Path | None = None,
    watch: Watch = _nobody,
) -> TrainingRecord:
    """Train a stage, from its checkpoint if there is one.

    Args:
        checkpoint: where to keep it; None keeps none.
        identity: what a checkpoint must have been made with to be continued, as JSON; the settings if None.
        progress: called after every step with (steps done, steps in all, loss terms).
        measure: called after the steps in `measure_at`, for example to evaluate; its time is not counted as training.
        best: where the weights with the highest "ap50" of `measure` are kept; the model ends with those instead of the
            last ones. Of equal ones the first counts.
        watch: called with every new point of the curve, besides its content with "seconds_per_step" and the share of
            them that steps waited for batches, "waiting_share", since the point before.

    Of several processes only the first one writes the checkpoint.

    Raises:
        ConfigError: nothing is trainable, or the checkpoint was made with other settings.
        LostProcessError: another process is gone.
        RuntimeError: a frozen tensor changed (a defect of a stage, never of the user).
    """
    model, identity = stage.model, {**(config.decisive() if identity is None else identity)}
    for name in ("workers", "recompute", "on_bad_file"):  # the weights do not depend on them
        identity.pop(name, None)
    parameters = _free(model, stage.trainable())
    device = parameters[0].device
    precision = precision_on(device, config.precision)
    distributed.broadcast_from_first(model.state_dict().values())
    record = TrainingRecord(stage.name, trained_parameters=sum(p.numel() for p in parameters), precision=precision)
    record.processes = distributed.world_size()
    identity["frozen"] = (frozen := frozen_digest(model))[1]
    optimiser = Optimiser(model, config, precision)
    if checkpoint is not None and _everywhere(checkpoint):
        _continue(record, load_checkpoint(checkpoint, model, optimiser.adamw, optimiser.average), identity, checkpoint)
    written = checkpoint if distributed.rank() == 0 and config.checkpoint_every else None
    stage.set_mode()
    clock = _Clock(record)
    terms: dict[str, float] = {}
    first, last = (steps * config.accumulate for steps in (record.steps, config.steps))
    how = config.workers, device, config.accumulate, config.on_bad_file == "skip"
    with (
        shared_norms(model),
        recomputing(model, config.recompute),
        _ended(batches(stage, config.seed, first, last, *how)) as supply,
    ):
        while record.steps < config.steps:
            loss = _gradients(stage, optimiser, supply, clock, config.accumulate, device)
            optimiser.step(record.steps)
            record.steps += 1
            point = record.steps % config.measure_every == 0 or record.steps in (1, config.steps)
            keep = checkpoint is not None and config.checkpoint_every and record.steps % config.checkpoint_every == 0
            measured = measure is not None and record.steps in measure_at
            if point or keep or measured:
                whole_loss, terms = clock.look(loss, stage)
            clock.step_done()
            at = {"step": record.steps, "cpu_seconds": round(record.cpu_seconds, 3)}
            if point:
                about = {"lr": optimiser.rate, "gradient_norm": float(optimiser.norm)}
                record.curve.append({**at, "loss": whole_loss, **terms, **about})
                watch({**record.curve[-1], **clock.pace()})
            if measured and measure is not None:
                _measure(stage, optimiser, record, at, measure, best)
                watch(record.curve[-1])
            progress(record.steps, config.steps, terms)
            if keep and written is not None:
                _save(written, model, optimiser, record, identity)
            clock.go_on()
    model.eval()
    model.has_trained(stage.trainable())
    record.frozen_proof = _proof(frozen, frozen_digest(model), stage.name)
    record.peak_memory_mb = round(distributed.all_reduce_max(peak_memory().resident_bytes) / 2**20, 1)
    if written:
        _save(written, model, optimiser, record, identity)
    _take_what_is_wanted(best, record, model, optimiser)
    record.frozen_proof = _proof(frozen, frozen_digest(model), stage.name)
    return record


@contextmanager
def _ended(supply: Generator[Prepared]) -> Iterator[Generator[Prepared]]:
    """A context after which no batch is being prepared any more."""
    with closing(supply):
        yield supply
        next(supply, None)  # there is none: its workers end by themselves


def _gradients(
    stage: Stage, optimiser: Optimiser, supply: Iterator[Prepared], clock: _Clock, rounds: int, device: torch.device
) -> Tensor:
    """The gradients of a step, from one batch or the mean of several; gives their loss. Its terms are the stage's."""
    losses, terms = [], []
    for place in range(rounds):
        if place:
            clock.step_done()
            clock.go_on()
        prepared = next(supply)
        clock.batch_arrived(prepared.cpu_seconds)
        clock.record.bad_files = list(dict.fromkeys([*clock.record.bad_files, *prepared.bad_files]))
        losses.append(optimiser.add(stage, to_device(prepared.batch, device), place == 0))
        terms.append(stage.last_terms)
    if rounds > 1:
        stage.last_terms = {name: torch.stack([each[name] for each in terms]).mean() for name in terms[0]}
    return losses[0] if rounds == 1 else torch.stack(losses).mean()


def _measure(
    stage: Stage,
    optimiser: Optimiser,
    record: TrainingRecord,
    at: Mapping[str, float],
    measure: Measure,
    best: Path | None,
) -> None:
    """Add a measurement of the weights that a pack would hold to the curve, and keep them if they are the best."""
    with optimiser.averaged():
        record.curve.append({**at, **measure(record.steps)})
        _keep_best(best, record, stage.model)
    stage.set_mode()


def _save(
    path: Path, model: nn.Module, optimiser: Optimiser, record: TrainingRecord, identity: Mapping[str, Any]
) -> None:
    about = {"identity": identity, **record.to_dict()}
    save_checkpoint(path, model, optimiser.adamw, about, optimiser.average)


class _Clock:
    """Counts a record's seconds: those of steps and their batches, not of measurements and checkpoints."""

    def __init__(self, record: TrainingRecord) -> None:
        self.record = record
        self.elsewhere = 0.0  # CPU seconds of workers since the last look
        self.paced = (record.steps, record.wall_seconds, record.waiting_seconds)
        self.go_on()

    def go_on(self) -> None:
        """Do not count what was done since `step_done`."""
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def batch_arrived(self, cpu_seconds: float) -> None:
        self.elsewhere += cpu_seconds
        self.record.waiting_seconds += time.perf_counter() - self.wall

    def step_done(self) -> None:
        self.elsewhere += time.process_time() - self.cpu
        self.record.wall_seconds += time.perf_counter() - self.wall

    def look(self, loss: Tensor, stage: Stage) -> tuple[float, dict[str, float]]:
        """Wait for the device and the other processes: the loss and its terms over all of them.

        Raises:
            ConfigError: the loss is not finite.
        """
        now = time.process_time()
        seconds, whole_loss, terms = _of_all(self.elsewhere + now - self.cpu, loss, stage.last_terms)
        self.elsewhere, self.cpu = 0.0, now
        self.record.cpu_seconds += seconds
        log.debug("step %d: %s", self.record.steps, {name: round(value, 4) for name, value in terms.items()})
        if not math.isfinite(whole_loss):
            raise ConfigError(f"{stage.name}: the loss is not finite at step {self.record.steps}: {terms}; lower lr")
        return whole_loss, terms

    def pace(self) -> dict[str, float]:
        """How fast the steps since the last call followed one another."""
        before, self.paced = self.paced, (self.record.steps, self.record.wall_seconds, self.record.waiting_seconds)
        steps, wall, waiting = (now - then for now, then in zip(self.paced, before, strict=True))
        return {"seconds_per_step": wall / steps, "waiting_share": waiting / wall if wall > 0 else 0.0}


def _keep_best(path: Path | None, record: TrainingRecord, model: nn.Module) -> None:
    """Save the weights, if the best are wanted and the last point of the curve is the best so far."""
    point = record.curve[-1]
    if path is not None and point["ap50"] > record.best.get("ap50", -math.inf):
        record.best = {"step": point["step"], "ap50": point["ap50"]}
        if distributed.rank() == 0:
            save_weights(path, model, record.best)


def _take_what_is_wanted(best: Path | None, record: TrainingRecord, model: nn.Module, optimiser: Optimiser) -> None:
    """Give the model the best weights, or the average of the last ones, if that was asked for."""
    if optimiser.average is not None:
        optimiser.average.take()
    if best is not None and record.best:
        if distributed.rank() == 0:
            load_weights(best, model, record.best)
        distributed.broadcast_from_first(model.state_dict().values())


def _of_all(seconds: float, loss: Tensor, terms: Mapping[str, Tensor]) -> tuple[float, float, dict[str, float]]:
    """CPU seconds, loss and loss terms of all processes together; waits for the device once."""
    here = torch.stack([loss.detach().double(), *(term.double() for term in terms.values())]).cpu()
    mine = torch.cat([torch.tensor([seconds], dtype=torch.float64), here])
    seconds, whole_loss, *values = distributed.all_reduce_detached(mine).tolist()
    return seconds, whole_loss, dict(zip(terms, values, strict=True))


def _everywhere(checkpoint: Path) -> bool:
    """Whether there is a checkpoint; all processes must agree on that."""
    otherwise = f"only some processes can see {checkpoint}: put out= on a disk that all of them share"
    return distributed.agree(checkpoint.exists(), otherwise)


def frozen_digest(model: nn.Module) -> tuple[int, str]:
    """How many tensors of a model are frozen, and a SHA-256 over them.

    Statistics of frozen normalisations are included.
    """
    parameters = dict(model.named_parameters())
    free = {name for name, parameter in parameters.items() if parameter.requires_grad}
    free_modules = {name.rpartition(".")[0] for name in free}
    kept = {}
    for name, value in sorted(model.state_dict().items()):
        is_statistic = name not in parameters and name.rpartition(".")[0] in free_modules
        if name in free or is_statistic:
            continue
        kept[name] = value
    return len(kept), tensors_digest(kept)


def _free(model: nn.Module, names: list[str]) -> list[nn.Parameter]:
    wanted = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigError("this stage has nothing to train: did the new type join with adapters?")
    return parameters


def _continue(record: TrainingRecord, saved: dict[str, Any], identity: Mapping[str, Any], path: Path) -> None:
    if saved.get("identity") != identity:
        before = saved.get("identity") or {}
        changed = sorted(key for key in {*before, *identity} if before.get(key) != identity.get(key))
        raise ConfigError(f"{path} was made with other settings ({', '.join(changed)}): delete it or use another out=")
    for key in ("steps", "cpu_seconds", "wall_seconds", "waiting_seconds", "curve", "best", "bad_files"):
        setattr(record, key, saved[key])
    log.info("continuing %s at step %d from %s", record.stage, record.steps, path)


def _proof(before: tuple[int, str], after: tuple[int, str], stage: str) -> dict[str, Any]:
    if before != after:
        raise RuntimeError(f"stage '{stage}' changed a frozen tensor")
    return {"tensors": before[0], "bit_identical": True, "sha256": after[1]}
