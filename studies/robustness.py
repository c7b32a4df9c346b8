"""What a real link does to collaboration: wrong poses, late messages, lost messages, and all of it together.

Methods are what the adaptation study left behind, one seed after the other. The test towns are filmed at 10 Hz, so that
a late message shows where things were, not where they are. Every disturbance is seeded, and one that leaves every
message as it was ends the study: a switch that does nothing must not look like robustness.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from heatv2x.core.config import Config, build
from heatv2x.core.files import write_json, write_text
from heatv2x.core.workers import Tell
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.errors import HeatError
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.roster import Roster
from heatv2x.evaluation.rows import OneBar, to_row
from heatv2x.link.channel import ChannelConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.variants import exchanging
from heatv2x.world.build import build_world
from heatv2x.world.config import WorldConfig
from studies import experiments
from studies.adaptation import cells_of, world_of
from studies.cells import Cell, Content, identities_of, run_cells, unfinished
from studies.config import BASE, LIDAR, AdaptationConfig
from studies.figures import Curve, FigurePanel, curves
from studies.pages import environment

CLIP = 6
"""Frames of a filmed clip; the last one is evaluated, the earlier ones are what late messages show (0.5 s)."""


class RobustnessConfig(Config):
    """Attributes:
    out: where the film lies.
    docs: where the page, the figure, the JSON and the results of the finished cells are written.
    study: run folder of the adaptation study, whose networks are tested; what is missing there is trained first.
    seeds: of the study.
    clips: filmed clips of the test towns; the last frame of each is evaluated.
    world_seed: of the film; not the study's.
    processes: how many cells run side by side.
    """

    out: Path = Path("runs/bench/robustness")
    docs: Path = Path("docs/benchmarks")
    study: Path = Path("runs/bench/adaptation")
    seeds: tuple[int, ...] = (0, 1, 2)
    clips: int = pydantic.Field(60, gt=0)
    world_seed: int = 32
    processes: int = pydantic.Field(2, gt=0)


def quick(config: RobustnessConfig) -> RobustnessConfig:
    """One seed, a handful of clips, the networks of the quick study: shows that every line can be drawn."""
    folders = {
        name: getattr(config, name).with_name(f"{getattr(config, name).name}_quick") for name in ("out", "study")
    }
    return config.model_copy(update={"seeds": config.seeds[:1], "clips": 6, "docs": folders["out"], **folders})


@dataclass(frozen=True)
class Method:
    """One line of the figure.

    Attributes:
        name: of the line.
        about: what it is.
        refine: the ego corrects poses by the boxes that ride on messages.
        share: the ego adds those boxes to what the fused features show.
        drop_above_m: the ego ignores senders that report a larger deviation.
    """

    name: str
    about: str
    refine: bool = False
    share: bool = False
    drop_above_m: float | None = None


METHODS = (
    Method(
        "heatv2x",
        "graph fusion, the newcomer joined by LHFT and GCFT; boxes ride on messages, correct poses, and are added",
        refine=True,
        share=True,
    ),
    Method("graph", "the same without boxes on messages"),
    Method("maximum", "maximum fusion, trained with the same noise, the newcomer joined the same way"),
    Method("maximum_drop", "the same, senders that report 0.5 m or more are ignored", drop_above_m=0.5),
    Method("maximum_refined", "maximum fusion with pose correction", refine=True),
    Method("late", "boxes of each type's own dedicated network, merged"),
    Method("late_refined", "the same with pose correction", refine=True),
    Method("full_finetune", "graph fusion, everything trained again, no pose correction"),
    Method("no_fusion", "the ego alone"),
)


def channels() -> dict[str, dict[str, ChannelConfig]]:
    """Disturbances by panel and value."""
    noise = {f"{s:g}": ChannelConfig(sigma_m=s, sigma_deg=s) for s in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)}
    hidden = {"0": ChannelConfig()}
    hidden |= {f"{s:g}": ChannelConfig(sigma_m=s, sigma_deg=s, reported="hidden") for s in (0.2, 0.4, 1.0)}
    late = {f"{ms}": ChannelConfig(latency_ms=ms) for ms in (0, 100, 200, 300, 400, 500)}
    lost = {f"{p:g}": ChannelConfig(loss=p) for p in (0.0, 0.2, 0.4, 0.6, 0.8)}
    quality = {"half": ChannelConfig(sigma_m=1.0, sigma_deg=1.0, precise_share=0.5)}
    together = {"all": ChannelConfig(sigma_m=0.4, sigma_deg=0.4, latency_ms=300, loss=0.5)}
    return {
        "pose_noise": noise,
        "hidden_noise": hidden,
        "latency": late,
        "loss": lost,
        "mixed_quality": quality,
        "together": together,
    }


PANELS = {
    "pose_noise": ("Pose noise, reported", "standard deviation, m and degrees"),
    "hidden_noise": ("Pose noise, not reported", "standard deviation, m and degrees"),
    "latency": ("Latency", "age of messages, ms"),
    "loss": ("Loss", "share of messages lost"),
}
"""Title and axis of the disturbances that are curves."""


def run_robustness(config: RobustnessConfig, study: AdaptationConfig, command: str, tell: Tell) -> dict[str, Any]:
    """Train what is missing, film the test towns, test every method, write the page; gives the study's JSON."""
    study = study.model_copy(update={"out": config.study, "seeds": config.seeds, "processes": config.processes})
    cells, folder = cells_of_film(config, study), config.docs / "robustness_cells"
    if unfinished(cells, folder):
        build_world(world_of(study), OneBar(tell, "building the world").of(1))
        run_cells(needed_of(study), study.cells, config.processes, tell, with_packs=True)
        build_world(film_of(config), OneBar(tell, "filming the test towns").of(1))
    contents = run_cells(cells, folder, config.processes, tell)
    return write_robustness(config, contents, command)


