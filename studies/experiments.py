"""What the cells of the adaptation study do: trainings by the same jobs as everybody's, then rows on the test towns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heatv2x.core.config import read_recipe
from heatv2x.core.plugins import PartConfig
from heatv2x.core.workers import Tell
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.roster import Roster
from heatv2x.evaluation.rows import OneBar, cost_of, stage_of, to_row
from heatv2x.link.channel import ChannelConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.packs import read_pack, write_pack
from heatv2x.model.variants import exchanging
from heatv2x.training import job_config, jobs, recipes
from heatv2x.training.jobs import run_once
from studies.config import BASE, LIDAR, AdaptationConfig

RECEIVED = PartConfig(part="multi_cognitive")
"""The study measured the method with its Multi-Cognitive Adapter, and without; it made no difference."""
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
        channel: ChannelConfig | None = None,
        refine_poses: bool = False,
        share_boxes: bool = False,
    ) -> None:
        """Rows on the test towns: (name, model, who plays what, cost)."""
        data = Opv2v(self.world, "test")
        evaluator = Evaluator(data, channel, refine_poses=refine_poses, share_boxes=share_boxes)
        bar, before = OneBar(tell, "evaluating"), None
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


PARTS: Mapping[str, Mapping[str, Any]] = {
    "base": {"part": "hetero_graph"},
    "base_maximum": {"part": "maximum"},
    "base_gate": {"part": "hetero_graph", "settings": {"attention": False}},
}
"""The bases by their fusion."""


def base_recipe(out: str) -> dict[str, Any]:
    """How a base is trained."""
    recipe = read_recipe(recipes.FOLDER / "demo_base.yaml")
    return {**recipe, "model": {**recipe["model"], "fusion": dict(PARTS[out])}}


def encoder_recipe(agent_type: str) -> dict[str, Any]:
    """How a dedicated network is trained: a newcomer's, or one with the encoder of the base's type."""
    if agent_type != BASE:
        return read_recipe(recipes.FOLDER / f"demo_{agent_type}.yaml")
    base = read_recipe(recipes.FOLDER / "demo_base.yaml")
    return {"name": BASE, "agent": base["model"]["agents"][BASE], "lr": base["lr"]}


def mix_recipe(newcomers: Sequence[str]) -> dict[str, Any]:
    """How a base of all types is trained from scratch."""
    recipe = read_recipe(recipes.FOLDER / "demo_base.yaml")
    agents = {BASE: recipe["model"]["agents"][BASE]} | {name: encoder_recipe(name)["agent"] for name in newcomers}
    return {**recipe, "model": {**recipe["model"], "agents": agents}}


def train_base(config: AdaptationConfig, seed: int, out: str, tell: Tell) -> dict[str, Any]:
    """A base of this seed, and the deployed alliance's own rows."""
    place, recipe = Place(config, seed), base_recipe(out)
    settings = {**recipe, "data": place.world, "out": place.run(out), "steps": config.base_steps, "seed": seed}
    record = place.train(out, job_config.BaseConfig(**settings), jobs.train_base, tell)
    model = Collaboration.from_packs(place.pack(out, "base"), place.pack(out, BASE))
    if out == "base_gate":  # only there to be compared, see compare_fusions
        return place.content()
    prefix = "" if out == "base" else "maximum/"
    place.evaluate(
        tell,
        BASE,
        [
            (f"{prefix}no_fusion", model, Roster(BASE, BASE, drop=True), cost_of(record)),
            (f"{prefix}homogeneous", model, Roster(BASE, BASE), cost_of(record)),
        ],
    )
    if out == "base":
        late = exchanging(model, "boxes")
        place.evaluate(tell, BASE, [("homogeneous_late", late, Roster(BASE, BASE), cost_of(record))])
    return place.content()


def train_alone(config: AdaptationConfig, seed: int, agent_type: str, tell: Tell) -> dict[str, Any]:
    """A dedicated single-agent network; its encoder is what a newcomer brings."""
    place, recipe, out = Place(config, seed), encoder_recipe(agent_type), f"encoder_{agent_type}"
    settings = {**recipe, "data": place.world, "out": place.run(out), "steps": config.encoder_steps, "seed": seed}
    record = place.train(out, job_config.EncoderConfig(**settings), jobs.train_encoder, tell)
    model = Collaboration.from_packs(place.pack(out, "base"), place.pack(out, agent_type))
    name = "single_agent" if agent_type == BASE else f"ego_{agent_type}/single_agent"
    place.evaluate(tell, agent_type, [(name, model, Roster(agent_type, agent_type, drop=True), cost_of(record))])
    return place.content()


