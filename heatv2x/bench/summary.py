"""From the cells of the adaptation study to its JSON: rows over seeds, curves, controls, and what the targets say.

A spread is the sample standard deviation over seeds, null with one seed. Differences between rows are formed within a
seed, where both share a base and an encoder, and averaged then. AP is a fraction in the JSON and points (0-100) in
text.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heatv2x.bench.cells import Content
from heatv2x.bench.config import BASE, LIDAR, AdaptationConfig
from heatv2x.errors import HeatError
from heatv2x.world.config import WorldConfig

TITLE = "Adaptation study"
THRESHOLDS = ("0.3", "0.5", "0.7")
JOINING = ("unaligned", "late", "late_lhft", "gcft_only", "lhft", "lhft_equal_steps", "lhft_gcft", "maximum",
           "backward_alignment", "full_finetune")  # fmt: skip
METHODS = (
    "no_fusion", "single_agent", *JOINING, "scratch_mix", "homogeneous", "homogeneous_late",
)  # fmt: skip
CURVES = ("lhft", "lhft_gcft", "gcft_only", "backward_alignment", "full_finetune", "maximum", "scratch_mix")
STAGES = {"lhft": "/lhft", "gcft_only": "/gcft"}
"""Whose training is one stage of a cell that has several; every other method's is the whole cell."""
EQUAL_AP = 0.01
"""Another method has caught up when it is this close to LHFT and GCFT in AP50."""


@dataclass(frozen=True)
class RowName:
    """A row's name taken apart: "ego_lidar16/lhft@x2" is the group "ego_lidar16", the method "lhft", the budget "x2".

    Attributes:
        group: "" if the base hears LiDAR newcomers, "control", or what stands in front.
        method: what was done.
        budget: "" for the whole one.
    """

    group: str
    method: str
    budget: str

    @classmethod
    def of(cls, name: str) -> RowName:
        """Take a name apart; what has "control" anywhere in front is a control."""
        *before, last = name.split("/")
        method, _, budget = last.partition("@")
        if "control" in before:
            before.remove("control")
            return cls("control", "/".join((*before, method)), budget)
        return cls("/".join(before), method, budget)


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
        "curves": _curves(contents),
        "validation_curves": _validation_curves(contents),
    }
    summary["time_to_equal_ap"] = _time_to_equal_ap(summary["curves"], table)
    targets = Targets(table, contents, config, summary["curves"])
    summary["targets"], summary["without_target"] = targets.lines(), targets.without()
    return summary


@dataclass
class Table:
    """Rows by name and seed."""

    rows: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, contents: Mapping[str, Content]) -> Table:
        """All rows of all cells.

        Raises:
            HeatError: two cells of one seed have a row of the same name.
        """
        table = cls()
        for content in contents.values():
            for row in content["rows"]:
                by_seed = table.rows.setdefault(row["name"], {})
                if row["seed"] in by_seed:
                    raise HeatError(f"row {row['name']} of seed {row['seed']} is in two cells")
                by_seed[row["seed"]] = row
        return table

    def names(self) -> list[str]:
        """Rows by group, in the order of the methods, budgets after the whole."""
        return sorted(self.rows, key=_place)

    def ap(self, name: str, iou: str = "0.5") -> dict[int, float]:
        """AP by seed."""
        return {seed: row["ap"][iou] for seed, row in sorted(self.rows.get(name, {}).items())}

    def column(self, name: str, column: str) -> dict[int, float]:
        """Numbers by seed, without the seeds that have none."""
        rows = sorted(self.rows.get(name, {}).items())
        return {seed: row[column] for seed, row in rows if row[column] is not None}


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean, spread and values of one number over seeds."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "spread": spread, "values": list(values)}


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


def _place(name: str) -> tuple[Any, ...]:
    row = RowName.of(name)
    group = (row.group == "control", row.group.startswith("all"), row.group.removeprefix("ego_").removeprefix("all_"))
    method = row.method.rpartition("/")[2]
    rank = METHODS.index(method) if method in METHODS else len(METHODS)
    budget = float(row.budget.removeprefix("x") or "inf")
    return (*group, row.group, rank, row.method.count("/"), row.method, budget == math.inf, budget)


