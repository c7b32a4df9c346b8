"""What the cells of the adaptation study do: trainings by the same jobs as everybody's, then rows on the test towns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heatv2x.assembly import exchanging
from heatv2x.bench.config import BASE, LIDAR, AdaptationConfig
from heatv2x.config import read_recipe
from heatv2x.datasets.opv2v import Opv2v
from heatv2x.evaluation import Evaluator
from heatv2x.model import Collaboration
from heatv2x.packs import read_pack, write_pack
from heatv2x.roster import Roster
from heatv2x.rows import OneBar, cost_of, run_once, stage_of, to_row
from heatv2x.training import job_config, jobs
from heatv2x.workers import Tell

RECIPES = Path(__file__).parent.parent / "recipes"
TWIN = "twin"
"""The base's own type under another name: adapting it shows what more training alone would bring."""


@dataclass
class Place:
    """One seed's corner of a study.

    Attributes:
        config: of the study.
        seed: of this corner.
        rows, stages: what a cell collects for its JSON.
    """

    config: AdaptationConfig
    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def world(self) -> Path:
        """The data."""
        return self.config.out / "world"

    def run(self, name: str) -> Path:
        """A run folder of this seed."""
        return self.config.out / f"seed{self.seed}" / name

    def pack(self, job: str, name: str) -> Path:
        """A pack of a job of this seed."""
        return self.run(job) / f"{name}.safetensors"

    def encoder(self, agent_type: str) -> Path:
        """The pretrained encoder of a newcomer, or the base's own."""
        return self.pack("base", BASE) if agent_type == BASE else self.pack(f"encoder_{agent_type}", agent_type)

    def adaptation(self, newcomer: str, base: str = "base") -> dict[str, Any]:
        """What every job has that lets a newcomer join a base."""
        return {
            "data": self.world,
            "base": self.pack(base, "base"),
            "agents": (self.pack(base, BASE), self.encoder(newcomer)),
            "newcomer": newcomer,
            "like": BASE,
            "seed": self.seed,
        }

    def train(self, name: str, job: Any, run: Any, tell: Tell) -> dict[str, Any]:
        """Run a job once and keep what a report shows of it."""
        record = run_once(job, run, tell, name)
        self.stages.append({**stage_of(name, record), "precision": record["precision"]})
        return record

    def evaluate(
        self,
        tell: Tell,
        newcomer: str,
        plan: Sequence[tuple[str, Collaboration, Roster, Mapping[str, Any]]],
        speakers: Mapping[str, Collaboration] | None = None,
    ) -> None:
        """Rows on the test towns: (name, model, who plays what, cost)."""
        evaluator, bar, before = Evaluator(Opv2v(self.world, "test")), OneBar(tell, "evaluating"), None
        for name, model, roster, cost in plan:
            if model is not before:
                evaluator.forget()
                before = model
            evaluation = evaluator.evaluate(model, roster, bar.of(len(plan)), speakers)
            self.rows.append(to_row(name, newcomer, roster, self.seed, evaluation, model, dict(cost)))

    def content(self) -> dict[str, Any]:
        """The cell's JSON."""
        return {"seed": self.seed, "rows": self.rows, "stages": self.stages, "facts": self.facts}


def named(newcomer: str, ego: str, row: str) -> str:
    """Name of a row: bare for the LiDAR newcomer heard by the base, else with newcomer or ego in front."""
    if ego != BASE:
        return f"ego_{newcomer}/{row}"
    return row if newcomer == LIDAR else f"{newcomer}/{row}"


def both_egos(newcomer: str) -> dict[str, Roster]:
    """The base hears newcomers, and a newcomer hears the base's type."""
    return {BASE: Roster(BASE, newcomer), newcomer: Roster(newcomer, BASE)}


# --- pretraining ----------------------------------------------------------------------------------------------------


