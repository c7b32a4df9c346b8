"""AP against training seconds: every budget of every method, and when a rival has caught up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from studies.cells import Content
from studies.config import BASE, LIDAR
from studies.table import RowName, Table, over_seeds

CURVES = ("lhft", "lhft_gcft", "gcft_only", "backward_alignment", "full_finetune", "maximum", "scratch_mix")
STAGES = {"lhft": "/lhft", "gcft_only": "/gcft"}
"""Whose training is one stage of a cell that has several; every other method's is the whole cell."""
EQUAL_AP = 0.01
"""Another method has caught up when it is this close to LHFT and GCFT in AP50."""


def training_curves(contents: Mapping[str, Content]) -> list[dict[str, Any]]:
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


def validation_curves(contents: Mapping[str, Content]) -> list[dict[str, Any]]:
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


def time_to_equal_ap(curves: Sequence[dict[str, Any]], table: Table) -> list[dict[str, Any]]:
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


def interpolated(seconds: float, points: Sequence[tuple[float, float]]) -> float:
    """AP at some seconds: linear in the logarithm of the seconds between points, constant outside them."""
    ordered = sorted(points)
    if seconds <= ordered[0][0]:
        return ordered[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(ordered):
        if seconds <= x1:
            return y0 + (y1 - y0) * math.log(seconds / x0) / math.log(x1 / x0)
    return ordered[-1][1]