def expected_rows(config: AdaptationConfig) -> list[str]:
    """Names of all rows that a finished study has."""
    both = ("unaligned", "late", "late_lhft", "gcft_only", "lhft", "lhft_gcft", "maximum", "backward_alignment",
            "full_finetune", "scratch_mix", "control/lhft_equal_steps")  # fmt: skip
    names = ["no_fusion", "single_agent", "homogeneous", "homogeneous_late", "control/gcft_homogeneous"]
    names += ["maximum/no_fusion", "maximum/homogeneous", "control/deployed_from_scratch_mix"]
    for newcomer in config.newcomers:
        heard = "" if newcomer == LIDAR else f"{newcomer}/"
        names += [f"{prefix}{row}" for prefix in (heard, f"ego_{newcomer}/") for row in both]
        names += [f"ego_{newcomer}/no_fusion", f"ego_{newcomer}/single_agent", f"control/{newcomer}_dropped"]
        names += [f"control/deployed_after_{newcomer}", f"control/deployed_after_full_finetune_{newcomer}"]
        if newcomer == LIDAR:
            names += [f"full_finetune@{steps}" for steps in config.budgets]
            names += [f"{method}@x{share:g}" for share in config.shares for method in ("lhft", "lhft_gcft")]
            backward = [max(1, round(share * config.backward_steps)) for share in config.shares]
            names += [f"backward_alignment@{steps}" for steps in backward]
    prefixes = ["all", *(f"all_ego_{name}" for name in config.newcomers)]
    several = ["unaligned", "lhft", "lhft_gcft", "late", "full_finetune"] if len(config.newcomers) > 1 else []
    return names + [f"{prefix}/{row}" for prefix in prefixes for row in (*several, "scratch_mix")]


def _missing(table: Table, config: AdaptationConfig) -> list[dict[str, Any]]:
    found = []
    for name in sorted(expected_rows(config), key=_place):
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


def _curves(contents: Mapping[str, Content]) -> list[dict[str, Any]]:
    """Test AP against the CPU seconds of all steps trained, for every budget that was tried, heard by the base."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for content in contents.values():
        for row in content["rows"]:
            name = RowName.of(row["name"])
            if row["ego_type"] != BASE or name.method not in CURVES:
                continue
            ending = STAGES.get(name.method, "")
            stages = [stage for stage in content["stages"] if stage["name"].endswith(ending)]
            if stages:
                point = {
                    "seconds": round(sum(stage["cpu_seconds"] for stage in stages), 2),
                    "ap50": row["ap"]["0.5"],
                    "ap70": row["ap"]["0.7"],
                    "seed": row["seed"],
                    "steps": sum(stage["steps"] for stage in stages),
                }
                found.setdefault((row["newcomer"], name.method), []).append(point)
    return [
        {"method": method, "newcomer": newcomer, "points": sorted(points, key=lambda p: (p["steps"], p["seed"]))}
        for (newcomer, method), points in sorted(found.items(), key=lambda item: (item[0][0], CURVES.index(item[0][1])))
    ]


def _validation_curves(contents: Mapping[str, Content]) -> list[dict[str, Any]]:
    """AP50 on the validation towns while full fine-tuning ran; its plateau is read from this."""
    found = []
    for content in contents.values():
        for stage in content["stages"]:
            newcomer, _, method = stage["name"].partition("/")
            points = [
                {"step": p["step"], "seconds": p["seconds"], "ap50": p["ap50"]} for p in stage["curve"] if "ap50" in p
            ]
            if points and method.startswith("full_finetune"):
                found.append({"newcomer": newcomer, "seed": content["seed"], "points": points})
    return sorted(found, key=lambda curve: (curve["newcomer"], curve["seed"]))


def _time_to_equal_ap(curves: Sequence[dict[str, Any]], table: Table) -> list[dict[str, Any]]:
    """CPU seconds of each method's cheapest budget within EQUAL_AP of LHFT and GCFT; None where none is."""
    found = []
    for curve in curves:
        own = table.ap("lhft_gcft" if curve["newcomer"] == LIDAR else f"{curve['newcomer']}/lhft_gcft")
        seconds: list[float | None] = []
        for seed, ap50 in own.items():
            there = [p for p in curve["points"] if p["seed"] == seed and p["ap50"] >= ap50 - EQUAL_AP]
            tried = any(p["seed"] == seed for p in curve["points"])
            if tried:
                seconds.append(min((p["seconds"] for p in there), default=None))
        reached = [value for value in seconds if value is not None]
        if seconds:
            spread = over_seeds(reached) if len(reached) == len(seconds) else {"mean": None, "spread": None}
            about = {"method": curve["method"], "newcomer": curve["newcomer"], "reached": len(reached)}
            found.append({**about, "seconds": {**spread, "values": seconds}})
    return found


