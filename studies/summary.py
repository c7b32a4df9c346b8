"""From the cells of the adaptation study to its JSON: rows over seeds, curves, controls, and what the targets say.

A spread is the sample standard deviation over seeds, null with one seed. Differences between rows are formed within a
seed, where both share a base and an encoder, and averaged then. AP is a fraction in the JSON and points (0-100) in
text.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from heatv2x.errors import HeatError
from heatv2x.world.config import WorldConfig
from studies import experiments
from studies.cells import Content
from studies.config import BASE, LIDAR, AdaptationConfig
from studies.curves import time_to_equal_ap, training_curves, validation_curves
from studies.table import JOINING, THRESHOLDS, RowName, Table, over_seeds, place_of
from studies.targets import Targets

TITLE = "Adaptation study"


def summarise(
    contents: Mapping[str, Content], config: AdaptationConfig, world: WorldConfig, command: str
) -> dict[str, Any]:
    """The study's JSON from the contents of its finished cells; what is not there yet is listed as missing.

    Raises:
        HeatError: no cell is finished, or seeds disagree about what must not depend on the seed.
    """
    if not contents:
        raise HeatError("no cell of the study is finished, so there is nothing to summarise")
    table = Table.of(contents)
    summary: dict[str, Any] = {
        "title": TITLE,
        "command": command,
        "date": _dates(contents),
        "machine": _distinct(content["machine"] for content in contents.values()),
        "code_version": ", ".join(sorted({content["code_version"] for content in contents.values()})),
        "world": world.content(),
        "settings": config.decisive(),
        "protocol": next((row["protocol"] for content in contents.values() for row in content["rows"]), None),
        "spread": "sample standard deviation over seeds; null with one seed",
        "seeds": sorted({content["seed"] for content in contents.values()}),
        "training_cpu_seconds": _training_seconds(contents),
        "missing": _missing(table, config),
        "rows": [_row(name, table, _encoders(contents)) for name in table.names()],
        "pretraining": _pretraining(contents),
        "curves": training_curves(contents),
        "validation_curves": validation_curves(contents),
    }
    summary["time_to_equal_ap"] = time_to_equal_ap(summary["curves"], table)
    targets = Targets(table, contents, config, summary["curves"])
    summary["targets"], summary["without_target"] = targets.lines(), targets.without()
    return summary


# --- rows -----------------------------------------------------------------------------------------------------------


def _row(name: str, table: Table, encoders: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    by_seed = table.rows[name]
    rows = [by_seed[seed] for seed in sorted(by_seed)]
    first = rows[0]
    for column in ("newcomer", "ego_type", "codec", "n_frames", "trained_parameters", "cumulative_parameters"):
        if any(row[column] != first[column] for row in rows):
            raise HeatError(f"row {name}: {column} differs between seeds: {[row[column] for row in rows]}")
    seconds = list(table.column(name, "train_seconds").values())
    memory = list(table.column(name, "peak_memory_mb").values())
    traffic = list(table.column(name, "message_bytes").values())
    parts = {part for row in rows for part in row["ap_by_distance"]}
    return {
        "name": name,
        "newcomer": first["newcomer"],
        "ego_type": first["ego_type"],
        "ap": {iou: over_seeds([row["ap"][iou] for row in rows]) for iou in THRESHOLDS},
        "ap_by_distance": {
            part: _mean([row["ap_by_distance"].get(part) for row in rows])
            for part in sorted(parts, key=lambda part: float(part.rstrip("+m ").split("-")[0]))
        },
        "trained_parameters": first["trained_parameters"],
        "cumulative_parameters": first["cumulative_parameters"],
        "train_seconds": over_seeds(seconds) if seconds else None,
        "pretrain_seconds": _pretrain_seconds(name, first["newcomer"], sorted(by_seed), encoders),
        "peak_memory_mb": max(memory) if memory else None,
        "message_bytes": _mean(traffic),
        "codec": first["codec"],
        "n_frames": first["n_frames"],
        "seeds": sorted(by_seed),
    }


def _pretrain_seconds(
    name: str, newcomer: str, seeds: Sequence[int], encoders: Mapping[str, Mapping[int, float]]
) -> float | None:
    """CPU seconds of the newcomers' own encoders, for rows that start from them."""
    method = RowName.of(name).method.rpartition("/")[2]
    types = [t for t in encoders if t != BASE] if newcomer == "all" else [newcomer]
    if method not in JOINING or any(seed not in encoders.get(t, {}) for t in types for seed in seeds):
        return None
    return sum(statistics.fmean(encoders[t][seed] for seed in seeds) for t in types)