def scratch_mix(config: AdaptationConfig, seed: int, tell: Tell) -> dict[str, Any]:
    """Everything from scratch on the mix of all types: what it would take to start over."""
    place, recipe = Place(config, seed), mix_recipe(config.newcomers)
    settings = {**recipe, "data": place.world, "out": place.run("scratch_mix"), "steps": config.scratch_steps}
    record = place.train("scratch_mix", job_config.BaseConfig(**settings, seed=seed), jobs.train_base, tell)
    model = Collaboration.from_packs(
        place.pack("scratch_mix", "base"), *(place.pack("scratch_mix", n) for n in (BASE, *config.newcomers))
    )
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
    **settings: Any,
) -> tuple[list[dict[str, Any]], list[Path]]:
    """LHFT, then GCFT; either may be left out with 0 steps. Gives the records and the adapter packs.

    Args:
        settings: what differs from the defaults of both jobs, for ablations.
    """
    config = place.config
    shared = place.adaptation(newcomer, base) | {"frames": config.adapt_frames, "received": RECEIVED} | settings
    own_steps, rate = config.collaborative_of(newcomer)
    steps = [config.local_steps if local_steps is None else local_steps]
    steps.append(own_steps if collaborative_steps is None else collaborative_steps)
    local, collaborative = place.run(f"{out}_local"), place.run(f"{out}_collaborative")
    cache = local / "cache.safetensors"
    records, adapters = [], []
    if steps[0]:
        own = {name: value for name, value in shared.items() if name != "deployed_share"}
        job = job_config.LocalConfig(**own, out=local, steps=steps[0], keep_cache=bool(steps[1]))
        records.append(place.train(f"{out}/lhft", job, jobs.adapt_local, tell))
        adapters.append(local / "adapter.safetensors")
    if steps[1]:
        shared.pop("closed_form", None)
        start = {"adapter": adapters[-1], "cache": cache if cache.exists() else None} if adapters else {}
        shared = {"lr": rate, **shared}
        global_job = job_config.CollaborativeConfig(**shared, **start, out=collaborative, steps=steps[1])
        records.append(place.train(f"{out}/gcft", global_job, jobs.adapt_collaborative, tell))
        adapters.append(collaborative / "adapter.safetensors")
    cache.unlink(missing_ok=True)
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
        plan += [(named(newcomer, ego, "late_lhft"), exchanging(adapted, "boxes"), roster, lhft)]
        plan += [(named(newcomer, ego, "lhft_gcft"), joined, roster, both)]
    alone = Roster(newcomer, newcomer, drop=True)
    plan += [(named(newcomer, newcomer, "no_fusion"), joined, alone, both)]
    plan += [(f"control/{newcomer}_dropped", joined, Roster(BASE, BASE, drop=True), both)]
    plan += [(f"control/deployed_after_{newcomer}", joined, Roster(BASE, BASE), both)]
    networks = [id(line[1]) for line in plan]
    plan.sort(key=lambda line: networks.index(id(line[1])))  # rows of one model share what its agents said
    place.evaluate(tell, newcomer, plan)
    own = Collaboration.from_packs(place.pack(f"encoder_{newcomer}", "base"), place.encoder(newcomer))
    voices = {BASE: exchanging(unaligned, "boxes"), newcomer: exchanging(own, "boxes")}
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
    """GCFT without LHFT, and LHFT without GCFT, each with the steps of both.

    GCFT that starts from nothing gets the learning rate that suits that, not the small one of a second stage.
    """
    place = Place(config, seed)
    packs = [place.pack("base", "base"), place.pack("base", BASE), place.encoder(newcomer)]
    everything = config.local_steps + config.collaborative_of(newcomer)[0]
    plan: list[tuple[str, Collaboration, Roster, Mapping[str, Any]]] = []
    for row, name, local, collaborative, settings in (
        ("gcft_only", "gcft_only", 0, everything, {"lr": 2e-3}),
        ("lhft_equal_steps", "control/lhft_equal_steps", everything, 0, {}),
    ):
        records, adapters = adapt(place, newcomer, tell, f"{row}_{newcomer}", "base", local, collaborative, **settings)
        model = Collaboration.from_packs(*packs, adapters[-1])
        for ego, roster in both_egos(newcomer).items():
            plan.append((named(newcomer, ego, name), model, roster, together(records)))
    place.evaluate(tell, newcomer, plan)
    return place.content()


ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "no_multi_cognitive": {"received": None},
    "no_closed_form": {"closed_form": False},
    "no_teacher": {"teacher": "none"},
}
"""What is taken away from LHFT and GCFT, one at a time."""