def train_base(config: AdaptationConfig, seed: int, fusion: str, out: str, tell: Tell) -> dict[str, Any]:
    """A base of this seed, and the deployed alliance's own rows."""
    place = Place(config, seed)
    recipe = read_recipe(RECIPES / "demo_base.yaml")
    recipe["model"] = {**recipe["model"], "fusion": {"part": fusion}}
    settings = {**recipe, "data": place.world, "out": place.run(out), "steps": config.base_steps, "seed": seed}
    record = place.train(out, job_config.BaseConfig(**settings), jobs.train_base, tell)
    model = Collaboration.from_packs(place.pack(out, "base"), place.pack(out, BASE))
    prefix = "" if out == "base" else f"{fusion}/"
    place.evaluate(
        tell,
        BASE,
        [
            (f"{prefix}no_fusion", model, Roster(BASE, BASE, drop=True), cost_of(record)),
            (f"{prefix}homogeneous", model, Roster(BASE, BASE), cost_of(record)),
        ],
    )
    if out == "base":
        late = exchanging(model, "late")
        place.evaluate(tell, BASE, [("homogeneous_late", late, Roster(BASE, BASE), cost_of(record))])
    return place.content()


def train_alone(config: AdaptationConfig, seed: int, agent_type: str, tell: Tell) -> dict[str, Any]:
    """A dedicated single-agent network; its encoder is what a newcomer brings."""
    place = Place(config, seed)
    base = read_recipe(RECIPES / "demo_base.yaml")
    own = {"name": BASE, "agent": base["model"]["agents"][BASE], "lr": base["lr"]}
    recipe = own if agent_type == BASE else read_recipe(RECIPES / f"demo_{agent_type}.yaml")
    out = f"encoder_{agent_type}"
    settings = {**recipe, "data": place.world, "out": place.run(out), "steps": config.encoder_steps, "seed": seed}
    record = place.train(out, job_config.EncoderConfig(**settings), jobs.train_encoder, tell)
    model = Collaboration.from_packs(place.pack(out, "base"), place.pack(out, agent_type))
    name = "single_agent" if agent_type == BASE else f"ego_{agent_type}/single_agent"
    place.evaluate(tell, agent_type, [(name, model, Roster(agent_type, agent_type, drop=True), cost_of(record))])
    return place.content()


def scratch_mix(config: AdaptationConfig, seed: int, tell: Tell) -> dict[str, Any]:
    """Everything from scratch on the mix of all types: what it would take to start over."""
    place = Place(config, seed)
    recipe = read_recipe(RECIPES / "demo_base.yaml")
    agents = {BASE: recipe["model"]["agents"][BASE]}
    agents |= {name: read_recipe(RECIPES / f"demo_{name}.yaml")["agent"] for name in config.newcomers}
    recipe["model"] = {**recipe["model"], "agents": agents}
    settings = {**recipe, "data": place.world, "out": place.run("scratch_mix"), "steps": config.scratch_steps}
    record = place.train("scratch_mix", job_config.BaseConfig(**settings, seed=seed), jobs.train_base, tell)
    model = Collaboration.from_packs(place.pack("scratch_mix", "base"), *(place.pack("scratch_mix", n) for n in agents))
    cost = cost_of(record)
    for newcomer in config.newcomers:
        rosters = both_egos(newcomer).items()
        plan = [(named(newcomer, ego, "scratch_mix"), model, roster, cost) for ego, roster in rosters]
        place.evaluate(tell, newcomer, plan)
    place.evaluate(tell, "all", [(f"{p}scratch_mix", model, roster, cost) for p, roster in everyone(config).items()])
    place.evaluate(tell, BASE, [("control/deployed_from_scratch_mix", model, Roster(BASE, BASE), cost)])
    return place.content()


# --- joining --------------------------------------------------------------------------------------------------------