def _encoders(contents: Mapping[str, Content]) -> dict[str, dict[int, float]]:
    """CPU seconds of every dedicated network's training by type and seed."""
    found: dict[str, dict[int, float]] = {}
    for content in contents.values():
        for stage in content["stages"]:
            prefix, _, agent_type = stage["name"].partition("encoder_")
            if agent_type and not prefix:
                found.setdefault(agent_type, {})[content["seed"]] = stage["cpu_seconds"]
    return found


def expected_rows(config: AdaptationConfig) -> list[str]:
    """Names of all rows that a finished study has."""
    both = ("unaligned", "late", "late_lhft", "gcft_only", "lhft", "lhft_gcft", "lhft_gcft_boxes", "maximum",
            "backward_alignment", "full_finetune", "scratch_mix", "control/lhft_equal_steps")  # fmt: skip
    names = ["no_fusion", "single_agent", "homogeneous", "homogeneous_late", "control/gcft_homogeneous"]
    names += ["maximum/no_fusion", "maximum/homogeneous", "control/deployed_from_scratch_mix"]
    for newcomer in config.newcomers:
        heard = "" if newcomer == LIDAR else f"{newcomer}/"
        names += [f"{prefix}{row}" for prefix in (heard, f"ego_{newcomer}/") for row in both]
        names += [f"ego_{newcomer}/no_fusion", f"ego_{newcomer}/single_agent", f"control/{newcomer}_dropped"]
        names += [f"control/deployed_after_{newcomer}", f"control/deployed_after_full_finetune_{newcomer}"]
        if newcomer == LIDAR:
            names += ["homogeneous_boxes", "full_finetune_boxes"]
            names += [f"full_finetune@{steps}" for steps in config.budgets]
            names += [f"{method}@x{share:g}" for share in config.shares for method in ("lhft", "lhft_gcft")]
            backward = [max(1, round(share * config.backward_steps)) for share in config.shares]
            names += [f"backward_alignment@{steps}" for steps in backward]
        ablations = [f"{prefix}ablation/{row}" for prefix in (heard, f"ego_{newcomer}/") for row in
                     (*experiments.ABLATIONS, "closed_form_only")]  # fmt: skip
        names += [*ablations, f"{heard}ablation/whole_noise", f"{heard}ablation/no_multi_cognitive_noise"]
    names += [row for fusion in experiments.FUSIONS for row in link_rows(fusion)]
    names.append("links/maximum_drop/quality")
    prefixes = ["all", *(f"all_ego_{name}" for name in config.newcomers)]
    several = ["unaligned", "lhft", "lhft_gcft", "late", "full_finetune"] if len(config.newcomers) > 1 else []
    return names + [f"{prefix}/{row}" for prefix in prefixes for row in (*several, "scratch_mix")]


def link_rows(fusion: str) -> list[str]:
    """Rows of one fusion on clean and disturbed links."""
    disturbed = [link for link in experiments.LINKS if link != "clean"]
    return [f"links/{fusion}/{link}" for link in experiments.LINKS] + [
        f"links/{fusion}_refined/{link}" for link in disturbed
    ]


def _missing(table: Table, config: AdaptationConfig) -> list[dict[str, Any]]:
    found = []
    for name in sorted(expected_rows(config), key=place_of):
        seeds = [seed for seed in config.seeds if seed not in table.rows.get(name, {})]
        if seeds:
            found.append({"name": name, "seeds": seeds})
    return found


# --- trainings ------------------------------------------------------------------------------------------------------


def _pretraining(contents: Mapping[str, Content]) -> list[dict[str, Any]]:
    """What was trained before anybody joins: bases and dedicated networks."""
    found: dict[str, list[dict[str, Any]]] = {}
    for content in contents.values():
        for stage in content["stages"]:
            if stage["name"].startswith(("base", "encoder_")):
                found.setdefault(stage["name"], []).append(stage)
    return [
        {
            "what": name,
            "cpu_seconds": over_seeds([stage["cpu_seconds"] for stage in stages]),
            "steps": stages[0]["steps"],
            "parameters": stages[0]["trained_parameters"],
        }
        for name, stages in sorted(found.items())
    ]


def _training_seconds(contents: Mapping[str, Content]) -> dict[str, float]:
    """CPU seconds of all trainings, by seed."""
    found: dict[str, float] = {}
    for content in contents.values():
        seed = str(content["seed"])
        found[seed] = round(found.get(seed, 0.0) + sum(stage["cpu_seconds"] for stage in content["stages"]), 1)
    return dict(sorted(found.items()))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _dates(contents: Mapping[str, Content]) -> str:
    days = sorted({content["date"] for content in contents.values()})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
