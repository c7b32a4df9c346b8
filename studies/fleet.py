"""Agent types that join one base one after another: who they are, their trainings, and everybody's AP after each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from heatv2x.core.config import Config, nearest, read_recipe
from heatv2x.core.workers import Tell
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.roster import Roster
from heatv2x.evaluation.rows import OneBar, cost_of, to_row
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.packs import read_pack
from heatv2x.training import job_config, jobs, recipes
from studies import experiments
from studies.config import BASE, NEWCOMERS, AdaptationConfig

OTHERS: dict[str, dict[str, Any]] = {
    "lidar32": {"part": "lidar_pillar", "settings": {"sensor": "lidar32"}},
    "lidar32_slices": {"part": "lidar_slices", "settings": {"sensor": "lidar32", "slices": 14}},
    "lidar16_pillars": {"part": "lidar_pillar", "settings": {"sensor": "lidar16", "pillar_channels": 16, "blocks": 1}},
}
"""Newcomers beyond those of the adaptation study, which come with a recipe each."""
ABOUT = {
    BASE: "64 beams, pillars: the base",
    "lidar16": "16 beams, height slices",
    "camera": "four cameras, lift and splat",
    "lidar32": "32 beams, pillars",
    "lidar32_slices": "32 beams, height slices, 14 of them",
    "lidar16_pillars": "16 beams, narrower pillars, a deeper trunk",
}


class FleetConfig(Config):
    """Attributes:
    out: where the crowded scenes lie.
    study: run folder of the adaptation study; its world and networks are used, and what is missing is trained there.
    networks: frames and steps of that study, for example networks.local_steps=100.
    seeds: of bases, encoders and adaptation alike.
    types: newcomers in the order in which they join.
    frames: evaluate only the first test frames; null takes all.
    agents: how many agents a scene has, the ego included.
    scenes: crowded scenes that are timed.
    repeats: how often each is timed.
    world_seed: of the crowded scenes.
    """

    out: Path = Path("runs/bench/scaling")
    study: Path = Path("runs/bench/adaptation")
    networks: AdaptationConfig = AdaptationConfig()
    seeds: tuple[int, ...] = pydantic.Field((0,), min_length=1)
    types: tuple[str, ...] = pydantic.Field((*NEWCOMERS, *OTHERS), min_length=1)
    frames: int | None = pydantic.Field(None, gt=0)
    agents: tuple[int, ...] = pydantic.Field((2, 3, 4, 5, 6, 8, 10), min_length=1)
    scenes: int = pydantic.Field(4, ge=2)
    repeats: int = pydantic.Field(9, gt=0)
    world_seed: int = 33

    @pydantic.model_validator(mode="after")
    def _possible(self) -> FleetConfig:
        for name in self.types:
            if name not in (*NEWCOMERS, *OTHERS):
                raise ValueError(f"types: unknown newcomer '{name}'; {nearest(name, (*NEWCOMERS, *OTHERS))}")
        if len(set(self.types)) < len(self.types):
            raise ValueError(f"types: a type joins once, got {', '.join(self.types)}")
        if min(self.agents) < 2 or max(self.agents) > 14:
            raise ValueError(f"agents: 2 to 14 can be in a scene, got {', '.join(map(str, self.agents))}")
        return self

    @property
    def networks_here(self) -> AdaptationConfig:
        """The adaptation study whose run folder is used."""
        return self.networks.model_copy(update={"out": self.study})

    def deployed(self, count: int | None = None) -> tuple[str, ...]:
        """The first `count` types, the base's own first; all if None."""
        return (BASE, *self.types)[:count]


@dataclass(frozen=True)
class Mixed(Roster):
    """All types take turns among the senders, and the turn starts at another type in every scenario.

    So with more types than senders every type is heard somewhere.
    """

    def roles(self, agent_ids: Collection[int], ego_id: int, scenario: str = "") -> dict[int, str]:
        others = sorted(agent_id for agent_id in agent_ids if agent_id != ego_id)
        types = self.in_turn
        start = sum(agent_ids) % len(types)
        roles = {agent_id: types[(start + rank) % len(types)] for rank, agent_id in enumerate(others)}
        return {ego_id: self.ego, **roles}


def place_of(config: FleetConfig, seed: int) -> experiments.Place:
    """One seed's corner of the adaptation study's run folder."""
    return experiments.Place(config.networks_here, seed)


