"""Every method with all that it can use: its own learning rate, the same teacher, and steps until more do not help.

The adaptation study gives each way to join one budget and its authors' settings. Here LHFT + GCFT, backward alignment
and full fine-tuning get the same number of tries on the validation towns: three learning rates, each with and without
the base's encoder as a teacher. The best is trained again, separately, with twice the steps, until two doublings
together bring less than half a point of AP50. Ours starts with 80 frames and has twice as many with twice the steps, as
far as there are; the rivals see all 400 from the start. What that chose is trained with every seed and looked at once
on the test towns, beside what each method reaches in the time that ours takes. All fuse features in 8 bits with the
same base; in a second set of rows the base reads boxes, too. One newcomer: the 16-beam LiDAR.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from heatv2x.core.config import Config
from heatv2x.core.workers import Tell
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.roster import Roster
from heatv2x.evaluation.rows import OneBar, cost_of, to_row
from heatv2x.link.channel import ChannelConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.training import job_config, jobs
from heatv2x.world.build import build_world
from studies import bandwidth, experiments
from studies.adaptation import world_of
from studies.cells import Cell, Content, defaults_of, run_cells
from studies.config import BASE, LIDAR, OnItsNetworks
from studies.experiments import Place, both_egos

METHODS = {
    "lhft_gcft": "LHFT + GCFT",
    "backward_alignment": "backward alignment (HEAL)",
    "full_finetune": "full fine-tuning",
}
LINKS = {"clean": ChannelConfig(), "noise": ChannelConfig(sigma_m=0.4, sigma_deg=0.4)}
DEPLOYED = ("lhft_gcft/end", "full_finetune/equal_time", "full_finetune/end")
"""Lines that are also measured on agents of the base's type alone; full fine-tuning changes those."""
ENOUGH = 0.005
"""AP50 that two doublings together must bring, or a method has had enough."""


class Limits(Config):
    """Attributes:
    lhft_gcft: the most steps of LHFT + GCFT, as a multiple of those that it is tried with.
    backward_alignment: of backward alignment.
    full_finetune: of full fine-tuning.
    """

    lhft_gcft: int = pydantic.Field(8, gt=0)
    backward_alignment: int = pydantic.Field(8, gt=0)
    full_finetune: int = pydantic.Field(4, gt=0)

    def of(self, method: str) -> int:
        """Of one method."""
        limit: int = getattr(self, method)
        return limit


class ConvergenceConfig(OnItsNetworks):
    """Attributes:
    rates: learning rates that are tried, as multiples of each method's own; the search is done with the first seed.
    steps: that backward alignment and full fine-tuning are tried with; LHFT + GCFT has the study's.
    limits: the most steps of each method, as multiples of those.
    """

    rates: tuple[float, ...] = pydantic.Field((1 / 3, 1.0, 3.0), min_length=1)
    steps: int = pydantic.Field(300, gt=0)
    limits: Limits = Limits()


def quick(config: ConvergenceConfig) -> ConvergenceConfig:
    """One seed, one rate and few steps: shows that every row can be made."""
    return config.small("convergence", rates=(1.0,), steps=20, limits=Limits(**dict.fromkeys(METHODS, 2)))


@dataclass(frozen=True)
class Try:
    """How one method is trained.

    Attributes:
        method: its name.
        rate: learning rate as a multiple of its own.
        taught: the base's encoder teaches.
        times: steps as a multiple of what it is tried with.
    """

    method: str
    rate: float
    taught: bool
    times: float = 1.0

    @property
    def name(self) -> str:
        """Of run folders and rows."""
        return f"{self.method}_lr{self.rate:g}{'_taught' if self.taught else ''}_x{self.times:g}"

    def about(self) -> dict[str, Any]:
        """As JSON."""
        return {"method": self.method, "rate": self.rate, "taught": self.taught, "times": self.times}


def run_convergence(config: ConvergenceConfig, tell: Tell) -> dict[str, Content]:
    """Search, then train and measure what was chosen; gives the contents of the cells."""
    build_world(world_of(config.networks_here), OneBar(tell, "building the world").of(1))
    folder = config.docs / "convergence_cells"
    searched = run_cells(search_cells(config), folder, config.processes, tell)
    chosen = {method: searched[f"search/{method}"]["chosen"] for method in METHODS}
    return searched | run_cells(final_cells(config, chosen), folder, config.processes, tell)


def search_cells(config: ConvergenceConfig) -> list[Cell]:
    """One cell per method."""
    longest, first = {"lhft_gcft": 300, "backward_alignment": 900, "full_finetune": 2500}, config.seeds[0]
    return [_networks(config, first)] + [
        Cell(
            f"search/{method}",
            search,
            (config, method),
            {**_about(config), "rates": config.rates, "limit": config.limits.of(method), "seed": first},
            (f"networks/seed{first}",),
            seconds=longest[method],
        )
        for method in reversed(METHODS)  # the longest first
    ]