# --- targets --------------------------------------------------------------------------------------------------------


class Targets:
    """The lines of the targets that this study can answer; each is met, missed, or not known yet."""

    def __init__(
        self,
        table: Table,
        contents: Mapping[str, Content],
        config: AdaptationConfig,
        curves: Sequence[dict[str, Any]],
    ) -> None:
        self.table, self.config, self.curves = table, config, curves
        self.facts = {name: content["facts"] for name, content in contents.items()}
        self.seeds = sorted({content["seed"] for content in contents.values()})

    def lines(self) -> list[dict[str, Any]]:
        """All lines, in the order of the study's issue."""
        gain = self._points
        lines = [gain("homogeneous collaboration over ego alone, AP50", "homogeneous", "no_fusion", "0.5", 20)]
        full, backward = "LHFT + GCFT against full fine-tuning", "LHFT + GCFT against backward alignment"
        if LIDAR in self.config.newcomers:
            lines += [
                gain(f"{full}, LiDAR newcomer, AP50", "lhft_gcft", "full_finetune", "0.5", -1),
                gain(f"{full}, LiDAR newcomer, AP70", "lhft_gcft", "full_finetune", "0.7", -2),
                self._share(f"{full}, training time to its plateau", "full_finetune", "train_seconds", 25),
                self._share(f"{full}, parameters", "full_finetune", "cumulative_parameters", 15),
                line(f"{full}, parameters at published size", "≤ 2 %", "not part of this study", None),
                gain(f"{backward}, AP50", "lhft_gcft", "backward_alignment", "0.5", 0, strict=True),
                gain(f"{backward}, AP70", "lhft_gcft", "backward_alignment", "0.7", 0, strict=True),
                self._share(f"{backward}, training time", "backward_alignment", "train_seconds", 100, strict=True),
                self._equal_seconds(),
            ]
        for newcomer in self.config.newcomers:
            if newcomer != LIDAR:
                what = f"{newcomer} newcomer with LHFT + GCFT over dropping it, AP50"
                lines.append(gain(what, f"{newcomer}/lhft_gcft", "no_fusion", "0.5", 3))
        lines += self._graph()
        lines += [self._deployed(newcomer) for newcomer in self.config.newcomers]
        lines += [self._pack(newcomer) for newcomer in self.config.newcomers]
        return lines

    def without(self) -> list[dict[str, Any]]:
        """Differences in AP50 that no target covers but a reader asks for; what is not measured is left out."""
        pairs = [("the graph over late fusion, deployed type only", "homogeneous", "homogeneous_late")]
        for newcomer in self.config.newcomers:
            heard = "" if newcomer == LIDAR else f"{newcomer}/"
            for who, prefix in ((f"{newcomer} newcomer", heard), (f"{newcomer} as the ego", f"ego_{newcomer}/")):
                pairs += [
                    (f"LHFT + GCFT over late fusion, {who}", f"{prefix}lhft_gcft", f"{prefix}late"),
                    (f"LHFT + GCFT over LHFT alone, {who}", f"{prefix}lhft_gcft", f"{prefix}lhft"),
                ]
        if len(self.config.newcomers) > 1:
            pairs.append(("LHFT + GCFT over late fusion, all types together", "all/lhft_gcft", "all/late"))
        found = [(what, paired(self.table.ap(a), self.table.ap(b), _difference)) for what, a, b in pairs]
        return [{"what": what, "measured": _points_text(list(by_seed.values()))} for what, by_seed in found if by_seed]

    def _points(
        self, what: str, ours: str, theirs: str, iou: str, least: float, strict: bool = False
    ) -> dict[str, Any]:
        """A paired difference of AP in points."""
        target = f"{'>' if strict else '≥'} {_signed(least, 0) if least else '0'}"
        differences = paired(self.table.ap(ours, iou), self.table.ap(theirs, iou), _difference)
        return _judged(what, target, differences, lambda d: d > least if strict else d >= least, _points_text, least)

    def _share(self, what: str, theirs: str, column: str, most: float, strict: bool = False) -> dict[str, Any]:
        """A paired ratio in percent."""
        ours, reference = self.table.column("lhft_gcft", column), self.table.column(theirs, column)
        ratios = paired(ours, {s: v for s, v in reference.items() if v}, lambda a, b: 100 * a / b)
        target = f"{'<' if strict else '≤'} {most:g} %"
        return _judged(what, target, ratios, lambda d: d < most if strict else d <= most, _percent_text, most)

    def _equal_seconds(self) -> dict[str, Any]:
        """Against the AP50 that full fine-tuning has after as many CPU seconds."""
        theirs = {}
        for seed, seconds in self.table.column("lhft_gcft", "train_seconds").items():
            points = [p for p in self._curve("full_finetune") if p["seed"] == seed]
            if len(points) > 1:  # the longest run alone says nothing about fewer seconds
                theirs[seed] = interpolated(seconds, [(p["seconds"], p["ap50"]) for p in points])
        differences = paired(self.table.ap("lhft_gcft"), theirs, _difference)
        what = "LHFT + GCFT over full fine-tuning at equal training seconds, AP50"
        found = _judged(what, "≥ +4", differences, lambda d: d >= 4, _points_text, 4)
        if differences:
            found["measured"] += (
                "; full fine-tuning's AP50 interpolated between its budgets, linear in the logarithm of the seconds, "
                "and held constant outside them"
            )
        return found

    def _curve(self, method: str) -> list[dict[str, Any]]:
        found = [c["points"] for c in self.curves if c["method"] == method and c["newcomer"] == LIDAR]
        return found[0] if found else []

    def _graph(self) -> list[dict[str, Any]]:
        """The graph against maximum, both trained with noise, on clean data."""
        pairs = [("deployed type only", "homogeneous", "maximum/homogeneous")]
        for newcomer in self.config.newcomers:
            heard = "" if newcomer == LIDAR else f"{newcomer}/"
            pairs.append((f"{newcomer} newcomer", f"{heard}lhft_gcft", f"{heard}maximum"))
        lines = []
        for who, ours, theirs in pairs:
            differences = paired(self.table.ap(ours), self.table.ap(theirs), _difference)
            spread = over_seeds(list(differences.values()))["spread"] if differences else None
            least = -(spread or 0.0)
            what = f"graph over noise-trained maximum, clean, {who}, AP50"
            reaches = functools.partial(operator.le, least)
            found = _judged(what, "not below −spread", differences, reaches, _points_text)
            if found["met"] is False and spread is None:
                found["met"] = None
                found["measured"] += "; one seed has no spread to compare with"
            lines.append(found)
        return lines

    def _deployed(self, newcomer: str) -> dict[str, Any]:
        """Deployed types alone, before and after a joining."""
        before, name = self.table.rows.get("homogeneous", {}), f"control/deployed_after_{newcomer}"
        after = self.table.rows.get(name, {})
        what, target = f"deployed types after {newcomer} joined", "bit-identical"
        seeds = sorted(set(before) & set(after))
        if not seeds:
            return line(what, target, "not measured", None)
        changed = [seed for seed in seeds if before[seed]["ap"] != after[seed]["ap"]]
        same_base = [self.facts.get(f"seed{s}/{newcomer}/joined", {}).get("base_unchanged") for s in seeds]
        old, new = ([100 * rows[s]["ap"]["0.5"] for s in seeds] for rows in (before, after))
        text = f"AP50 {statistics.fmean(old):.2f} → {statistics.fmean(new):.2f}"
        text += f"; AP30, AP50 and AP70 equal to the last digit for {len(seeds) - len(changed)} of {len(seeds)} seeds"
        text += "; base unchanged" if all(same_base) else "; base CHANGED or not verified"
        other = paired(
            self.table.ap(f"control/deployed_after_full_finetune_{newcomer}"), self.table.ap("homogeneous"), _difference
        )
        if other:
            text += f" (full fine-tuning moves them by {_points_text(list(other.values()))})"
        return line(what, target, text, not changed and all(same_base))

    def _pack(self, newcomer: str) -> dict[str, Any]:
        """Size of the adapter on disk."""
        sizes = [self.facts.get(f"seed{s}/{newcomer}/joined", {}).get("adapter_pack_bytes") for s in self.seeds]
        known = [size for size in sizes if size is not None]
        what, target = f"adapter pack on disk, {newcomer}", "≤ 250 kB"
        if not known:
            return line(what, target, "not measured", None)
        return line(what, target, f"{max(known) / 1000:.1f} kB", max(known) <= 250_000)


