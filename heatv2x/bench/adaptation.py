"""The adaptation study: which cells there are, in which order, and what each needs.

A newcomer joins a frozen base, and everything a sceptic would compare that with is trained and measured beside it:
dedicated networks, late fusion, maximum fusion, HEAL's backward alignment, full fine-tuning, training from scratch on
the mix, and the controls. Bases and encoders are reseeded, too. Every row is measured on the test towns; what was
chosen (steps, rates, ranks) was chosen on the validation towns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from heatv2x.bench import experiments
from heatv2x.bench.cells import Cell, Content, finished, run_cells
from heatv2x.bench.config import BASE, LIDAR, AdaptationConfig
from heatv2x.config import build
from heatv2x.rows import OneBar
from heatv2x.training import job_config
from heatv2x.workers import Tell
from heatv2x.world.build import build_world
from heatv2x.world.config import WorldConfig


def run_adaptation(config: AdaptationConfig, tell: Tell) -> dict[str, Content]:
    """Build the world, do every cell that is not done, and give all contents by cell."""
    build_world(world_of(config), OneBar(tell, "building the world").of(1))
    return run_cells(cells_of(config), config.cells, config.processes, tell)


def finished_cells(config: AdaptationConfig) -> dict[str, Content]:
    """The contents of the cells that are done."""
    return finished(cells_of(config), config.cells)


def world_of(config: AdaptationConfig) -> WorldConfig:
    """The study's world, with every sensor, so that further types can be studied on the same frames."""
    return build(
        WorldConfig,
        {
            "out": config.out / "world",
            "train": config.train,
            "validate": config.validate_,
            "test": config.test,
            "seed": config.world_seed,
            "workers": config.processes,
        },
    )


def cells_of(config: AdaptationConfig) -> list[Cell]:
    """Every cell of every seed; what is needed first comes first, and a whole seed before the next."""
    return [cell for seed in config.seeds for cell in _Seed(config, seed).cells()]


class _Seed:
    """The cells of one seed."""

    def __init__(self, config: AdaptationConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.place = experiments.Place(config, seed)

    def cells(self) -> list[Cell]:
        config = self.config
        base = self._cell("base", experiments.train_base, ("hetero_graph", "base"), 0.3 * config.base_steps)
        found = [base]
        found += [self._alone(name) for name in (*config.newcomers, BASE)]
        found.append(
            self._cell("base_maximum", experiments.train_base, ("maximum", "base_maximum"), 0.25 * config.base_steps)
        )
        for name in config.newcomers:
            found += self._joining(name)
        found.append(self._cell("twin", experiments.join_twin, (), 80, ("base",), job_config.CollaborativeConfig))
        found.append(self._cell("scratch_mix", experiments.scratch_mix, (), 0.4 * config.scratch_steps))
        encoders = tuple(f"encoder_{name}" for name in config.newcomers)
        if len(config.newcomers) > 1:
            joined = tuple(f"{name}/joined" for name in config.newcomers)
            found.append(self._cell("all/joined", experiments.join_all, (), 60, ("base", *encoders, *joined)))
            seconds = 0.5 * config.full_steps
            found.append(
                self._cell(
                    "all/full_finetune",
                    experiments.full_finetune_all,
                    (),
                    seconds,
                    ("base", *encoders),
                    job_config.FullConfig,
                )
            )
        return found

    def _joining(self, name: str) -> list[Cell]:
        config = self.config
        adapting = (job_config.LocalConfig, job_config.CollaborativeConfig)
        needs = ("base", f"encoder_{name}")
        cell = self._cell
        found = [
            cell(f"{name}/joined", experiments.join, (name,), 200, needs, *adapting),
            cell(f"{name}/full_finetune", experiments.full_finetune, (name, config.full_steps), 0.4 * config.full_steps,
                 needs, job_config.FullConfig),
            cell(f"{name}/backward", experiments.align_backward, (name, config.backward_steps),
                 0.3 * config.backward_steps, needs, job_config.BackwardConfig),
            cell(f"{name}/maximum", experiments.join_maximum, (name,), 120, ("base_maximum", *needs), *adapting),
            cell(f"{name}/partly", experiments.join_partly, (name,), 150, needs, *adapting),
        ]  # fmt: skip
        if name == LIDAR:
            for steps in config.budgets:
                found.append(
                    cell(f"{name}/full_{steps}", experiments.full_finetune, (name, steps), 0.35 * steps, needs,
                         job_config.FullConfig)
                )  # fmt: skip
            for share in config.shares:
                steps = max(1, round(share * config.backward_steps))
                found += [
                    cell(f"{name}/joined_x{share:g}", experiments.budget, (name, share), 80 * share, needs, *adapting),
                    cell(f"{name}/backward_{steps}", experiments.align_backward, (name, steps), 0.3 * steps, needs,
                         job_config.BackwardConfig),
                ]  # fmt: skip
        return found

    def _alone(self, name: str) -> Cell:
        return self._cell(f"encoder_{name}", experiments.train_alone, (name,), 0.3 * self.config.encoder_steps)

    def _cell(
        self,
        name: str,
        work: Callable[..., Content],
        arguments: tuple[Any, ...],
        seconds: float,
        needs: tuple[str, ...] = (),
        *jobs: type[BaseModel],
    ) -> Cell:
        seed = f"seed{self.seed}"
        settings = {"study": self.config.decisive(), "seed": self.seed, "work": [work.__name__, *arguments]}
        settings |= {job.__name__: _defaults(job) for job in jobs}
        return Cell(
            f"{seed}/{name}",
            work,
            (self.config, self.seed, *arguments),
            settings,
            tuple(f"{seed}/{need}" for need in needs),
            self._packs(name),
            seconds,
        )

    def _packs(self, name: str) -> tuple[Path, ...]:
        """What a cell leaves for others."""
        if name.startswith("base"):
            return (self.place.pack(name, "base"), self.place.pack(name, BASE))
        if name.startswith("encoder_"):
            return (self.place.pack(name, "base"), self.place.pack(name, name.removeprefix("encoder_")))
        if name.endswith("/joined") and not name.startswith("all"):
            newcomer = name.partition("/")[0]
            return tuple(self.place.pack(f"{newcomer}_{stage}", "adapter") for stage in ("local", "collaborative"))
        return ()


def _defaults(job: type[BaseModel]) -> dict[str, Any]:
    """A job's own defaults: when one changes, what was measured with the old one is done again."""
    return {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, field in job.model_fields.items()
        if not field.is_required() and not isinstance(value := field.get_default(), Path)
    }