def recipe_of(name: str) -> dict[str, Any]:
    """How a newcomer's encoder is pretrained."""
    if name in NEWCOMERS:
        return read_recipe(recipes.FOLDER / f"demo_{name}.yaml")
    return {"name": name, "agent": OTHERS[name], "batch_size": 6, "lr": 2e-3}


def joined_packs(place: experiments.Place, deployed: Collection[str]) -> list[Path]:
    """The base, every encoder, and the adapters of the newcomers among them."""
    newcomers = [name for name in deployed if name != BASE]
    adapters = [place.pack(f"{name}_collaborative", "adapter") for name in newcomers]
    return [place.pack("base", "base"), place.pack("base", BASE), *map(place.encoder, newcomers), *adapters]


# --- what the cells do ----------------------------------------------------------------------------------------------


def train_base(config: FleetConfig, seed: int, tell: Tell) -> dict[str, Any]:
    """The base that all join: the adaptation study's."""
    return experiments.train_base(config.networks_here, seed, "base", tell)


def pretrain(config: FleetConfig, seed: int, name: str, tell: Tell) -> dict[str, Any]:
    """A newcomer's dedicated network, trained alone; its encoder is what it brings."""
    if name in NEWCOMERS:
        return experiments.train_alone(config.networks_here, seed, name, tell)
    place, out = place_of(config, seed), f"encoder_{name}"
    settings = {"data": place.world, "out": place.run(out), "steps": config.networks.encoder_steps, "seed": seed}
    record = place.train(out, job_config.EncoderConfig(**recipe_of(name), **settings), jobs.train_encoder, tell)
    model = Collaboration.from_packs(place.pack(out, "base"), place.encoder(name))
    roster = Roster(name, name, drop=True)
    place.evaluate(tell, name, [(f"ego_{name}/single_agent", model, roster, cost_of(record))])
    return place.content()


def join(config: FleetConfig, seed: int, name: str, tell: Tell) -> dict[str, Any]:
    """LHFT and GCFT of one newcomer against the base; it never meets another newcomer."""
    place = place_of(config, seed)
    records, adapters = experiments.adapt(place, name, tell, name)
    encoder = read_pack(place.encoder(name), "agent")
    place.facts = {
        "type": name,
        "trained_parameters": max(record["trained_parameters"] for record in records),
        "seconds": round(sum(record["seconds"] for record in records), 2),
        "adapter_pack_bytes": adapters[-1].stat().st_size,
        "encoder_parameters": encoder.parameters,
        "frozen_tensors": [record["frozen_proof"]["tensors"] for record in records],
    }
    return place.content()


def evaluate(config: FleetConfig, seed: int, count: int, tell: Tell) -> dict[str, Any]:
    """Every deployed type as ego, as sender and alone, and scenes of all types, with the first `count` types joined."""
    place, deployed = place_of(config, seed), config.deployed(count)
    model = Collaboration.from_packs(*joined_packs(place, deployed))
    evaluator = Evaluator(Opv2v(place.world, "test"), limit=config.frames)
    plan = rosters(deployed)
    bar, rows = OneBar(tell, "evaluating"), []
    before = BASE
    for name, (agent_type, roster) in plan.items():
        if before not in (agent_type, BASE):  # what a type said is large and not needed any more
            evaluator.forget(before)
        before = agent_type
        evaluation = evaluator.evaluate(model, roster, bar.of(len(plan)))
        row = to_row(f"after_{count}/{name}", agent_type, roster, seed, evaluation, model, {})
        about = {"after": count, "what": name, "arrived": evaluation.arrived, "found": evaluation.found}
        rows.append({**row, **about})
    base = read_pack(place.pack("base", "base"), "base")
    encoder = read_pack(place.encoder(BASE), "agent")
    facts = {
        "deployed": list(deployed),
        "base_parameters": base.parameters + encoder.parameters,
        "base_unchanged": model.feature_space.hex() == base.feature_space,
    }
    return {"seed": seed, "rows": rows, "stages": [], "facts": facts}


def rosters(deployed: Collection[str]) -> dict[str, tuple[str, Roster]]:
    """What is measured by name: the type it is about, and who plays what."""
    found: dict[str, tuple[str, Roster]] = {}
    for name in deployed:
        found[f"sender_{name}"] = (name, Roster(BASE, name))
        found[f"ego_{name}"] = (name, Roster(name, BASE))
        found[f"alone_{name}"] = (name, Roster(name, BASE, drop=True))
    del found[f"ego_{BASE}"]  # the same as its being the sender
    found["mixed"] = ("all", Mixed(BASE, tuple(deployed)))
    return found
