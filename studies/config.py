"""Settings of the adaptation study, and the names of its folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import pydantic

from heatv2x.core.config import Config

BASE, LIDAR, CAMERA = "lidar64", "lidar16", "camera"
NEWCOMERS = (LIDAR, CAMERA)


class AdaptationConfig(Config):
    """Attributes:
    out: where the world and the trainings lie.
    docs: where the page, the figures, the JSON and the results of the finished cells are written.
    seeds: of bases, encoders and adaptation alike; the world is the same for all.
    world_seed: of the synthetic world.
    train, validate, test: labelled frames.
    base_steps, encoder_steps: pretraining.
    adapt_frames: training frames that LHFT and GCFT use, spread evenly; all others use all.
    local_steps: LHFT.
    collaborative_steps, collaborative_lr: GCFT of a newcomer that carries a LiDAR: little is left to do after LHFT.
    collaborative_steps_more, collaborative_lr_more: GCFT of one that does not, which LHFT alone aligns less well.
    backward_steps: backward alignment.
    full_steps: full fine-tuning of base and LiDAR newcomer until well past its plateau.
    full_steps_more: the same with a camera newcomer, and with all types together.
    scratch_steps: training everything from scratch on the mix.
    budgets: shorter full fine-tunings for the curve, in steps.
    shares: shorter and longer adaptations and alignments for the curve, as multiples of their steps.
    processes: how many cells run side by side.
    newcomers: which newcomers are studied.
    """

    out: Path = Path("runs/bench/adaptation")
    docs: Path = Path("docs/benchmarks")
    seeds: tuple[int, ...] = (0, 1, 2)
    world_seed: int = 31
    train: int = pydantic.Field(400, gt=0)
    validate_: int = pydantic.Field(60, gt=0, alias="validate")
    test: int = pydantic.Field(100, gt=0)
    base_steps: int = pydantic.Field(1200, gt=0)
    encoder_steps: int = pydantic.Field(800, gt=0)
    adapt_frames: int = pydantic.Field(80, gt=0)
    local_steps: int = pydantic.Field(80, gt=0)
    collaborative_steps: int = pydantic.Field(30, gt=0)
    collaborative_steps_more: int = pydantic.Field(100, gt=0)
    collaborative_lr: float = pydantic.Field(5e-4, gt=0)
    collaborative_lr_more: float = pydantic.Field(2e-3, gt=0)
    backward_steps: int = pydantic.Field(300, gt=0)
    full_steps: int = pydantic.Field(600, gt=0)
    full_steps_more: int = pydantic.Field(250, gt=0)
    scratch_steps: int = pydantic.Field(800, gt=0)
    budgets: tuple[int, ...] = (75, 150, 300)
    shares: tuple[float, ...] = (0.5,)
    processes: int = pydantic.Field(2, gt=0)
    newcomers: tuple[str, ...] = NEWCOMERS

    @property
    def cells(self) -> Path:
        """One JSON per finished cell; what lies here is not measured again."""
        return self.docs / "adaptation_cells"

    def decisive(self) -> dict[str, Any]:
        """The settings that decide results, whatever the places and the seeds."""
        return self.model_dump(mode="json", exclude={"out", "docs", "seeds", "processes", "newcomers"})

    def world(self) -> dict[str, Any]:
        """The settings that decide the data of every cell."""
        return self.model_dump(mode="json", include={"world_seed", "train", "validate_", "test"})

    def collaborative_of(self, newcomer: str) -> tuple[int, float]:
        """Steps and learning rate of GCFT."""
        if newcomer == CAMERA:
            return self.collaborative_steps_more, self.collaborative_lr_more
        return self.collaborative_steps, self.collaborative_lr

    def full_steps_of(self, newcomer: str) -> int:
        """Steps of full fine-tuning with one newcomer."""
        return self.full_steps if newcomer == LIDAR else self.full_steps_more


def quick(config: AdaptationConfig) -> AdaptationConfig:
    """The same study with one seed and so little of everything that it only shows that every row can be made."""
    small = {
        "seeds": config.seeds[:1],
        "train": 60,
        "validate_": 6,
        "test": 12,
        "base_steps": 150,
        "encoder_steps": 100,
        "adapt_frames": 30,
        "local_steps": 40,
        "collaborative_steps": 20,
        "collaborative_steps_more": 30,
        "backward_steps": 40,
        "full_steps": 90,
        "full_steps_more": 60,
        "scratch_steps": 100,
        "budgets": (30,),
        "shares": (0.5,),
        "out": config.out.with_name(f"{config.out.name}_quick"),
        "docs": config.out.with_name(f"{config.out.name}_quick"),
    }
    return config.model_copy(update=small)


class OnItsNetworks(Config):
    """A study on the bases and encoders of the adaptation study.

    Attributes:
        docs: where the page, the figure, the JSON and the results of the finished cells are written.
        study: run folder of the adaptation study; its world and networks are used, and what is missing is trained.
        networks: frames and steps of that study.
        seeds: of bases, encoders, readers and adaptation alike.
        reader_frames: training frames that a base's reader is trained on, spread evenly.
        reader_steps: of the reader.
        frames: evaluate only the first frames of a split; null takes all.
        processes: how many cells run side by side.
    """

    docs: Path = Path("docs/benchmarks")
    study: Path = Path("runs/bench/adaptation")
    networks: AdaptationConfig = AdaptationConfig()
    seeds: tuple[int, ...] = pydantic.Field((0, 1, 2), min_length=1)
    reader_frames: int = pydantic.Field(200, gt=0)
    reader_steps: int = pydantic.Field(800, gt=0)
    frames: int | None = pydantic.Field(None, gt=0)
    processes: int = pydantic.Field(2, gt=0)

    @property
    def networks_here(self) -> AdaptationConfig:
        """The adaptation study whose run folder is used."""
        return self.networks.model_copy(update={"out": self.study, "seeds": self.seeds, "processes": self.processes})

    def small(self, name: str, **more: Any) -> Self:
        """One seed and little of everything: shows that every line can be drawn.

        Args:
            name: of the study, for its folder.
            more: what else is made small.
        """
        study = self.study.with_name(f"{self.study.name}_quick")
        little: dict[str, Any] = {
            "seeds": self.seeds[:1],
            "study": study,
            "docs": study.with_name(f"{name}_quick"),
            "networks": quick(self.networks),
            "reader_frames": 20,
            "reader_steps": 60,
            "frames": 4,
        }
        return self.model_copy(update=little | more)
