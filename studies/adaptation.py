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

from heatv2x.core.config import build
from heatv2x.core.workers import Tell
from heatv2x.evaluation.rows import OneBar
from heatv2x.model.assembly import resolved
from heatv2x.training import job_config
from heatv2x.world.build import build_world
from heatv2x.world.config import WorldConfig
from studies import experiments
from studies.cells import Cell, Content, defaults_of, finished, run_cells, written_out
from studies.config import BASE, LIDAR, AdaptationConfig

LHFT, GCFT = job_config.LocalConfig, job_config.CollaborativeConfig
BACKWARD, FULL = job_config.BackwardConfig, job_config.FullConfig


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
        found = [self._base("base")]
        found += [self._alone(name) for name in (*config.newcomers, BASE)]
        found.append(self._base("base_maximum"))
        for name in config.newcomers:
            found += self._joining(name)
        found.append(self._cell("twin", experiments.join_twin, (), 40, ("base",), GCFT))
        steps = config.scratch_steps
        found.append(
            self._cell(
                "scratch_mix",
                experiments.scratch_mix,
                (),
                0.6 * steps,
                steps=steps,
                recipe=written_out(experiments.mix_recipe(config.newcomers)),
            )
        )
        if len(config.newcomers) > 1:
            found += self._together()
        found += [self._base("base_gate"), self._links()]
        return found

    def _base(self, name: str) -> Cell:
        steps, recipe = self.config.base_steps, written_out(experiments.base_recipe(name))
        return self._cell(name, experiments.train_base, (name,), 0.3 * steps, steps=steps, recipe=recipe)

    def _links(self) -> Cell:
        needs = tuple(experiments.FUSIONS.values())
        links = {link: channel.model_dump() for link, channel in experiments.LINKS.items()}
        return self._cell("links", experiments.compare_fusions, (), 120, needs, links=links)

    def _alone(self, name: str) -> Cell:
        steps, alone = self.config.encoder_steps, {"model": {"fusion": {"part": "none"}}}
        recipe = written_out(alone | experiments.encoder_recipe(name))
        return self._cell(f"encoder_{name}", experiments.train_alone, (name,), 0.3 * steps, steps=steps, recipe=recipe)

    def _joining(self, name: str) -> list[Cell]:
        config, cell = self.config, self._cell
        needs, full = ("base", f"encoder_{name}"), config.full_steps_of(name)
        found = [
            cell(f"{name}/joined", experiments.join, (name,), 200, needs, LHFT, GCFT),
            cell(f"{name}/full_finetune", experiments.full_finetune, (name, full), 0.5 * full, needs, FULL),
            cell(f"{name}/maximum", experiments.join_maximum, (name,), 50, ("base_maximum", *needs), LHFT, GCFT),
            cell(f"{name}/partly", experiments.join_partly, (name,), 100, needs, LHFT, GCFT),
            cell(
                f"{name}/ablation", experiments.ablate_adaptation, (name,), 150, (*needs, f"{name}/joined"), LHFT, GCFT
            ),
            self._backward(name, config.backward_steps),
        ]
        more = (f"{name}/full_finetune",) if name == LIDAR else ()
        found.append(cell(f"{name}/boxes", experiments.share_boxes, (name,), 60, (*needs, f"{name}/joined", *more)))
        if name == LIDAR:
            for steps in config.budgets:
                found.append(
                    cell(f"{name}/full_{steps}", experiments.full_finetune, (name, steps), 0.5 * steps, needs, FULL)
                )
            for share in config.shares:
                found.append(
                    cell(f"{name}/joined_x{share:g}", experiments.budget, (name, share), 60, needs, LHFT, GCFT)
                )
                found.append(self._backward(name, max(1, round(share * config.backward_steps))))
        return found

    def _backward(self, name: str, steps: int) -> Cell:
        place = f"{name}/backward" if steps == self.config.backward_steps else f"{name}/backward_{steps}"
        needs = ("base", f"encoder_{name}")
        return self._cell(place, experiments.align_backward, (name, steps), 0.3 * steps, needs, BACKWARD)

    def _together(self) -> list[Cell]:
        config = self.config
        encoders = tuple(f"encoder_{name}" for name in config.newcomers)
        joined = tuple(f"{name}/joined" for name in config.newcomers)
        steps = config.full_steps_more
        return [
            self._cell("all/joined", experiments.join_all, (), 120, ("base", *encoders, *joined)),
            self._cell(
                "all/full_finetune", experiments.full_finetune_all, (), 0.6 * steps, ("base", *encoders), FULL,
                steps=steps,
            ),
        ]  # fmt: skip

    def _cell(
        self,
        name: str,
        work: Callable[..., Content],
        arguments: tuple[Any, ...],
        seconds: float,
        needs: tuple[str, ...] = (),
        *jobs: type[BaseModel],
        **more: Any,
    ) -> Cell:
        """A cell; what decides its result is its data, its arguments, its jobs' defaults, its cells, and `more`."""
        seed = f"seed{self.seed}"
        settings = {"world": self.config.world(), "seed": self.seed, "work": [work.__name__, *arguments], **more}
        settings |= {job.__name__: defaults_of(job) for job in jobs}
        for job in (LHFT, GCFT):
            if job not in jobs:
                continue
            settings[job.__name__]["received"] = resolved("adapters", experiments.RECEIVED).model_dump(mode="json")
        if GCFT in jobs:
            settings |= {"frames": self.config.adapt_frames, "local_steps": self.config.local_steps}
            settings["collaborative"] = self.config.collaborative_of(name.partition("/")[0])
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
        newcomer, _, work = name.partition("/")
        if newcomer == "all":
            return ()
        if work in ("joined", "maximum"):
            run = newcomer if work == "joined" else f"maximum_{newcomer}"
            return tuple(self.place.pack(f"{run}_{stage}", "adapter") for stage in ("local", "collaborative"))
        if work == "full_finetune":
            run = f"full_{newcomer}_{self.config.full_steps_of(newcomer)}"
            return tuple(self.place.pack(run, pack) for pack in ("base", BASE, newcomer, "adapter"))
        return ()
