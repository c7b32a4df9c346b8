"""What a message is worth: average precision against its measured bytes, for every kind of ego and sender.

A base is given its reader and its codebook (`train reader`), newcomers join it by LHFT and GCFT, and messages are cut
to several budgets. Beside them stand features without boxes in 8 bits a value, late fusion of each type's own dedicated
network at the bytes that it takes, features with boxes merged behind them, the most confident cells alone, and points.
Bases and encoders are those of the adaptation study; what is missing in its run folder is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pydantic

from heatv2x.core.workers import Tell
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.roster import Roster
from heatv2x.evaluation.rows import OneBar, to_row
from heatv2x.link.channel import ChannelConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.variants import exchanging
from heatv2x.training import job_config, jobs
from heatv2x.world.build import build_world
from studies import experiments
from studies.adaptation import world_of
from studies.cells import Cell, Content, defaults_of, run_cells
from studies.config import BASE, CAMERA, LIDAR, OnItsNetworks

LINKS = {"clean": ChannelConfig(), "noise": ChannelConfig(sigma_m=0.4, sigma_deg=0.4)}
SHARES = (0.01, 0.05, 0.2)
"""Shares of cells that senders without a codebook send."""


class BandwidthConfig(OnItsNetworks):
    """Attributes:
    budgets: bytes that a message may take.
    """

    budgets: tuple[int, ...] = pydantic.Field((2000, 4000, 12000), min_length=1)


def quick(config: BandwidthConfig) -> BandwidthConfig:
    """One seed and little of everything: shows that every line can be drawn."""
    return config.small("bandwidth")


@dataclass(frozen=True)
class Scene:
    """Who hears whom.

    Attributes:
        name: of the rows.
        title: for readers.
        roster: who plays what.
    """

    name: str
    title: str
    roster: Roster


SCENES = (
    Scene("equal", "64-beam LiDARs among themselves", Roster(BASE, BASE)),
    Scene(LIDAR, "the base hears 16-beam newcomers", Roster(BASE, LIDAR)),
    Scene(f"ego_{LIDAR}", "a 16-beam newcomer hears the base", Roster(LIDAR, BASE)),
    Scene(CAMERA, "the base hears camera newcomers", Roster(BASE, CAMERA)),
    Scene(f"ego_{CAMERA}", "a camera newcomer hears the base", Roster(CAMERA, BASE)),
    Scene("all", "the base hears all types", Roster(BASE, (LIDAR, CAMERA, BASE))),
)


@dataclass(frozen=True)
class Line:
    """One way to speak.

    Attributes:
        name: of the rows.
        budget: bytes of a message; None for any.
        share: of the cells that are sent.
        share_boxes: boxes ride on messages and are merged with what was found.
        links: names of the links that it is measured on.
    """

    name: str
    budget: int | None = None
    share: float | None = None
    share_boxes: bool = False
    links: tuple[str, ...] = ("clean", "noise")


def lines_of(config: BandwidthConfig, scene: Scene) -> list[Line]:
    """What is measured in a scene; most among equals."""
    equal = scene.name == "equal"
    noisy = {budget: ("clean", "noise") if equal or budget == 4000 else ("clean",) for budget in config.budgets}
    lines = [Line(f"heatv2x_{budget}", budget, links=noisy[budget]) for budget in config.budgets]
    lines += [Line("heatv2x"), Line("features"), Line("late")]
    if equal:
        lines += [Line("features_boxes", share_boxes=True), Line("points")]
        lines += [Line(f"features_{100 * share:g}%", share=share, links=("clean",)) for share in SHARES]
    return lines


def run_bandwidth(config: BandwidthConfig, tell: Tell) -> dict[str, Content]:
    """Train what is missing and measure what is not finished; gives the contents of the cells."""
    build_world(world_of(config.networks_here), OneBar(tell, "building the world").of(1))
    return run_cells(cells_of(config), config.docs / "bandwidth_cells", config.processes, tell)


def cells_of(config: BandwidthConfig) -> list[Cell]:
    """One cell per seed."""
    about = {
        **config.networks.decisive(),
        "reader": {**defaults_of(job_config.TrainReaderConfig), "frames": config.reader_frames},
        "reader_steps": config.reader_steps,
        "local": defaults_of(job_config.LocalConfig),
        "collaborative": defaults_of(job_config.CollaborativeConfig),
        "frames": config.frames,
        "rows": [f"{scene.name}/{line.name}/{link}" for scene, line, link in _all(config)],
    }
    return [
        Cell(f"seed{seed}", measure, (config, seed), {**about, "seed": seed}, seconds=1800.0) for seed in config.seeds
    ]


def _all(config: BandwidthConfig) -> Iterator[tuple[Scene, Line, str]]:
    for scene in SCENES:
        for line in lines_of(config, scene):
            for link in line.links:
                yield scene, line, link


def measure(config: BandwidthConfig, seed: int, tell: Tell) -> Content:
    """All rows of one seed."""
    place = experiments.Place(config.networks_here, seed)
    prepare(place, tell)
    join_reader(config, place, tell)
    models = _Models(place)
    data, bar = Opv2v(place.world, "test"), OneBar(tell, "evaluating")
    evaluators = {
        link: {share: Evaluator(data, channel, limit=config.frames, share_boxes=share) for share in (False, True)}
        for link, channel in LINKS.items()
    }
    rows, wanted = [], list(_all(config))
    for scene, line, link in wanted:
        model, speakers = models.of(scene, line)
        evaluator = evaluators[link][line.share_boxes]
        evaluation = evaluator.evaluate(model, scene.roster, bar.of(len(wanted)), speakers)
        row = to_row(f"{scene.name}/{line.name}/{link}", scene.name, scene.roster, seed, evaluation, model, {})
        rows.append({**row, "scene": scene.name, "line": line.name, "link": link})
        evaluator.forget()
    return {"seed": seed, "rows": rows, "stages": place.stages}


def prepare(place: experiments.Place, tell: Tell) -> None:
    """Base, encoders, and newcomers without reader, exactly as the adaptation study trains them."""
    config, seed = place.config, place.seed
    recipe = experiments.base_recipe("base")
    base = {**recipe, "data": place.world, "out": place.run("base"), "steps": config.base_steps, "seed": seed}
    place.train("base", job_config.BaseConfig(**base), jobs.train_base, tell)
    for name in config.newcomers:
        out = f"encoder_{name}"
        own = {**experiments.encoder_recipe(name), "data": place.world, "out": place.run(out), "seed": seed}
        place.train(out, job_config.EncoderConfig(**own | {"steps": config.encoder_steps}), jobs.train_encoder, tell)
        experiments.adapt(place, name, tell, name)


def train_reader(config: OnItsNetworks, place: experiments.Place, tell: Tell) -> None:
    """The base with its reader."""
    base = (place.pack("base", "base"), place.pack("base", BASE))
    reader = job_config.TrainReaderConfig(
        data=place.world,
        base=base[0],
        agents=base[1:],
        frames=config.reader_frames,
        steps=config.reader_steps,
        seed=place.seed,
        out=place.run("reader"),
    )
    place.train("reader", reader, jobs.train_reader, tell)


def join_reader(config: BandwidthConfig, place: experiments.Place, tell: Tell) -> None:
    """The base with its reader, and newcomers that join that base."""
    train_reader(config, place, tell)
    networks = place.config
    for name in networks.newcomers:
        steps, rate = networks.collaborative_of(name)
        shared = place.adaptation(name) | {"base": place.pack("reader", "base"), "frames": networks.adapt_frames}
        local = job_config.LocalConfig(**shared, out=place.run(f"{name}_read_local"), steps=networks.local_steps)
        place.train(f"{name}/lhft_with_reader", local, jobs.adapt_local, tell)
        start = {"adapter": local.out / "adapter.safetensors", "out": place.run(f"{name}_read")}
        job = job_config.CollaborativeConfig(**shared, **start, steps=steps, lr=rate)
        place.train(f"{name}/gcft_with_reader", job, jobs.adapt_collaborative, tell)


class _Models:
    """The models of one seed, each built once."""

    def __init__(self, place: experiments.Place) -> None:
        names = place.config.newcomers
        encoders = [place.pack("base", BASE), *map(place.encoder, names)]
        plain = [place.pack(f"{name}_collaborative", "adapter") for name in names]
        read = [place.pack(f"{name}_read", "adapter") for name in names]
        self.features = Collaboration.from_packs(place.pack("base", "base"), *encoders, *plain)
        self.sparse = Collaboration.from_packs(place.pack("base", "base"), *encoders, *plain)
        self.sparse.use_codec("sparse")
        self.read = Collaboration.from_packs(place.pack("reader", "base"), *encoders, *read)
        self.voices = {BASE: exchanging(self.features, "boxes")}
        for name in names:
            own = Collaboration.from_packs(place.pack(f"encoder_{name}", "base"), place.encoder(name))
            self.voices[name] = exchanging(own, "boxes")
        self.points = exchanging(self.features, "points")

    def of(self, scene: Scene, line: Line) -> tuple[Collaboration, Mapping[str, Collaboration]]:
        """The ego's model, and who speaks with another one."""
        if line.name == "late":
            return self.voices[scene.roster.ego], self.voices
        if line.name == "points":
            return self.points, {}
        if line.share is not None:
            self.sparse.fusion.sends_at_most(line.share)
            return self.sparse, {}
        if line.name.startswith("heatv2x"):
            self.read.use_budget(line.budget)
            return self.read, {}
        return self.features, {}