def ablate_adaptation(config: AdaptationConfig, seed: int, newcomer: str, tell: Tell) -> dict[str, Any]:
    """The method without one of its parts, and its closed form with no training at all.

    Without the Multi-Cognitive Adapter also where poses are noisy: that is where it might be needed.
    """
    place = Place(config, seed)
    packs = [place.pack("base", "base"), place.pack("base", BASE), place.encoder(newcomer)]
    whole = Collaboration.from_packs(*packs, place.pack(f"{newcomer}_collaborative", "adapter"))
    for name, without in ABLATIONS.items():
        records, adapters = adapt(place, newcomer, tell, f"{name}_{newcomer}", **without)
        model = Collaboration.from_packs(*packs, adapters[-1])
        rosters, cost = both_egos(newcomer).items(), together(records)
        plan = [(named(newcomer, ego, f"ablation/{name}"), model, roster, cost) for ego, roster in rosters]
        place.evaluate(tell, newcomer, plan)
        if name == "no_multi_cognitive":
            noisy = [(named(newcomer, BASE, f"ablation/{name}_noise"), model, Roster(BASE, newcomer), cost)]
            place.evaluate(tell, newcomer, noisy, channel=LINKS["noise"])
    noisy = [(named(newcomer, BASE, "ablation/whole_noise"), whole, Roster(BASE, newcomer), {})]
    place.evaluate(tell, newcomer, noisy, channel=LINKS["noise"])
    shared = place.adaptation(newcomer) | {"frames": config.adapt_frames}
    job = job_config.LocalConfig(**shared, out=place.run(f"closed_form_{newcomer}"), steps=0)
    record = place.train(f"closed_form_{newcomer}/closed_form", job, jobs.adapt_local, tell)
    model = Collaboration.from_packs(*packs, job.out / "adapter.safetensors")
    plan = [
        (named(newcomer, ego, "ablation/closed_form_only"), model, roster, cost_of(record))
        for ego, roster in both_egos(newcomer).items()
    ]
    place.evaluate(tell, newcomer, plan)
    return place.content()


def share_boxes(config: AdaptationConfig, seed: int, newcomer: str, tell: Tell) -> dict[str, Any]:
    """Features and boxes together: senders' own boxes ride on their messages; ours, and full fine-tuning likewise."""
    place = Place(config, seed)
    packs = [place.pack("base", "base"), place.pack("base", BASE), place.encoder(newcomer)]
    joined = Collaboration.from_packs(*packs, place.pack(f"{newcomer}_collaborative", "adapter"))
    plan: list[tuple[str, Collaboration, Roster, Mapping[str, Any]]] = [
        (named(newcomer, ego, "lhft_gcft_boxes"), joined, roster, {}) for ego, roster in both_egos(newcomer).items()
    ]
    if newcomer == LIDAR:
        plan.append(("homogeneous_boxes", joined, Roster(BASE, BASE), {}))
        full = f"full_{newcomer}_{config.full_steps}"
        retrained = Collaboration.from_packs(*(place.pack(full, name) for name in ("base", BASE, newcomer, "adapter")))
        plan.append(("full_finetune_boxes", retrained, Roster(BASE, newcomer), {}))
    place.evaluate(tell, newcomer, plan, share_boxes=True)
    return place.content()


LINKS: Mapping[str, ChannelConfig] = {
    "clean": ChannelConfig(),
    "noise": ChannelConfig(sigma_m=0.4, sigma_deg=0.4),
    "quality": ChannelConfig(sigma_m=1.0, sigma_deg=1.0, precise_share=0.5),
}
"""What fusions are compared on: exact poses, 0.4 m and degrees, half of the senders with 1 m and half with 0.1 m."""
FUSIONS = {"graph": "base", "gate": "base_gate", "maximum": "base_maximum"}
"""The graph, its gate without the attention, and maximum; every base trained with the same noise."""


def compare_fusions(config: AdaptationConfig, seed: int, tell: Tell) -> dict[str, Any]:
    """Bases that differ in their fusion alone, on clean and disturbed links, everybody of the base's type."""
    place = Place(config, seed)
    for name, out in FUSIONS.items():
        model = Collaboration.from_packs(place.pack(out, "base"), place.pack(out, BASE))
        links = [(name, link, channel, False) for link, channel in LINKS.items()]
        links += [(f"{name}_refined", link, channel, True) for link, channel in LINKS.items() if link != "clean"]
        if name == "maximum":
            rule = LINKS["quality"].model_copy(update={"ignore_above_m": 0.5})
            links.append(("maximum_drop", "quality", rule, False))
        for row, link, channel, refine in links:
            plan = [(f"links/{row}/{link}", model, Roster(BASE, BASE), dict[str, Any]())]
            place.evaluate(tell, BASE, plan, channel=channel, refine_poses=refine)
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
    out, whole = f"full_{newcomer}_{steps}", steps == config.full_steps_of(newcomer)
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
    steps = [max(1, round(share * s)) for s in (config.local_steps, config.collaborative_of(newcomer)[0])]
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
        name: exchanging(Collaboration.from_packs(place.pack(f"encoder_{name}", "base"), place.encoder(name)), "boxes")
        for name in config.newcomers
    }
    voices = {**own, BASE: exchanging(Collaboration.from_packs(*packs[:2]), "boxes")}
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
        **shared, together=tuple(others), out=out, steps=config.full_steps_more, deployed_share=1 / (len(others) + 2)
    )
    record = place.train("all/full_finetune", job, jobs.full_finetune, tell)
    names = ["base", BASE, *config.newcomers, "adapter", *(f"adapter_{name}" for name in others)]
    model = Collaboration.from_packs(*(out / f"{name}.safetensors" for name in names))
    plan = [(f"{p}full_finetune", model, roster, cost_of(record)) for p, roster in everyone(config).items()]
    place.evaluate(tell, "all", plan)
    return place.content()