def line(what: str, target: str, measured: str, met: bool | None) -> dict[str, Any]:
    """One line of the targets."""
    return {"what": what, "target": target, "measured": measured, "met": met}


def paired(
    ours: Mapping[int, float], theirs: Mapping[int, float], compare: Callable[[float, float], float]
) -> dict[int, float]:
    """Compare two numbers within every seed that has both."""
    return {seed: compare(ours[seed], theirs[seed]) for seed in sorted(set(ours) & set(theirs))}


def interpolated(seconds: float, points: Sequence[tuple[float, float]]) -> float:
    """AP at some seconds: linear in the logarithm of the seconds between points, constant outside them."""
    ordered = sorted(points)
    if seconds <= ordered[0][0]:
        return ordered[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(ordered):
        if seconds <= x1:
            return y0 + (y1 - y0) * math.log(seconds / x0) / math.log(x1 / x0)
    return ordered[-1][1]


def _judged(
    what: str,
    target: str,
    by_seed: Mapping[int, float],
    reaches: Callable[[float], bool],
    text: Callable[[Sequence[float]], str],
    bound: float | None = None,
) -> dict[str, Any]:
    """A line whose mean over seeds decides; it says so when single seeds differ, and by how much a target is missed."""
    if not by_seed:
        return line(what, target, "not measured", None)
    values = list(by_seed.values())
    mean = statistics.fmean(values)
    met, reached = reaches(mean), sum(map(reaches, values))
    measured = text(values)
    if len(values) > 1 and reached not in (0, len(values)):
        measured += f"; {reached} of {len(values)} seeds reach it"
    if not met and bound is not None:
        measured += f"; missed by {abs(mean - bound):.2g} {'points' if text is _points_text else 'percentage points'}"
    return line(what, target, measured, met)


def _points_text(values: Sequence[float]) -> str:
    return f"{_signed(statistics.fmean(values))}{_spread_text(values)} points{_seeds_text(values, _signed)}"


def _percent_text(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f}{_spread_text(values)} %{_seeds_text(values, lambda v: f'{v:.1f}')}"


def _spread_text(values: Sequence[float]) -> str:
    return f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""


def _seeds_text(values: Sequence[float], write: Callable[[float], str]) -> str:
    return f" (seeds: {', '.join(map(write, values))})" if len(values) > 1 else " (one seed)"


def _signed(value: float, digits: int = 1) -> str:
    rounded = round(value, digits) + 0.0  # minus zero becomes zero
    return f"{rounded:+.{digits}f}".replace("-", "−")


def _difference(ours: float, theirs: float) -> float:
    return 100 * (ours - theirs)


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