def final_cells(config: ConvergenceConfig, chosen: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """One cell per seed, and what it starts from."""
    about, cells = {**_about(config), "chosen": chosen}, []
    for seed in config.seeds:
        networks = _networks(config, seed)
        what = config, dict(chosen), seed
        cells.append(networks)
        cells.append(
            Cell(f"final/seed{seed}", measure, what, {**about, "seed": seed}, (networks.name,), seconds=1500.0)
        )
    return cells


def _networks(config: ConvergenceConfig, seed: int) -> Cell:
    place = Place(config.networks_here, seed)
    packs = (place.pack("base", "base"), place.encoder(LIDAR), place.pack("reader", "base"))
    about = {"reader": [config.reader_frames, config.reader_steps], "seed": seed, **_about(config)}
    return Cell(f"networks/seed{seed}", prepare, (config, seed), about, (), packs, 1200.0)


def _about(config: ConvergenceConfig) -> dict[str, Any]:
    """What decides every result."""
    kinds = (
        job_config.LocalConfig,
        job_config.CollaborativeConfig,
        job_config.BackwardConfig,
        job_config.FullConfig,
    )
    settings = {kind.__name__: defaults_of(kind) for kind in kinds}
    return {**config.networks.decisive(), **settings, "steps": config.steps, "frames": config.frames}


# --- on the validation towns ----------------------------------------------------------------------------------------


def prepare(config: ConvergenceConfig, seed: int, tell: Tell) -> Content:
    """What every method starts from, and the base's reader; most of it is there when other studies have run."""
    place = Place(config.networks_here, seed)
    bandwidth.prepare(place, tell)
    bandwidth.train_reader(config, place, tell)
    return {"seed": seed, "stages": place.stages}


def search(config: ConvergenceConfig, method: str, tell: Tell) -> Content:
    """Rates and teacher at one budget, then more steps as long as they help; all on the validation towns."""
    place = Place(config.networks_here, config.seeds[0])
    tries = [
        _tried(config, place, Try(method, rate, taught), tell) for taught in (False, True) for rate in config.rates
    ]
    best = max(tries, key=lambda one: one["ap"]["0.5"])
    doublings = [best]
    while doublings[-1]["times"] * 2 <= config.limits.of(method) and not settled(doublings):
        longer = Try(method, best["rate"], best["taught"], doublings[-1]["times"] * 2)
        doublings.append(_tried(config, place, longer, tell))
    end = max(doublings, key=lambda one: one["ap"]["0.5"])
    return {"tries": tries, "doublings": doublings, "settled": settled(doublings), "chosen": end}


def settled(doublings: list[dict[str, Any]]) -> bool:
    """Whether the last two doublings together brought less than `ENOUGH`."""
    best = [max(one["ap"]["0.5"] for one in doublings[: end + 1]) for end in range(len(doublings))]
    return len(best) >= 3 and best[-1] - best[-3] < ENOUGH


def _tried(config: ConvergenceConfig, place: Place, one: Try, tell: Tell) -> dict[str, Any]:
    packs, cost = train(config, place, one, tell)
    data = Opv2v(place.world, "validate")
    evaluation = Evaluator(data, limit=config.frames).evaluate(Collaboration.from_packs(*packs), Roster(BASE, LIDAR))
    return {**one.about(), "ap": evaluation.result.ap, "train_seconds": cost["train_seconds"], "steps": cost["steps"]}


# --- training -------------------------------------------------------------------------------------------------------


def train(
    config: ConvergenceConfig, place: Place, one: Try, tell: Tell, base: str = "base"
) -> tuple[list[Path], dict[str, Any]]:
    """The packs that a method gives, and what they cost.

    Args:
        base: the run whose base pack is joined.
    """
    return _TRAIN[one.method](config, place, one, tell, base)


def _lhft_gcft(
    config: ConvergenceConfig, place: Place, one: Try, tell: Tell, base: str
) -> tuple[list[Path], dict[str, Any]]:
    networks = place.config
    frames = min(networks.train, round(networks.adapt_frames * one.times))
    shared = place.adaptation(LIDAR) | {"base": place.pack(base, "base"), "frames": frames}
    shared |= {"teacher": "auto" if one.taught else "none"}
    records, adapter = [], None
    steps, rate = networks.collaborative_of(LIDAR)
    kinds: tuple[tuple[str, Any, Callable[..., Any], int, float], ...] = (
        ("lhft", job_config.LocalConfig, jobs.adapt_local, networks.local_steps, _own_rate(job_config.LocalConfig)),
        ("gcft", job_config.CollaborativeConfig, jobs.adapt_collaborative, steps, rate),
    )
    for stage, kind, run, own_steps, own_rate in kinds:
        out = place.run(f"{base}_{one.name}_{stage}".removeprefix("base_"))
        job = kind(
            **shared,
            adapter=adapter,
            out=out,
            steps=max(1, round(own_steps * one.times)),
            lr=own_rate * one.rate,
        )
        records.append(place.train(f"{one.name}/{stage}", job, run, tell))
        adapter = out / "adapter.safetensors"
    assert adapter is not None
    packs = [place.pack(base, "base"), place.pack("base", BASE), place.encoder(LIDAR), adapter]
    cost = experiments.together(records)
    return packs, {**cost, "steps": [record["steps"] for record in records]}


def _backward(
    config: ConvergenceConfig, place: Place, one: Try, tell: Tell, base: str
) -> tuple[list[Path], dict[str, Any]]:
    job, record = _rival(config, place, one, tell, job_config.BackwardConfig, jobs.align_backward)
    packs = [place.pack(base, "base"), place.pack("base", BASE), job.out / f"{LIDAR}.safetensors"]
    return packs, {**cost_of(record), "steps": [record["steps"]]}


def _full(
    config: ConvergenceConfig, place: Place, one: Try, tell: Tell, base: str
) -> tuple[list[Path], dict[str, Any]]:
    job, record = _rival(config, place, one, tell, job_config.FullConfig, jobs.full_finetune)
    packs = [job.out / f"{name}.safetensors" for name in ("base", BASE, LIDAR, "adapter")]
    return packs, {**cost_of(record), "steps": [record["steps"]]}


def _rival(
    config: ConvergenceConfig, place: Place, one: Try, tell: Tell, kind: Any, run: Callable[..., Any]
) -> tuple[Any, dict[str, Any]]:
    job = kind(
        **place.adaptation(LIDAR),
        out=place.run(one.name),
        steps=max(1, round(config.steps * one.times)),
        lr=_own_rate(kind) * one.rate,
        teacher="auto" if one.taught else "none",
    )
    return job, place.train(one.name, job, run, tell)


def _own_rate(kind: Any) -> float:
    rate: float = kind.model_fields["lr"].default
    return rate


_TRAIN = {"lhft_gcft": _lhft_gcft, "backward_alignment": _backward, "full_finetune": _full}


# --- on the test towns ----------------------------------------------------------------------------------------------


def measure(config: ConvergenceConfig, chosen: Mapping[str, Mapping[str, Any]], seed: int, tell: Tell) -> Content:
    """All rows of one seed: each method at its end, and in the time that ours takes; then with the base's reader."""
    place = Place(config.networks_here, seed)
    ours = chosen["lhft_gcft"]
    plan: list[tuple[str, Collaboration, dict[str, Any]]] = []
    for method, best in chosen.items():
        end = Try(method, best["rate"], best["taught"], best["times"])
        budgets = {"end": end}
        if method == "lhft_gcft":
            budgets["tried"] = Try(method, best["rate"], best["taught"])
        else:
            times = best["times"] * ours["train_seconds"] / best["train_seconds"]
            budgets["equal_time"] = Try(method, best["rate"], best["taught"], round(times, 3))
        for budget, one in budgets.items():
            packs, cost = train(config, place, one, tell)
            plan.append((f"{method}/{budget}", Collaboration.from_packs(*packs), cost))
    read = Try("lhft_gcft", ours["rate"], ours["taught"], ours["times"])
    packs, cost = train(config, place, read, tell, "reader")
    plan.append(("lhft_gcft/reader", _reading(packs), cost))
    rival = chosen["backward_alignment"]
    packs, cost = train(
        config, place, Try("backward_alignment", rival["rate"], rival["taught"], rival["times"]), tell, "reader"
    )
    plan.append(("backward_alignment/reader", _reading(packs), cost))
    rows = []
    data, bar = Opv2v(place.world, "test"), OneBar(tell, "evaluating")
    for link, channel in LINKS.items():
        evaluator = Evaluator(data, channel, limit=config.frames)
        for name, model, cost in plan:
            for ego, roster in _rosters(name, link).items():
                evaluation = evaluator.evaluate(model, roster, bar.of(len(plan) * 3 + len(DEPLOYED)))
                costs = {key: value for key, value in cost.items() if key != "steps"}
                row = to_row(f"{name}/{ego}/{link}", LIDAR, roster, seed, evaluation, model, costs)
                rows.append({**row, "line": name, "ego": ego, "link": link, "steps": cost["steps"]})
            evaluator.forget()
    return {"seed": seed, "rows": rows, "stages": place.stages}


def _rosters(line: str, link: str) -> dict[str, Roster]:
    """Who hears whom in the rows of a line: on clean links either side is the ego, and deployed agents meet again."""
    if link != "clean":
        return {BASE: Roster(BASE, LIDAR)}
    return both_egos(LIDAR) | ({"deployed": Roster(BASE, BASE)} if line in DEPLOYED else {})


def _reading(packs: list[Path]) -> Collaboration:
    """A model whose messages take all the bytes that they need."""
    model = Collaboration.from_packs(*packs)
    model.use_budget(None)
    return model