def write_robustness(config: RobustnessConfig, contents: Mapping[str, Content], command: str) -> dict[str, Any]:
    """robustness.json, robustness.md and the figure, from the contents of the cells."""
    rows: dict[str, dict[str, Any]] = {}
    for content in contents.values():
        for row in content["rows"]:
            known = rows.setdefault(
                row["name"], {**{k: row[k] for k in ("name", "panel", "value", "protocol", "n_frames")}, "seeds": []}
            )
            known["seeds"].append(row["seed"])
            for iou, value in row["ap"].items():
                known.setdefault("ap", {}).setdefault(iou, []).append(value)
    first = next(iter(contents.values()))
    summary = {
        "title": "Robustness of collaboration on a real link",
        "command": command,
        "date": first["date"],
        "machine": first["machine"],
        "film": film_of(config).content(),
        "seeds": sorted({content["seed"] for content in contents.values()}),
        "methods": {method.name: method.about for method in METHODS},
        "rows": list(rows.values()),
    }
    config.docs.mkdir(parents=True, exist_ok=True)
    write_json(config.docs / "robustness.json", summary)
    curves(figure_panels(rows), config.docs / "images" / "robustness.png")
    write_text(config.docs / "robustness.md", page(summary, rows))
    return summary


def figure_panels(rows: Mapping[str, Mapping[str, Any]]) -> list[FigurePanel]:
    """One panel per disturbance that is a curve; pose-corrected rivals are dashed where correction changes anything."""
    alone = statistics.fmean(rows["no_fusion/pose_noise/0"]["ap"]["0.5"])
    panels = []
    for name, (title, label) in PANELS.items():
        values = list(channels()[name])
        lines = [
            Curve(
                method.name,
                [float(v) for v in values],
                [rows[f"{method.name}/{name}/{v}"]["ap"]["0.5"] for v in values],
            )
            for method in METHODS
            if method.name not in ("no_fusion", "maximum_drop") and (name == "pose_noise" or not _is_corrected(method))
        ]
        panels.append(FigurePanel(title, label, lines, alone))
    return panels


def _is_corrected(method: Method) -> bool:
    """A rival with pose correction: it differs from the plain one only where wrong poses are reported as such."""
    return method.refine and method.name != "heatv2x"


