"""What the targets of the adaptation study say: every line is met, missed, or not known yet."""

from __future__ import annotations

import functools
import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from studies import parameters
from studies.cells import Content
from studies.config import LIDAR, AdaptationConfig
from studies.curves import interpolated
from studies.table import Table, over_seeds, paired


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
                self._published(f"{full}, parameters at published size"),
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
        lines += [
            gain("graph over maximum, 0.4 m/°, AP50", "links/graph/noise", "links/maximum/noise", "0.5", 3),
            gain("graph over maximum, mixed pose quality, AP50", "links/graph/quality", "links/maximum/quality",
                 "0.5", 11),
            gain("graph over maximum that drops bad poses, mixed pose quality, AP50", "links/graph/quality",
                 "links/maximum_drop/quality", "0.5", 5),
        ]  # fmt: skip
        lines += [self._deployed(newcomer) for newcomer in self.config.newcomers]
        lines += [self._pack(newcomer) for newcomer in self.config.newcomers]
        return lines

    def without(self) -> list[dict[str, Any]]:
        """Differences in AP50 that no target covers but a reader asks for; what is not measured is left out."""
        pairs = [("the graph over late fusion, deployed type only", "homogeneous", "homogeneous_late")]
        pairs.append(("the graph with boxes over late fusion, deployed type only", "homogeneous_boxes",
                      "homogeneous_late"))  # fmt: skip
        for link, where in (("noise", "0.4 m/°"), ("quality", "mixed pose quality")):
            ours, theirs = f"links/graph_refined/{link}", f"links/maximum_refined/{link}"
            pairs.append((f"graph over maximum, both with pose refinement, {where}", ours, theirs))
            pairs.append((f"graph with pose refinement over maximum without, {where}", ours, f"links/maximum/{link}"))
        for newcomer in self.config.newcomers:
            heard = "" if newcomer == LIDAR else f"{newcomer}/"
            for who, prefix in ((f"{newcomer} newcomer", heard), (f"{newcomer} as the ego", f"ego_{newcomer}/")):
                pairs += [
                    (f"LHFT + GCFT over late fusion, {who}", f"{prefix}lhft_gcft", f"{prefix}late"),
                    (f"LHFT + GCFT with boxes over late fusion, {who}", f"{prefix}lhft_gcft_boxes", f"{prefix}late"),
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

    def _published(self, what: str) -> dict[str, Any]:
        """The largest share that a newcomer trains in the recipes of the public datasets."""
        counts = parameters.count()
        largest = max(counts, key=lambda each: each.share)
        text = f"{100 * largest.share:.2f} % at most, {largest.newcomer} on {largest.base} (heatv2x bench parameters)"
        return line(what, f"≤ {100 * parameters.TARGET:.0f} %", text, largest.share <= parameters.TARGET)

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
