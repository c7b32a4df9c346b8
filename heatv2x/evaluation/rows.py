"""How jobs and evaluations become rows of metrics.json, in the demo and in the studies."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any

import torch

from heatv2x.core.workers import Tell
from heatv2x.evaluation.results import Evaluation
from heatv2x.evaluation.roster import Roster
from heatv2x.model.collaboration import Collaboration


def cost_of(record: dict[str, Any], seconds: float | None = None, cumulative: int | None = None) -> dict[str, Any]:
    """The cost columns of a row.

    Args:
        record: of the job that ended in this row.
        seconds: CPU seconds in all, if the job was not the only one.
        cumulative: distinct values trained in all, if the job was not the only one.
    """
    return {
        "trained_parameters": record["trained_parameters"],
        "cumulative_parameters": record["trained_parameters"] if cumulative is None else cumulative,
        "train_seconds": round(record["seconds"] if seconds is None else seconds, 2),
        "train_wall_seconds": record["wall_seconds"],
        "peak_memory_mb": record["peak_memory_mb"],
    }


def to_row(
    name: str,
    newcomer: str,
    roster: Roster,
    seed: int,
    evaluation: Evaluation,
    model: Collaboration,
    cost: dict[str, Any],
) -> dict[str, Any]:
    """One row of metrics.json."""
    empty = {"trained_parameters": 0, "cumulative_parameters": 0, "train_seconds": None, "train_wall_seconds": None}
    about = {"name": name, "newcomer": newcomer, "ego_type": roster.ego, "seed": seed}
    return {
        **about,
        **evaluation.to_row(model.payload),
        **empty,
        "provenance_seconds": None,
        "peak_memory_mb": None,
        **cost,
    }


def stage_of(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """What a report shows of one training."""
    curve = [
        {"step": p["step"], "seconds": p["cpu_seconds"], **{k: p[k] for k in ("loss", "ap50") if k in p}}
        for p in record["curve"]
    ]
    return {
        "name": name,
        "cpu_seconds": record["seconds"],
        "wall_seconds": record["wall_seconds"],
        "trained_parameters": record["trained_parameters"],
        "steps": record["steps"],
        "curve": curve,
        "frozen_proof": record["frozen_proof"],
    }


class OneBar:
    """Progress over several evaluations as one bar."""

    def __init__(self, tell: Tell, what: str) -> None:
        self.tell, self.what, self.finished = tell, what, 0

    def of(self, rows: int) -> Callable[[int, int], None]:
        """Progress of the next of `rows` evaluations."""
        before = self.finished
        self.finished += 1
        return lambda done, total: self.tell(self.what, before * total + done, rows * total)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "bfloat16": bool(bf16),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads_per_process": 1,
    }