def page(summary: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The study in words and tables."""
    columns = [(panel, value) for panel, values in channels().items() for value in values]
    columns = [column for column in columns if column[1] != "0" or column[0] == "pose_noise"]
    named = [(f"{panel}/{value}", _column(panel, value)) for panel, value in columns]
    return environment().get_template("robustness.md.j2").render(columns=named, by_name=rows, **summary)


def _column(panel: str, value: str) -> str:
    names = {"pose_noise": "noise", "hidden_noise": "hidden", "latency": "ms", "loss": "loss"}
    if panel == "mixed_quality":
        return "half good, half bad poses"
    if panel == "together":
        return "0.4 m, 300 ms, loss 0.5"
    return "clean" if value == "0" else f"{names[panel]} {value}"


def needed_of(study: AdaptationConfig) -> list[Cell]:
    """The cells of the adaptation study that leave the networks tested here."""
    parts = ("joined", "maximum", "full_finetune")
    wanted = {"base", "base_maximum", f"encoder_{LIDAR}", *(f"{LIDAR}/{part}" for part in parts)}
    return [cell for cell in cells_of(study) if cell.name.partition("/")[2] in wanted]


def film_of(config: RobustnessConfig) -> WorldConfig:
    """Short films of test towns, LiDAR only."""
    settings = {"train": 0, "validate": 0, "test": CLIP * config.clips, "clip_frames": CLIP, "stride": 1}
    places = {"out": config.out / "world", "seed": config.world_seed, "workers": config.processes}
    return build(WorldConfig, {**settings, **places, "sensors": [BASE, LIDAR]})


def cells_of_film(config: RobustnessConfig, study: AdaptationConfig) -> list[Cell]:
    """One cell per seed and method."""
    networks, film = identities_of(needed_of(study)), film_of(config).content()
    about: dict[str, Any] = {"film": film}
    about["channels"] = {panel: {k: c.model_dump() for k, c in row.items()} for panel, row in channels().items()}
    return [
        Cell(
            f"seed{seed}/{method.name}",
            disturb,
            (config, study, seed, method),
            {**about, "seed": seed, "method": method.name, "networks": _of_seed(networks, seed)},
            seconds=2.0 * config.clips,
        )
        for seed in config.seeds
        for method in METHODS
    ]


def _of_seed(networks: Mapping[str, str], seed: int) -> dict[str, str]:
    return {name: identity for name, identity in networks.items() if name.startswith(f"seed{seed}/")}


def disturb(config: RobustnessConfig, study: AdaptationConfig, seed: int, method: Method, tell: Tell) -> dict[str, Any]:
    """One method under every disturbance.

    Raises:
        HeatError: a disturbance left every message as it was.
    """
    place = experiments.Place(study, seed)
    model, speakers = network(place, method)
    film = Opv2v(config.out / "world", "test")
    roster = Roster(BASE, (LIDAR, BASE), drop=method.name == "no_fusion")
    panels = channels()
    bar, rows = OneBar(tell, "evaluating"), []
    evaluator = Evaluator(
        film, only=range(CLIP - 1, len(film), CLIP), refine_poses=method.refine, share_boxes=method.share
    )
    arrived: dict[str, str] = {}
    count = sum(len(panel) for panel in panels.values())
    for panel, values in panels.items():
        for value, channel in values.items():
            link = channel.model_copy(update={"ignore_above_m": method.drop_above_m})
            evaluator.use(link)
            evaluation = evaluator.evaluate(model, roster, bar.of(count), speakers)
            known = arrived.setdefault(evaluation.arrived, f"{panel} {value}")
            undisturbed = channel == ChannelConfig() or roster.drop
            if not undisturbed and known == "pose_noise 0":
                raise HeatError(
                    f"{method.name}: the disturbance '{panel} {value}' changed no message; it tests nothing.\n"
                    f"  Way out: more clips than clips={config.clips}"
                )
            row = to_row(f"{method.name}/{panel}/{value}", LIDAR, roster, seed, evaluation, model, {})
            rows.append({**row, "panel": panel, "value": value, "arrived": evaluation.arrived})
    return {"seed": seed, "method": method.name, "about": method.about, "rows": rows}


def network(place: experiments.Place, method: Method) -> tuple[Collaboration, Mapping[str, Collaboration]]:
    """A method's model, and who speaks with another one."""
    base = [place.pack("base", "base"), place.pack("base", BASE), place.encoder(LIDAR)]
    if method.name.startswith("maximum"):
        packs = [place.pack("base_maximum", "base"), place.pack("base_maximum", BASE), place.encoder(LIDAR)]
        return Collaboration.from_packs(*packs, place.pack(f"maximum_{LIDAR}_collaborative", "adapter")), {}
    if method.name.startswith("late"):
        own = Collaboration.from_packs(place.pack(f"encoder_{LIDAR}", "base"), place.encoder(LIDAR))
        return exchanging(Collaboration.from_packs(*base), "boxes"), {LIDAR: exchanging(own, "boxes")}
    if method.name == "full_finetune":
        folder = f"full_{LIDAR}_{place.config.full_steps}"
        return Collaboration.from_packs(*(place.pack(folder, n) for n in ("base", BASE, LIDAR, "adapter"))), {}
    return Collaboration.from_packs(*base, place.pack(f"{LIDAR}_collaborative", "adapter")), {}
