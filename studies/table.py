"""Rows of a study's cells by name and seed, and what a row's name says."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heatv2x.errors import HeatError
from studies.cells import Content

THRESHOLDS = ("0.3", "0.5", "0.7")
JOINING = ("unaligned", "late", "late_lhft", "gcft_only", "lhft", "lhft_equal_steps", "lhft_gcft",
           "lhft_gcft_boxes", "maximum", "backward_alignment", "full_finetune", "full_finetune_boxes")  # fmt: skip
METHODS = (
    "no_fusion", "single_agent", *JOINING, "scratch_mix", "homogeneous", "homogeneous_boxes", "homogeneous_late",
)  # fmt: skip
ASIDE = ("control", "ablation", "links")
"""Rows with tables of their own, whoever the ego is."""


@dataclass(frozen=True)
class RowName:
    """A row's name taken apart: "ego_lidar16/lhft@x2" is the group "ego_lidar16", the method "lhft", the budget "x2".

    Attributes:
        group: "" if the base hears LiDAR newcomers, "control", "ablation", "links", or what stands in front.
        method: what was done.
        budget: "" for the whole one.
    """

    group: str
    method: str
    budget: str

    @classmethod
    def of(cls, name: str) -> RowName:
        """Take a name apart; what has "control" anywhere in front is a control, and so on for the `ASIDE`."""
        *before, last = name.split("/")
        method, _, budget = last.partition("@")
        for group in ASIDE:
            if group in before:
                before.remove(group)
                return cls(group, "/".join((*before, method)), budget)
        return cls("/".join(before), method, budget)


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
        return sorted(self.rows, key=place_of)

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


def paired(
    ours: Mapping[int, float], theirs: Mapping[int, float], compare: Callable[[float, float], float]
) -> dict[int, float]:
    """Compare two numbers within every seed that has both."""
    return {seed: compare(ours[seed], theirs[seed]) for seed in sorted(set(ours) & set(theirs))}


def place_of(name: str) -> tuple[Any, ...]:
    """Sorts rows by group, then in the order of the methods, budgets after the whole."""
    row = RowName.of(name)
    group = (row.group in ASIDE, row.group.startswith("all"), row.group.removeprefix("ego_").removeprefix("all_"))
    method = row.method.rpartition("/")[2]
    rank = METHODS.index(method) if method in METHODS else len(METHODS)
    budget = float(row.budget.removeprefix("x") or "inf")
    return (*group, row.group, rank, row.method.count("/"), row.method, budget == math.inf, budget)
