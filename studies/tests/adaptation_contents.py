"""The cells of a finished adaptation study whose numbers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heatv2x.world.config import WorldConfig
from studies.config import AdaptationConfig
from studies.summary import summarise

Contents = dict[str, dict[str, Any]]

CONFIG = AdaptationConfig(budgets=(75, 150, 300), shares=(0.5, 2.0))
WORLD = WorldConfig(out=Path("world"), train=400, validate=60, test=100, seed=31)
COMMAND = "heatv2x bench adaptation"

# method: (AP50, AP70, trained parameters, CPU seconds)
PLAIN = {
    "unaligned": (0.55, 0.25, 0, None),
    "late": (0.74, 0.38, 0, None),
    "late_lhft": (0.73, 0.37, 30_000, 30.0),
    "gcft_only": (0.73, 0.38, 50_000, 40.0),
    "lhft": (0.74, 0.39, 30_000, 30.0),
    "lhft_gcft": (0.76, 0.41, 50_000, 70.0),
    "maximum": (0.75, 0.40, 50_000, 66.0),
    "backward_alignment": (0.75, 0.40, 300_000, 100.0),
    "full_finetune": (0.765, 0.42, 400_000, 300.0),
    "scratch_mix": (0.77, 0.43, 700_000, 500.0),
}
STEPS = {"lhft": 200, "gcft": 150}


def make_row(name: str, newcomer: str, ego: str, seed: int, ap50: float, ap70: float, **more: Any) -> dict[str, Any]:
    defaults = {
        "ap": {"0.3": ap50 + 0.1, "0.5": ap50, "0.7": ap70},
        "ap_by_distance": {"50+": None, "0-20": ap50 + 0.1, "20-35": ap50, "35-50": ap50 - 0.1},
        "n_frames": 100,
        "protocol": {"name": "heatv2x", "description": "BEV overlap", "iou": "bev"},
        "message_bytes": 65000.0,
        "codec": "int8",
        "trained_parameters": 0,
        "cumulative_parameters": 0,
        "train_seconds": None,
        "peak_memory_mb": None,
    }
    return {"name": name, "newcomer": newcomer, "ego_type": ego, "seed": seed, **defaults, **more}


def make_stage(name: str, seconds: float, steps: int, parameters: int, aps: tuple[float, ...] = ()) -> dict[str, Any]:
    curve: list[dict[str, Any]] = [{"step": steps, "seconds": seconds, "loss": 1.0}]
    curve += [{"step": i, "seconds": seconds * (i + 1) / 9, "ap50": ap, "loss": 1.0} for i, ap in enumerate(aps)]
    return {"name": name, "cpu_seconds": seconds, "trained_parameters": parameters, "steps": steps, "curve": curve}


def cost(method: str) -> dict[str, Any]:
    _, _, parameters, seconds = PLAIN[method]
    memory = None if seconds is None else 1000.0
    about = {"trained_parameters": parameters, "cumulative_parameters": parameters, "peak_memory_mb": memory}
    return {**about, "train_seconds": seconds}


def make_contents(seeds: tuple[int, ...] = (0, 1, 2)) -> Contents:
    """A finished study in which seed s has s / 1000 more AP everywhere."""
    found: Contents = {}
    for seed in seeds:
        for name, content in _seed(seed).items():
            about = {"date": f"2026-11-{24 + seed}", "machine": {"device": "CPU", "cores": 2}, "code_version": "0.1.0"}
            found[f"seed{seed}/{name}"] = {**about, "facts": {}, "stages": [], **content, "seed": seed}
    return found


def _seed(seed: int) -> Contents:
    more = seed / 1000

    def row(name: str, newcomer: str, ego: str, ap50: float, ap70: float, **rest: Any) -> dict[str, Any]:
        return make_row(name, newcomer, ego, seed, ap50 + more, ap70 + more, **rest)

    def base(prefix: str, lower: float) -> list[dict[str, Any]]:
        about = {"trained_parameters": 380_000, "cumulative_parameters": 380_000, "train_seconds": 378.0}
        return [
            row(f"{prefix}no_fusion", "lidar64", "lidar64", 0.52 - lower, 0.27, **{**about, "message_bytes": 0.0}),
            row(f"{prefix}homogeneous", "lidar64", "lidar64", 0.81 - lower, 0.46, **about),
        ]

    cells: Contents = {
        "base": {
            "rows": [*base("", 0.0), row("homogeneous_late", "lidar64", "lidar64", 0.8, 0.45, codec="boxes")],
            "stages": [make_stage("base", 378.0, 1200, 380_000)],
        },
        "base_maximum": {
            "rows": base("maximum/", 0.002),
            "stages": [make_stage("base_maximum", 300.0, 1200, 350_000)],
        },
        "encoder_lidar64": {
            "rows": [row("single_agent", "lidar64", "lidar64", 0.5, 0.26)],
            "stages": [make_stage("encoder_lidar64", 240.0, 800, 360_000)],
        },
        "twin": {"rows": [row("control/gcft_homogeneous", "twin", "lidar64", 0.8, 0.45)]},
        "scratch_mix": {"rows": [row("control/deployed_from_scratch_mix", "lidar64", "lidar64", 0.79, 0.44)]},
        "all/joined": {"rows": []},
        "all/full_finetune": {"rows": [], "stages": [make_stage("all/full_finetune", 600.0, 900, 400_000)]},
    }
    cells["scratch_mix"]["stages"] = [make_stage("scratch_mix", 500.0, 1200, 700_000)]
    for prefix, ego in (("all", "lidar64"), ("all_ego_lidar16", "lidar16"), ("all_ego_camera", "camera")):
        for method in ("unaligned", "lhft", "lhft_gcft", "late", "full_finetune", "scratch_mix"):
            ap50, ap70, *_ = PLAIN[method]
            place = method if method == "scratch_mix" else f"all/{'full_finetune' if 'full' in method else 'joined'}"
            cells[place]["rows"].append(row(f"{prefix}/{method}", "all", ego, ap50 - 0.05, ap70 - 0.05))
    cells["links"] = {
        "rows": [
            row(f"links/{fusion}{refined}/{link}", "lidar64", "lidar64", ap50 - lower - (0.0 if refined else 0.02), 0.4)
            for fusion, ap50 in (("graph", 0.8), ("gate", 0.79), ("maximum", 0.7))
            for link, lower in (("clean", 0.0), ("noise", 0.05), ("quality", 0.1))
            for refined in ("", "_refined")
            if not (refined and link == "clean")
        ]
        + [row("links/maximum_drop/quality", "lidar64", "lidar64", 0.62, 0.3)]
    }
    for newcomer, offset in (("lidar16", 0.0), ("camera", -0.2)):
        _joining(cells, row, newcomer, offset)
    for steps, seconds, ap50 in ((75, 35.0, 0.69), (150, 70.0, 0.71), (300, 140.0, 0.74)):
        cells[f"lidar16/full_{steps}"] = {
            "rows": [row(f"full_finetune@{steps}", "lidar16", "lidar64", ap50, 0.37, train_seconds=seconds)],
            "stages": [make_stage(f"lidar16/full_finetune@{steps}", seconds, steps, 400_000)],
        }
    for share, gain in ((0.5, -0.02), (2.0, 0.01)):
        steps = round(300 * share)
        cells[f"lidar16/joined_x{share:g}"] = {
            "rows": [
                row(f"lhft@x{share:g}", "lidar16", "lidar64", 0.74 + gain, 0.38, train_seconds=30 * share),
                row(f"lhft_gcft@x{share:g}", "lidar16", "lidar64", 0.76 + gain, 0.40, train_seconds=70 * share),
            ],
            "stages": [
                make_stage(f"lidar16_x{share:g}/lhft", 30 * share, round(200 * share), 30_000),
                make_stage(f"lidar16_x{share:g}/gcft", 40 * share, round(150 * share), 50_000),
            ],
        }
        cells[f"lidar16/backward_{steps}"] = {
            "rows": [row(f"backward_alignment@{steps}", "lidar16", "lidar64", 0.75 + gain, 0.39, train_seconds=1.0)],
            "stages": [make_stage(f"lidar16/backward_alignment@{steps}", 100 * share, steps, 300_000)],
        }
    return cells


def _joining(cells: Contents, row: Any, newcomer: str, offset: float) -> None:
    stages = [make_stage(f"{newcomer}/lhft", 30.0, 200, 30_000), make_stage(f"{newcomer}/gcft", 40.0, 150, 50_000)]
    partly = [
        make_stage(f"gcft_only_{newcomer}/gcft", 40.0, 150, 50_000),
        make_stage(f"lhft_equal_steps_{newcomer}/lhft", 55.0, 350, 30_000),
    ]
    full = make_stage(f"{newcomer}/full_finetune@900", 420.0, 900, 400_000, (0.60, 0.70, 0.74, 0.75, 0.755, 0.755))
    places = {
        "joined": ([], stages),
        "partly": ([], partly),
        "maximum": ([], [make_stage(f"maximum_{newcomer}/{s['name'][-4:]}", 33.0, 175, 50_000) for s in stages]),
        "full_finetune": ([], [full]),
        "backward": ([], [make_stage(f"{newcomer}/backward_alignment@300", 100.0, 300, 300_000)]),
    }
    homes = {"gcft_only": "partly", "maximum": "maximum", "full_finetune": "full_finetune",
             "backward_alignment": "backward"}  # fmt: skip
    made: dict[str, list[dict[str, Any]]] = {name: rows for name, (rows, _) in places.items()}
    made["scratch_mix"] = cells["scratch_mix"]["rows"]
    for ego, prefix in (("lidar64", "" if newcomer == "lidar16" else "camera/"), (newcomer, f"ego_{newcomer}/")):
        for method, (ap50, ap70, *_) in PLAIN.items():
            home = homes.get(method, method if method == "scratch_mix" else "joined")
            made[home].append(row(f"{prefix}{method}", newcomer, ego, ap50 + offset, ap70 + offset, **cost(method)))
        made["partly"].append(row(f"{prefix}control/lhft_equal_steps", newcomer, ego, 0.745 + offset, 0.39 + offset))
    made["joined"] += [
        row(f"ego_{newcomer}/no_fusion", newcomer, newcomer, 0.4, 0.15, **cost("lhft_gcft")),
        row(f"control/{newcomer}_dropped", newcomer, "lidar64", 0.52, 0.27, message_bytes=0.0),
        row(f"control/deployed_after_{newcomer}", newcomer, "lidar64", 0.81, 0.46),
    ]
    made["full_finetune"].append(
        row(f"control/deployed_after_full_finetune_{newcomer}", newcomer, "lidar64", 0.79, 0.44)
    )
    heard = "" if newcomer == "lidar16" else "camera/"
    taken = ("no_multi_cognitive", "no_closed_form", "no_teacher", "closed_form_only")
    cells[f"{newcomer}/ablation"] = {
        "rows": [
            row(f"{prefix}ablation/{name}", newcomer, ego, 0.7 + offset, 0.35 + offset)
            for ego, prefix in (("lidar64", heard), (newcomer, f"ego_{newcomer}/"))
            for name in taken
        ]
        + [
            row(f"{heard}ablation/{name}_noise", newcomer, "lidar64", 0.65 + offset, 0.3 + offset)
            for name in ("whole", "no_multi_cognitive")
        ]
    }
    boxes = [
        row(f"{prefix}lhft_gcft_boxes", newcomer, ego, 0.78 + offset, 0.43 + offset)
        for ego, prefix in (("lidar64", heard), (newcomer, f"ego_{newcomer}/"))
    ]
    if newcomer == "lidar16":
        boxes.append(row("homogeneous_boxes", newcomer, "lidar64", 0.83, 0.48))
        boxes.append(row("full_finetune_boxes", newcomer, "lidar64", 0.785, 0.44))
    cells[f"{newcomer}/boxes"] = {"rows": boxes}
    for name, (_, trainings) in places.items():
        cells[f"{newcomer}/{name}"] = {"rows": made[name], "stages": trainings}
    cells[f"{newcomer}/joined"]["facts"] = {"adapter_pack_bytes": 210_000, "base_unchanged": True}
    cells[f"encoder_{newcomer}"] = {
        "rows": [row(f"ego_{newcomer}/single_agent", newcomer, newcomer, 0.39, 0.15)],
        "stages": [make_stage(f"encoder_{newcomer}", 130.0, 800, 365_000)],
    }


def summary_of(contents: Contents, config: AdaptationConfig = CONFIG) -> dict[str, Any]:
    return summarise(contents, config, WORLD, COMMAND)


def row_of(summary: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in summary["rows"] if row["name"] == name)


def target(summary: dict[str, Any], start: str) -> dict[str, Any]:
    return next(line for line in summary["targets"] if line["what"].startswith(start))


def change(contents: Contents, name: str, change_ap: float, seed: int | None = None) -> None:
    """Add to AP50 of a row."""
    for content in contents.values():
        for row in content["rows"]:
            if row["name"] == name and seed in (None, row["seed"]):
                row["ap"]["0.5"] += change_ap
