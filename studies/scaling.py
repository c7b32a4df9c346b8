"""The scaling study: what grows when agent types join one after another, and when more agents share a scene.

Types join one frozen base one by one, each alone, as the adaptation study lets one join; after every joining, every
deployed type is measured again. Then scenes of up to ten agents show what the ego and a sender pay. Base, encoders and
adapters that the adaptation study left are taken as they are; only what is missing is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic

from heatv2x.core.workers import Tell
from heatv2x.evaluation.rows import OneBar
from heatv2x.training import job_config
from heatv2x.world.build import build_world
from studies import crowd, experiments, fleet
from studies.adaptation import world_of
from studies.cells import Cell, Content, defaults_of, run_cells, written_out
from studies.config import BASE
from studies.fleet import FleetConfig


class ScalingConfig(FleetConfig):
    """Attributes:
    docs: where the page, the figure, the JSON and the results of the finished cells are written.
    processes: how many cells run side by side; the agents of a scene are timed alone.
    """

    docs: Path = Path("docs/benchmarks")
    processes: int = pydantic.Field(2, gt=0)

    @property
    def cells(self) -> Path:
        """One JSON per finished cell."""
        return self.docs / "scaling_cells"


def quick(config: ScalingConfig) -> ScalingConfig:
    """One seed and so little of everything that it only shows that every number can be had."""
    out = config.out.with_name(f"{config.out.name}_quick")
    steps = {"base_steps": 40, "encoder_steps": 20, "local_steps": 6, "collaborative_steps": 6}
    networks = config.networks.model_copy(update={"train": 16, "validate_": 2, "test": 6, **steps})
    places = {"out": out, "docs": out, "study": out / "study"}
    small = {"seeds": config.seeds[:1], "agents": (2, 5, 10), "scenes": 2, "repeats": 3}
    return config.model_copy(update={**places, **small, "networks": networks})


def run_scaling(config: ScalingConfig, tell: Tell) -> dict[str, Content]:
    """Build both worlds, do every cell that is not done, and give all contents by cell."""
    build_world(world_of(config.networks_here), OneBar(tell, "building the world").of(1))
    build_world(crowd.world_of(config), OneBar(tell, "building crowded scenes").of(1))
    cells = cells_of(config)
    run_cells([cell for cell in cells if cell.work is not crowd.measure_crowd], config.cells, config.processes, tell)
    return run_cells(cells, config.cells, 1, tell)  # what is left is timed, with nobody beside it


def cells_of(config: ScalingConfig) -> list[Cell]:
    """Every cell of every seed; what is needed first comes first."""
    return [cell for seed in config.seeds for cell in _Seed(config, seed).cells()]


class _Seed:
    """The cells of one seed."""

    def __init__(self, config: ScalingConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.place = fleet.place_of(config, seed)

    def cells(self) -> list[Cell]:
        networks, place = self.config.networks, self.place
        base = (place.pack("base", "base"), place.pack("base", BASE))
        recipe = written_out(experiments.base_recipe("base"))
        found = [
            self._cell("base", fleet.train_base, (), {"recipe": recipe}, 0.3 * networks.base_steps, packs=base),
        ]
        for name in self.config.types:
            found += [self._pretraining(name), self._joining(name)]
        for count in range(1, len(self.config.types) + 2):
            deployed = self.config.deployed(count)
            needs = ("base", *(f"{name}/{part}" for name in deployed[1:] for part in ("encoder", "joined")))
            about: dict[str, Any] = {"deployed": deployed, "frames": self.config.frames}
            found.append(self._cell(f"after_{count}", fleet.evaluate, (count,), about, 60.0 * count, needs))
        if self.seed != self.config.seeds[0]:  # what a frame costs does not depend on the weights
            return found
        about = {"world": crowd.world_of(self.config).content(), "deployed": self.config.deployed()}
        about |= {"agents": self.config.agents, "repeats": self.config.repeats}
        seconds = 2.0 * self.config.scenes * self.config.repeats * len(self.config.agents)
        found.append(self._cell("crowd", crowd.measure_crowd, (), about, seconds, needs))
        return found

    def _pretraining(self, name: str) -> Cell:
        packs = (self.place.pack(f"encoder_{name}", "base"), self.place.encoder(name))
        about = {"recipe": written_out(fleet.recipe_of(name)), "EncoderConfig": defaults_of(job_config.EncoderConfig)}
        seconds = 0.3 * self.config.networks.encoder_steps
        return self._cell(f"{name}/encoder", fleet.pretrain, (name,), about, seconds, packs=packs)

    def _joining(self, name: str) -> Cell:
        stages = (job_config.LocalConfig, job_config.CollaborativeConfig)
        about = {job.__name__: defaults_of(job) for job in stages}
        packs = (self.place.pack(f"{name}_collaborative", "adapter"),)
        return self._cell(f"{name}/joined", fleet.join, (name,), about, 80.0, ("base", f"{name}/encoder"), packs)

    def _cell(
        self,
        name: str,
        work: Callable[..., Content],
        arguments: tuple[Any, ...],
        about: dict[str, Any],
        seconds: float,
        needs: tuple[str, ...] = (),
        packs: tuple[Path, ...] = (),
    ) -> Cell:
        seed = f"seed{self.seed}"
        settings = {"study": self.config.networks.decisive(), "seed": self.seed, "work": [work.__name__, *arguments]}
        return Cell(
            f"{seed}/{name}",
            work,
            (self.config, self.seed, *arguments),
            settings | about,
            tuple(f"{seed}/{need}" for need in needs),
            packs,
            seconds,
        )