def adapt(
    place: Place,
    newcomer: str,
    tell: Tell,
    out: str,
    base: str = "base",
    local_steps: int | None = None,
    collaborative_steps: int | None = None,
) -> tuple[list[dict[str, Any]], list[Path]]:
    """LHFT, then GCFT; either may be left out with 0 steps. Gives the records and the adapter packs."""
    config, shared = place.config, place.adaptation(newcomer, base)
    steps = config.local_steps if local_steps is None else local_steps
    records, adapters = [], []
    if steps:
        job = job_config.LocalConfig(**shared, out=place.run(f"{out}_local"), steps=steps)
        records.append(place.train(f"{out}/lhft", job, jobs.adapt_local, tell))
        adapters.append(job.out / "adapter.safetensors")
    steps = config.collaborative_steps if collaborative_steps is None else collaborative_steps
    if steps:
        start = adapters[-1] if adapters else None
        global_job = job_config.CollaborativeConfig(
            **shared, out=place.run(f"{out}_collaborative"), steps=steps, adapter=start
        )
        records.append(place.train(f"{out}/gcft", global_job, jobs.adapt_collaborative, tell))
        adapters.append(global_job.out / "adapter.safetensors")
    return records, adapters


def together(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Cost of several stages one after another; the last trains what the earlier ones trained, and more."""
    cumulative = max(record["trained_parameters"] for record in records)
    return cost_of(records[-1], sum(record["seconds"] for record in records), cumulative)


def join(config: AdaptationConfig, seed: int, newcomer: str, tell: Tell) -> dict[str, Any]:
    """The method's own rows for one newcomer, what needs no training, and the controls that belong to them."""
    place = Place(config, seed)
    records, adapters = adapt(place, newcomer, tell, newcomer)
    lhft, both = cost_of(records[0]), together(records)
    packs = [place.pack("base", "base"), place.pack("base", BASE), place.encoder(newcomer)]
    unaligned, adapted, joined = (Collaboration.from_packs(*packs, *more) for more in ([], adapters[:1], adapters[1:]))
    plan: list[tuple[str, Collaboration, Roster, Mapping[str, Any]]] = []
    for ego, roster in both_egos(newcomer).items():
        plan += [(named(newcomer, ego, "unaligned"), unaligned, roster, {})]
        plan += [(named(newcomer, ego, "lhft"), adapted, roster, lhft)]
        plan += [(named(newcomer, ego, "late_lhft"), exchanging(adapted, "late"), roster, lhft)]
        plan += [(named(newcomer, ego, "lhft_gcft"), joined, roster, both)]
    alone = Roster(newcomer, newcomer, drop=True)
    plan += [(named(newcomer, newcomer, "no_fusion"), joined, alone, both)]
    plan += [(f"control/{newcomer}_dropped", joined, Roster(BASE, BASE, drop=True), both)]
    plan += [(f"control/deployed_after_{newcomer}", joined, Roster(BASE, BASE), both)]
    networks = [id(line[1]) for line in plan]
    plan.sort(key=lambda line: networks.index(id(line[1])))  # rows of one model share what its agents said
    place.evaluate(tell, newcomer, plan)
    own = Collaboration.from_packs(place.pack(f"encoder_{newcomer}", "base"), place.encoder(newcomer))
    voices = {BASE: exchanging(unaligned, "late"), newcomer: exchanging(own, "late")}
    for ego, roster in both_egos(newcomer).items():
        place.evaluate(tell, newcomer, [(named(newcomer, ego, "late"), voices[ego], roster, {})], voices)
    place.facts = {
        "adapter_pack_bytes": adapters[-1].stat().st_size,
        "base_unchanged": unaligned.feature_space == joined.feature_space,
    }
    return place.content()


def join_maximum(config: AdaptationConfig, seed: int, newcomer: str, tell: Tell) -> dict[str, Any]:
    """The same adaptation on a base that fuses by maximum, trained with the same noise in the loop."""
    place = Place(config, seed)
    records, adapters = adapt(place, newcomer, tell, f"maximum_{newcomer}", base="base_maximum")
    packs = [place.pack("base_maximum", "base"), place.pack("base_maximum", BASE), place.encoder(newcomer)]
    joined = Collaboration.from_packs(*packs, adapters[-1])
    rosters = both_egos(newcomer).items()
    plan = [(named(newcomer, ego, "maximum"), joined, roster, together(records)) for ego, roster in rosters]
    place.evaluate(tell, newcomer, plan)
    return place.content()


def join_partly(config: AdaptationConfig, seed: int, newcomer: str, tell: Tell) -> dict[str, Any]:
    """GCFT without LHFT, and LHFT with the steps of both."""
    place = Place(config, seed)
    packs = [place.pack("base", "base"), place.pack("base", BASE), place.encoder(newcomer)]
    everything = config.local_steps + config.collaborative_steps
    plan: list[tuple[str, Collaboration, Roster, Mapping[str, Any]]] = []
    for row, local, collaborative in (
        ("gcft_only", 0, config.collaborative_steps),
        ("lhft_equal_steps", everything, 0),
    ):
        records, adapters = adapt(place, newcomer, tell, f"{row}_{newcomer}", "base", local, collaborative)
        model = Collaboration.from_packs(*packs, adapters[-1])
        name = row if row == "gcft_only" else f"control/{row}"
        for ego, roster in both_egos(newcomer).items():
            plan.append((named(newcomer, ego, name), model, roster, together(records)))
    place.evaluate(tell, newcomer, plan)
    return place.content()


def join_twin(config: AdaptationConfig, seed: int, tell: Tell) -> dict[str, Any]:
    """The control that separates alignment from mere further training: the base's own type joins itself."""
    place = Place(config, seed)
    pack = read_pack(place.pack("base", BASE), "agent")
    pack.agent_type, pack.feature_space = TWIN, ""
    place.run(f"encoder_{TWIN}").mkdir(parents=True, exist_ok=True)
    write_pack(pack, place.encoder(TWIN))
    records, adapters = adapt(place, TWIN, tell, TWIN, "base", 0)
    model = Collaboration.from_packs(
        place.pack("base", "base"), place.pack("base", BASE), place.encoder(TWIN), adapters[-1]
    )
    place.evaluate(tell, TWIN, [("control/gcft_homogeneous", model, Roster(BASE, TWIN), together(records))])
    return place.content()


def align_backward(config: AdaptationConfig, seed: int, newcomer: str, steps: int, tell: Tell) -> dict[str, Any]:
    """HEAL's way: the newcomer's whole encoder against the frozen base."""
    place = Place(config, seed)
    out = f"backward_{newcomer}_{steps}"
    job = job_config.BackwardConfig(**place.adaptation(newcomer), out=place.run(out), steps=steps)
    record = place.train(f"{newcomer}/backward_alignment@{steps}", job, jobs.align_backward, tell)
    model = Collaboration.from_packs(place.pack("base", "base"), place.pack("base", BASE), place.pack(out, newcomer))
    row = "backward_alignment" if steps == config.backward_steps else f"backward_alignment@{steps}"
    rosters = both_egos(newcomer).items()
    place.evaluate(
        tell, newcomer, [(named(newcomer, ego, row), model, roster, cost_of(record)) for ego, roster in rosters]
    )
    return place.content()


def full_finetune(config: AdaptationConfig, seed: int, newcomer: str, steps: int, tell: Tell) -> dict[str, Any]:
    """The yardstick: everything is trained again, with the whole budget or with less."""
    place = Place(config, seed)
    out, whole = f"full_{newcomer}_{steps}", steps == config.full_steps
    job = job_config.FullConfig(
        **place.adaptation(newcomer),
        out=place.run(out),
        steps=steps,
        validate_frames=config.validate_ if whole else 0,
        validate_every=max(1, steps // 9),
    )
    record = place.train(f"{newcomer}/full_finetune@{steps}", job, jobs.full_finetune, tell)
    model = Collaboration.from_packs(*(place.pack(out, name) for name in ("base", BASE, newcomer, "adapter")))
    plateau = jobs.seconds_to_plateau(record["curve"])
    seconds = None if plateau is None else record["seconds"] - record["cpu_seconds"] + plateau
    cost = cost_of(record, seconds)
    row = "full_finetune" if whole else f"full_finetune@{steps}"
    plan = [(named(newcomer, ego, row), model, roster, cost) for ego, roster in both_egos(newcomer).items()]
    if whole:
        plan.append((f"control/deployed_after_full_finetune_{newcomer}", model, Roster(BASE, BASE), cost))
        place.facts = {"seconds_of_all_steps": record["seconds"], "seconds_to_plateau": seconds}
    place.evaluate(tell, newcomer, plan)
    return place.content()


def budget(config: AdaptationConfig, seed: int, newcomer: str, share: float, tell: Tell) -> dict[str, Any]:
    """LHFT and GCFT with fewer or more steps, for the curve."""
    place = Place(config, seed)
    steps = [max(1, round(share * s)) for s in (config.local_steps, config.collaborative_steps)]
    records, adapters = adapt(place, newcomer, tell, f"{newcomer}_x{share:g}", "base", *steps)
    packs = [place.pack("base", "base"), place.pack("base", BASE), place.encoder(newcomer)]
    lhft, both = (Collaboration.from_packs(*packs, adapter) for adapter in adapters)
    roster = Roster(BASE, newcomer)
    plan = [
        (named(newcomer, BASE, f"lhft@x{share:g}"), lhft, roster, cost_of(records[0])),
        (named(newcomer, BASE, f"lhft_gcft@x{share:g}"), both, roster, together(records)),
    ]
    place.evaluate(tell, newcomer, plan)
    return place.content()


# --- all types together ---------------------------------------------------------------------------------------------


def everyone(config: AdaptationConfig) -> dict[str, Roster]:
    """Prefix and roster of scenes in which every type takes part, for each type as the ego."""
    types = (*config.newcomers, BASE)
    rosters = {"all/": Roster(BASE, types)}
    for name in config.newcomers:
        others = tuple(t for t in (BASE, *config.newcomers) if t != name)
        rosters[f"all_ego_{name}/"] = Roster(name, (*others, name))
    return rosters


def join_all(config: AdaptationConfig, seed: int, tell: Tell) -> dict[str, Any]:
    """All newcomers at once, each with the adapters it trained without ever having met the others."""
    place = Place(config, seed)
    packs = [place.pack("base", "base"), place.pack("base", BASE), *map(place.encoder, config.newcomers)]
    stages = {
        "unaligned": [],
        "lhft": [place.pack(f"{name}_local", "adapter") for name in config.newcomers],
        "lhft_gcft": [place.pack(f"{name}_collaborative", "adapter") for name in config.newcomers],
    }
    plan: list[tuple[str, Collaboration, Roster, Mapping[str, Any]]] = []
    for row, adapters in stages.items():
        model = Collaboration.from_packs(*packs, *adapters)
        cumulative = sum(read_pack(path).parameters for path in adapters)
        cost = {"trained_parameters": cumulative, "cumulative_parameters": cumulative}
        plan += [(f"{prefix}{row}", model, roster, cost) for prefix, roster in everyone(config).items()]
    place.evaluate(tell, "all", plan)
    own = {
        name: exchanging(Collaboration.from_packs(place.pack(f"encoder_{name}", "base"), place.encoder(name)), "late")
        for name in config.newcomers
    }
    voices = {**own, BASE: exchanging(Collaboration.from_packs(*packs[:2]), "late")}
    for prefix, roster in everyone(config).items():
        place.evaluate(tell, "all", [(f"{prefix}late", voices[roster.ego], roster, {})], voices)
    return place.content()


def full_finetune_all(config: AdaptationConfig, seed: int, tell: Tell) -> dict[str, Any]:
    """The yardstick for all types at once."""
    place = Place(config, seed)
    first, *others = config.newcomers
    shared = place.adaptation(first)
    shared["agents"] = (*shared["agents"], *map(place.encoder, others))
    out = place.run("full_all")
    job = job_config.FullConfig(
        **shared, together=tuple(others), out=out, steps=config.full_steps, deployed_share=1 / (len(others) + 2)
    )
    record = place.train("all/full_finetune", job, jobs.full_finetune, tell)
    names = ["base", BASE, *config.newcomers, "adapter", *(f"adapter_{name}" for name in others)]
    model = Collaboration.from_packs(*(out / f"{name}.safetensors" for name in names))
    plan = [(f"{p}full_finetune", model, roster, cost_of(record)) for p, roster in everyone(config).items()]
    place.evaluate(tell, "all", plan)
    return place.content()
