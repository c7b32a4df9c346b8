"""Rows of several evaluations in one table, after a look at whether they may be compared.

Average precisions of different protocols, frames or ground truth are different quantities, whatever their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heatv2x.core.files import read_json
from heatv2x.errors import ConfigError, DataError

FILE = "metrics.json"


def read_rows(runs: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of some run folders, named after the folders, and why they may not be compared.

    Args:
        runs: folders that `heatv2x eval` or the demo has written, or their metrics.json.

    Raises:
        ConfigError: no folder was given.
        DataError: a folder has no metrics.json, or it holds no rows.
    """
    if not runs:
        raise ConfigError("no folder was given; name those of the evaluations: heatv2x table runs/eval_a runs/eval_b")
    rows: list[dict[str, Any]] = []
    grounds: dict[str, dict[str, str]] = {}
    for run in runs:
        path = run / FILE if run.is_dir() else run
        content = read_json(path)
        found = content.get("rows") if isinstance(content, dict) else None
        if not found or not all(isinstance(row, dict) and "ap" in row and "name" in row for row in found):
            raise DataError(
                path, "holds no rows of an evaluation", way_out="evaluate again: heatv2x eval ... out=FOLDER"
            )
        label = str(path.parent if path.name == FILE else path)
        for row in found:
            rows.append({**row, "name": label if len(found) == 1 else f"{label} {row['name']}"})
            for name, value in _ground(row, content).items():
                grounds.setdefault(name, {}).setdefault(value, label)
    return rows, [_difference(name, values) for name, values in grounds.items() if len(values) > 1]


def _ground(row: dict[str, Any], content: dict[str, Any]) -> dict[str, str]:
    """What two rows must share to be compared."""
    protocol = row.get("protocol")
    settings = content.get("settings") or {}
    return {
        "protocol": f"{protocol.get('name')}, {protocol}" if isinstance(protocol, dict) else "unknown",
        "data": str(content.get("data_fingerprint", "unknown")),
        "split": str(settings.get("split", "unknown")),
        "frames": str(row.get("n_frames", "unknown")),
        "ground truth": str(row.get("n_ground_truth", "unknown")),
    }


def _difference(name: str, values: dict[str, str]) -> str:
    shown = " and ".join(f"{value[:40]} in {label}" for value, label in list(values.items())[:2])
    return f"the rows differ in their {name} ({shown}): do not compare their numbers"
